"""A running gateway takes up its changed configuration: by a signal, by itself, never in the middle of an answer."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e.answers import ask, heard
from tests.e2e.gateways import KEY_ENV, PRICES, routes
from tests.e2e.served import READY, configured, eventually, serving
from tests.e2e.talkers import told
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served

Config = dict[str, Any]


def base(fakes: Fakes) -> Config:
    return {
        "upstreams": {"teacher": fakes.teachers_spec(), "student": fakes.students_spec()},
        "routes": routes(),
        "prices": PRICES,
    }


@pytest.fixture
def gateway(tmp_path: Path, own: Fakes) -> Iterator[tuple[Served, Config]]:
    """One that only this test asks, and its configuration."""
    config = base(own)
    with serving(tmp_path, config, **{KEY_ENV: OpenAI.KEY}) as served:
        yield served, config


def said(served: Served, event: str) -> list[dict[str, Any]]:
    """The lines of the log that say so."""
    return [line for line in map(json.loads, served.log().splitlines()) if event in line["event"]]


def reloads(served: Served, outcome: str) -> float:
    return served.sample("gkt_config_reload_total", outcome=outcome)


def students_price(served: Served, topic: str, model: str = "student") -> str:
    return str(ask(served, topic, model=model).receipt["stages"][0]["price"]["output"])


def test_a_price_and_a_route_change_on_sighup(gateway: tuple[Served, Config]) -> None:
    served, config = gateway
    assert students_price(served, "item-a") == "0.0777"
    with pytest.raises(openai.NotFoundError):
        ask(served, "item-b", model="fresh")
    changed = {
        **config,
        "prices": {**PRICES, "llama-3.1-8b": {"input": 1, "output": 2}},
        "routes": {"fresh": routes()["student"], "student": routes()["student"]},
    }
    served.rewrite(changed)
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(served, "applied") == 1)
    assert students_price(served, "item-c") == "2"
    assert students_price(served, "item-d", "fresh") == "2"
    with pytest.raises(openai.NotFoundError):
        ask(served, "item-e", model="gkt")
    assert [model.id for model in served.sdk.models.list().data] == ["fresh", "student"]
    (line,) = said(served, "was reloaded")
    assert set(line["changed"]) == {"routes", "prices"}


def test_a_changed_file_is_noticed(gateway: tuple[Served, Config]) -> None:
    served, config = gateway
    served.rewrite({**config, "routes": {"fresh": routes()["student"]}})
    eventually(lambda: reloads(served, "applied") == 1, within=15)
    assert ask(served, "item-a", model="fresh").text == told("item-a", "student")


def test_a_running_stream_is_unaffected(gateway: tuple[Served, Config], own: Fakes) -> None:
    """Its route, its prices and its prompt are gone before its end; it is booked as it was planned."""
    served, config = gateway
    own.student.paces["item-slow"] = (0.0, 0.15)
    messages: Any = [{"role": "user", "content": "Tell me about item-slow."}]
    stream: Any = served.sdk.chat.completions.create(model="gkt-concise", messages=messages, stream=True)
    chunks = [next(stream), next(stream)]
    prices = {"gpt-6-sol": {"input": 9, "output": 9}, "llama-3.1-8b": {"input": 9, "output": 9}}
    served.rewrite({**config, "routes": {"fresh": routes()["student"]}, "prices": prices})
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(served, "applied") == 1)
    assert served.sample("gkt_requests_in_flight") == 1
    answer = heard([*chunks, *stream])
    assert answer.text == told("item-slow")
    assert answer.stage("guidance")["price"]["output"] == "10"
    assert answer.stage("answer")["price"]["output"] == "0.0777"
    assert served.entry(answer.id)["outcome"] == "ok"
    assert students_price(served, "item-next", "fresh") == "9"


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("routes: {gkt: [", "is not YAML"),
        ({"routs": {}}, "did you mean 'routes'?"),
        ({"routes": {"x": {"strategy": "teacher"}}}, "needs a teacher"),
    ],
)
def test_a_broken_file_keeps_the_old_configuration_and_says_so(
    broken: Config | str, complaint: str, gateway: tuple[Served, Config]
) -> None:
    served, config = gateway
    served.rewrite(broken if isinstance(broken, str) else {**config, **broken})
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(served, "rejected") == 1)
    (line,) = said(served, "the old one stays")
    assert complaint in line["error"]
    assert line["level"] == "error"
    assert ask(served, "item-a", model="gkt").text == told("item-a")
    assert reloads(served, "applied") == 0


def test_what_needs_a_restart_is_named_and_not_done(gateway: tuple[Served, Config], own: Fakes) -> None:
    served, config = gateway
    own.teacher.asked.clear()
    changed = {
        **config,
        "server": {"port": 1, "host": "127.0.0.2", "max_in_flight": 50},
        "ledger": {"url": "sqlite:///elsewhere.db"},
        "upstreams": {
            **config["upstreams"],
            "teacher": own.teachers_spec(model="gpt-6-luna"),
            "third": config["upstreams"]["student"],
        },
    }
    served.rewrite(changed)
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(served, "partial") == 1)
    (line,) = said(served, "need a restart")
    # The port was given on the command line, which still holds.
    assert line["settings"] == ["server.host", "ledger.url", "upstreams.teacher", "upstreams.third"]
    assert line["level"] == "warning"
    ask(served, "item-a", model="gkt")
    assert {body["model"] for body in own.teacher.asked} == {"gpt-6-sol"}
    assert not (served.folder / "elsewhere.db").exists()


def test_a_closed_terminal_ends_it(tmp_path: Path, own: Fakes) -> None:
    """SIGHUP from a terminal that is gone is no wish for a reload: nobody is left who could stop it."""
    file = tmp_path / "gkt.yaml"
    file.write_text(configured(tmp_path, base(own)))
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", "--config", str(file)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ[KEY_ENV] = OpenAI.KEY
        os.execv(sys.executable, command)  # noqa: S606 - the child of a terminal cannot be started otherwise
    heard = b""
    while READY.encode() not in heard:
        heard += os.read(terminal, 4096)
    os.close(terminal)
    ended: list[int] = []

    def over() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(status)
        return found == pid

    try:
        eventually(over)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(ended[-1]) in (0, 1)


def test_sighup_before_it_is_ready_does_not_end_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import asyncio, os, signal, sys\n"
            "from gateway.cli import hosting, serve\n"
            "from gateway.config import Config\n"
            "from contextlib import asynccontextmanager\n"
            "@asynccontextmanager\n"
            "async def hosted(config, sock):\n"
            "    os.kill(os.getpid(), signal.SIGHUP)\n"
            "    await asyncio.sleep(0.2)\n"
            "    print('alive')\n"
            "    raise SystemExit(0)\n"
            "    yield\n"
            "hosting.hosted = hosted\n"
            "asyncio.run(serve._serve(Config(), None, None))\n",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "alive\n", done.stderr
