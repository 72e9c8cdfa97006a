"""What Prometheus is told over HTTP: by one process, by two that share a folder, and to whom."""

from __future__ import annotations

import contextlib
import http.client
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.e2e.answers import ask
from tests.e2e.gateways import KEY_ENV, PRICES, routes
from tests.e2e.served import eventually, serving
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served

KEYS = {"GKT_E2E_KEYS": "sk-caller", "GKT_E2E_ADMIN": "sk-admin"}
KEYED = {"keys_env": "GKT_E2E_KEYS"}
ADMIN = {"admin_key_env": "GKT_E2E_ADMIN"}


def base(fakes: Fakes, **server: Any) -> dict[str, Any]:
    return {
        "server": server,
        "upstreams": {"teacher": fakes.teachers_spec(), "student": fakes.students_spec()},
        "routes": routes(),
        "prices": PRICES,
    }


def status(served: Served, key: str | None = None) -> int:
    address = urlsplit(served.url)
    with contextlib.closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)) as connection:
        connection.request("GET", "/metrics", headers={} if key is None else {"Authorization": f"Bearer {key}"})
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("server", "statuses"),
    [
        ({}, (200, 200, 200)),
        (KEYED, (403, 403, 403)),
        ({**KEYED, **ADMIN}, (401, 401, 200)),
        ({**KEYED, **ADMIN, "open_metrics": True}, (200, 200, 200)),
        ({**KEYED, "open_metrics": True}, (200, 200, 200)),
        (ADMIN, (401, 401, 200)),
    ],
)
def test_who_may_scrape(server: dict[str, Any], statuses: tuple[int, ...], tmp_path: Path, own: Fakes) -> None:
    """Nobody's key, a caller's, the admin's."""
    with serving(tmp_path, base(own, **server), **KEYS, **{KEY_ENV: OpenAI.KEY}) as served:
        assert tuple(status(served, key) for key in (None, "sk-caller", "sk-admin")) == statuses


def test_answers_refusals_and_readiness_are_told(tmp_path: Path, own: Fakes) -> None:
    config = base(own, max_body_bytes=2000)
    with serving(tmp_path, config, **{KEY_ENV: OpenAI.KEY}) as served:
        answer = ask(served, "item-a", model="gkt")
        with pytest.raises(openai.NotFoundError):
            ask(served, "item-b", model="nobody")
        with pytest.raises(openai.APIStatusError):
            ask(served, "item-c" + "x" * 3000, model="gkt")
        assert served.sample("gkt_requests_total", model="gkt", strategy="cut-off", outcome="ok") == 1
        assert served.sample("gkt_requests_total") == 1
        assert served.sample("gkt_refused_requests_total", status="404") == 1
        assert served.sample("gkt_refused_requests_total", status="413") == 1
        spent = float(answer.receipt["cost_usd"])
        assert served.sample("gkt_cost_usd_total") == pytest.approx(spent, abs=1e-12)
        assert served.sample("gkt_upstream_ready", upstream="teacher") == 1
        assert served.sample("gkt_upstream_ready") == 2


def test_two_processes_are_one_to_whoever_scrapes_either(tmp_path: Path, own: Fakes) -> None:
    """Each has its own ledger's file here, so that only the shared folder can tell one of the other."""
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared"), KEY_ENV: OpenAI.KEY}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    own.student.paces["item-slow"] = (0.0, 0.3)
    with serving(folders[0], base(own), **shared) as one, serving(folders[1], base(own), **shared) as two:
        for number in range(3):
            ask(one, f"item-a{number}", model="gkt")
        ask(two, "item-b", model="gkt")
        for served in (one, two):
            assert served.sample("gkt_requests_total", outcome="ok") == 4
            assert served.sample("gkt_stage_duration_seconds_count", stage="guidance") == 4
            assert served.sample("gkt_upstream_ready", upstream="student") == 1
        messages: Any = [{"role": "user", "content": "item-slow"}]
        stream: Any = two.sdk.chat.completions.create(model="gkt", messages=messages, stream=True)
        next(stream)
        assert one.sample("gkt_requests_in_flight") == 1
        two.process.kill()
        two.process.wait()
        eventually(lambda: one.sample("gkt_requests_in_flight") == 0)
        assert one.sample("gkt_requests_total", outcome="ok") == 4
        ask(one, "item-c", model="gkt")
        assert one.sample("gkt_requests_total", outcome="ok") == 5
