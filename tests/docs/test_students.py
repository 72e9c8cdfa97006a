"""Every configuration in "Bring your own student" that names a kind of server comes to a guided answer on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
import yaml

from docs.pages import ROOT
from gateway.bootstrap import open_gateway
from gateway.config import Config
from students.servers import SERVERS, ServerKind
from tests.fake_servers import CHATML, COUNT, STUDENTS, spec
from tests.fakes import served
from tests.gateway.conftest import House

pytestmark = pytest.mark.anyio

PAGE = (ROOT / "docs" / "students.md").read_text("utf-8")
ASK = [{"role": "user", "content": "Count from 1 to 30, separated by commas."}]


def shown() -> Iterator[tuple[ServerKind, dict[str, Any]]]:
    """The upstreams of the page's configurations that name their server, as they are written."""
    for found in re.finditer(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for written in yaml.safe_load(found.group(1))["upstreams"].values():
            if written.get("server") in STUDENTS:
                yield cast("ServerKind", written["server"]), written


def test_every_kind_of_server_is_shown() -> None:
    assert {kind for kind, _ in shown()} == set(STUDENTS)


@pytest.mark.parametrize(("kind", "written"), [pytest.param(*each, id=each[0]) for each in shown()])
async def test_it_comes_to_a_guided_answer(kind: ServerKind, written: dict[str, Any]) -> None:
    """The strict fake in the place of the server, and its template in the place of a tokenizer's; else as written."""
    async with served(STUDENTS[kind]()) as fake:
        student = {**written, "base_url": spec(fake).base_url}
        if student.pop("tokenizer", None) is not None:
            assert SERVERS[kind].prefill == "raw_completion"
            student["chat_template"] = CHATML
        teacher = {"kind": "scripted", "model": "teacher", "says": COUNT}
        route = {"strategy": "cut-off", "teacher": "teacher", "student": "student", "guidance_tokens": 5}
        upstreams = {"teacher": teacher, "student": student}
        config = Config.parse({"ledger": {"url": "sqlite://"}, "upstreams": upstreams, "routes": {"gkt": route}})
        key = {student["api_key_env"]: "a key"} if "api_key_env" in student else {}
        async with open_gateway(config, environ=key) as gateway:
            state = (await gateway.readiness())["upstreams"]["student"]
            assert state["continues"]["proven"]
            assert state["continues"]["prefill"] == SERVERS[kind].prefill
            answer = await House(gateway).ask(messages=ASK, max_tokens=12)
    assert [call.stage for call in answer.exchange.calls] == ["guidance", "answer"]
    told = answer.exchange.calls[1].prompt
    assert told is not None
    assert COUNT.startswith(told.prefix)
    assert len(told.prefix) > 10
    assert len(answer.text) > len(told.prefix)
    assert COUNT.startswith(answer.text), "the student went on from exactly there"
