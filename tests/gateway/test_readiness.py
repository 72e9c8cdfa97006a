"""What `/readyz` says of a model that runs in a process of its own."""

from __future__ import annotations

import sys
from contextlib import aclosing

import pytest

from gateway.config import Config
from gateway.metrics import Metrics
from gateway.readiness import Readiness
from gateway.upstreams import Upstream
from students.managed import Managed
from students.scripted import Scripted
from students.spec import ManagedSpec

pytestmark = pytest.mark.anyio


async def test_the_state_of_a_process_stands_beside_its_upstream() -> None:
    program = "import sys; sys.exit(7)"
    spec = ManagedSpec.model_validate({"model": "m", "command": [sys.executable, "-S", "-c", program, "{port}"]})
    async with aclosing(Managed("own", spec)) as engine, aclosing(Scripted("inner", "Hi.")) as other:
        upstreams = {
            each.name: Upstream(each.name, each, each.model, max_output=10, max_seconds=10) for each in (engine, other)
        }
        state = await Readiness(upstreams, Metrics(Config())).state()
    assert state["ready"] is False
    own = state["upstreams"]["own"]
    assert (own["ready"], own["process"]["last_exit"]) == (False, own["error"].partition(": ")[2])
    assert "code 7" in own["process"]["last_exit"]
    assert set(own["process"]) == {"state", "pid", "restarts", "last_exit", "log"}
    assert "process" not in state["upstreams"]["inner"]
