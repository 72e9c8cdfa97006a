"""Reload: what can change changes as a whole, what cannot is named, and a broken file changes nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import reload
from gateway.chat import Caller
from gateway.config import Config
from gateway.errors import Busy, ConfigError, NotFound
from gateway.reload import LIVE, Reloader, applicable, stamps
from students.engine import Ability, Finish
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

BASE: dict[str, Any] = {"ledger": {"url": "sqlite://"}}


def config(**sections: Any) -> Config:
    return Config.parse({**BASE, **sections})


class TestPolicy:
    def test_prices_routes_rules_and_limits_apply(self) -> None:
        routes = {"new": {"strategy": "student", "student": "student"}}
        wanted = config(
            routes=routes,
            prices={"m": {"input": 1}},
            unguidable={"tools": "refuse"},
            baseline={"length_ratio_high": 3},
            server={"max_in_flight": 3, "max_body_bytes": 5000, "open_metrics": True},
        )
        applied, waiting = applicable(config(), wanted)
        assert applied == wanted
        assert not waiting

    def test_what_needs_a_restart_is_named_and_kept(self) -> None:
        running = config()
        wanted = config(
            server={"host": "127.0.0.2", "port": 1, "keys_env": "K", "drain_seconds": 1, "max_in_flight": 7},
            ledger={"url": "sqlite:///secret-place.db", "store_text": True},
            telemetry={"traces": True},
            upstreams={
                "teacher": {"kind": "scripted"},
                "student": running.upstreams["student"],
                "more": {"kind": "scripted"},
            },
        )
        applied, waiting = applicable(running, wanted)
        assert waiting == [
            "server.host",
            "server.port",
            "server.keys_env",
            "server.drain_seconds",
            "ledger.url",
            "ledger.store_text",
            "telemetry.traces",
            "upstreams.teacher",
            "upstreams.more",
        ]
        assert applied.server.max_in_flight == 7
        assert applied == running.model_copy(update={"server": running.server.model_copy(update={"max_in_flight": 7})})

    def test_a_route_to_a_model_that_is_not_there_yet(self) -> None:
        wanted = config(
            upstreams={"more": {"kind": "scripted"}}, routes={"m": {"strategy": "teacher", "teacher": "more"}}
        )
        with pytest.raises(ConfigError, match=r"'more' is not among the upstreams.*only a restart.*upstreams\.more"):
            applicable(config(), wanted)

    def test_a_route_to_a_model_that_the_file_no_longer_has_cannot_be_written(self) -> None:
        """The running upstreams count, but the file must be whole in itself: it is what the next start reads."""
        with pytest.raises(ConfigError):
            config(upstreams={"student": {"kind": "scripted"}})

    def test_every_section_is_decided(self) -> None:
        """A new section either needs a restart, or the gateway takes it up in `reload`."""
        taken_up = {"routes", "prices", "prompts", "unguidable", "baseline", "limits"}
        assert set(Config.model_fields) == {"server", *reload.FIXED, *taken_up}
        assert set(type(config().server).model_fields) >= LIVE


def teacher() -> Scripted:
    return Scripted("teacher", "one two three four")


def student(**how: Any) -> Scripted:
    return Scripted("student", " five six seven", abilities=Ability.CONTINUE, **how)


class TestGateway:
    async def test_new_requests_have_the_new_rules_and_running_ones_the_old(self, house: Any, tmp_path: Path) -> None:
        """The running one was planned with a prompt and a route that are gone when it is booked."""
        text = tmp_path / "brief.md"
        text.write_text("Be brief.")
        old = {"prompts": {"brief": str(text)}, "prices": {"smollm2-135m-instruct": {"input": 0, "output": 1_000_000}}}
        route = {"strategy": "concise", "guidance_prompt": "brief", "guidance_tokens": 2}
        async with house(teacher=teacher(), student=student(), route=route, **old) as home:
            exchange = home.open("gkt")
            async with aclosing(home.gateway.answer(exchange)) as events:
                await anext(events)
                home.gateway.reload(
                    config(
                        routes={"other": {"strategy": "student", "student": "student"}},
                        prices={"smollm2-135m-instruct": {"input": 0, "output": 2_000_000}},
                    )
                )
                rest = [event async for event in events]
            assert isinstance(rest[-1], Finish)
            assert exchange.receipt is not None
            assert exchange.receipt["stages"][1]["cost_usd"] == "3"  # three tokens at the old dollar each
            assert home.gateway.models(Caller()) == ["other"]
            with pytest.raises(NotFound):
                home.open("gkt", request_id="c2")
            answer = await home.ask("other", request_id="c3")
            assert answer.receipt["stages"][0]["cost_usd"] == "6"

    async def test_a_teacher_without_a_key_is_not_made_to_measure(self, house: Any) -> None:
        """As at start: else a request that is held out would be answered 401, for a key that its caller never had."""
        async with house(teacher=teacher(), student=student(), route={}) as home:
            keyless = replace(home.gateway.upstreams["teacher"], keyless=True)
            home.gateway.upstreams["teacher"] = keyless
            before = home.gateway.config
            own = {"strategy": "student", "teacher": "teacher", "student": "student"}
            with pytest.raises(ConfigError, match="own expense"):
                home.gateway.reload(config(routes={"gkt": {**own, "holdout": 0.5}}))
            with pytest.raises(ConfigError, match="it has none"):
                home.gateway.reload(config(routes={"gkt": {**own, "strategy": "cut-off"}}))
            assert home.gateway.config is before

    async def test_a_request_that_is_planned_but_not_begun_keeps_its_rules(self, house: Any, tmp_path: Path) -> None:
        text = tmp_path / "brief.md"
        text.write_text("Be brief.")
        route = {"strategy": "concise", "guidance_prompt": "brief"}
        asked = teacher()
        async with house(teacher=asked, student=student(), route=route, prompts={"brief": str(text)}) as home:
            exchange = home.open("gkt")
            home.gateway.reload(config())
            async with aclosing(home.gateway.answer(exchange)) as events:
                assert isinstance([event async for event in events][-1], Finish)
            assert "Be brief." in str(asked.prompts[-1].messages)

    async def test_limits(self, house: Any) -> None:
        async with house(teacher=teacher(), student=student(hang_after=0)) as home:
            task = asyncio.create_task(anext(home.gateway.answer(home.open("student"))))
            await asyncio.sleep(0.02)
            home.gateway.reload(config(server={"max_in_flight": 1}))
            with pytest.raises(Busy, match="already answers 1"):
                home.open("student", request_id="c2")
            home.gateway.reload(config(server={"max_in_flight": 2}))
            home.open("student", request_id="c3")
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def test_a_route_that_cannot_work_changes_nothing(self, house: Any) -> None:
        mute = Scripted("student", "x", abilities=Ability.NONE)
        async with house(teacher=teacher(), student=mute, route={"strategy": "student"}) as home:
            before = home.gateway.config
            with pytest.raises(ConfigError, match="continues a given text"):
                home.gateway.reload(config())
            with pytest.raises(ConfigError, match="cannot read"):
                home.gateway.reload(config(routes=before.routes, prompts={"brief": "/nowhere/brief.md"}))
            assert home.gateway.config is before
            assert (await home.ask("gkt")).text == "x"

    async def test_the_catalogues_are_not_read_again(self, house: Any) -> None:
        async with house(teacher=teacher(), student=student()) as home:
            before = home.gateway.book.price("gpt-6-luna")
            home.gateway.reload(config(prices={"gpt-6-sol": {"input": 7}}))
            assert home.gateway.book.price("gpt-6-luna") == before
            assert home.gateway.book._catalogs[1] is not None
            sol = home.gateway.book.price("gpt-6-sol")
            assert sol is not None
            assert sol.source == "config"


class Watched:
    """A `Reloader` that looks every few milliseconds, over a file of the test's own, and the log that it writes."""

    def __init__(self, gateway: Any, file: Path) -> None:
        self.file = file
        self.reloader = Reloader(gateway, lambda: Config.load(file), file, stamps([file]), every=0.02)
        self.lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def __getattr__(self, level: str) -> Any:
        """The logger's methods."""
        return lambda event, **told: self.lines.put_nowait({"level": level, "event": event, **told})

    def write(self, **sections: Any) -> None:
        self.file.write_text(yaml.safe_dump({**BASE, **sections}))

    async def until(self, event: str) -> dict[str, Any]:
        """The next line of the log that says so."""
        async with asyncio.timeout(5):
            while True:
                line = await self.lines.get()
                if event in line["event"]:
                    return line


class TestWatching:
    @pytest.fixture
    async def watched(self, house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        file = tmp_path / "gkt.yaml"
        file.write_text(yaml.safe_dump(BASE))
        async with house(teacher=teacher(), student=student()) as home:
            watched = Watched(home.gateway, file)
            monkeypatch.setattr(reload, "log", watched)
            task = asyncio.create_task(watched.reloader.run())
            await asyncio.sleep(0.05)
            yield home, watched
            task.cancel()

    def outcomes(self, home: Any) -> dict[str, float]:
        text = home.gateway.metrics.text()[0].decode()
        found = [line for line in text.splitlines() if line.startswith("gkt_config_reload_total{")]
        return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in found}

    async def test_a_change_is_taken_up_once(self, watched: Any) -> None:
        home, watch = watched
        watch.write(server={"max_in_flight": 5})
        line = await watch.until("was reloaded")
        assert line["changed"] == ["server"]
        assert home.gateway.config.server.max_in_flight == 5
        await asyncio.sleep(0.1)
        assert self.outcomes(home) == {"applied": 1, "partial": 0, "rejected": 0}

    async def test_a_broken_file_keeps_the_old_one_and_says_so_once(self, watched: Any) -> None:
        home, watch = watched
        before = home.gateway.config
        watch.file.write_text("server: {max_in_flight: [")
        line = await watch.until("cannot be used")
        assert "gkt.yaml is not YAML" in line["error"]
        assert home.gateway.config is before
        watch.write(servr={})
        assert "did you mean 'server'" in (await watch.until("cannot be used"))["error"]
        await asyncio.sleep(0.1)
        assert self.outcomes(home) == {"applied": 0, "partial": 0, "rejected": 2}
        watch.write(server={"max_in_flight": 6})
        await watch.until("was reloaded")
        assert home.gateway.config.server.max_in_flight == 6

    async def test_a_new_policy_is_used_and_a_broken_one_is_not(self, watched: Any, tmp_path: Path) -> None:
        home, watch = watched
        policy = tmp_path / "policy.yaml"
        rung = {"student": "small", "gain": {"one": 1.0}, "cost": {"one": 1.0}}
        made = {"name": "sums", "teacher": {"model": "big"}, "worth": 0.1, "prefer": ["small"], "rungs": [rung]}
        policy.write_text(yaml.safe_dump(made))
        route = {"strategy": "cascade", "teacher": "teacher", "policy": "policy.yaml", "students": {"small": "student"}}
        watch.write(routes={"gkt": route})
        assert (await watch.until("was reloaded"))["changed"] == ["routes", "routes.gkt.policy"]
        assert "the teacher would add +1.000, worth it from 0.100" in (await home.ask()).receipt["why"]
        policy.write_text(yaml.safe_dump({**made, "worth": 2.5}))
        assert (await watch.until("was reloaded"))["changed"] == ["routes.gkt.policy"]
        assert (await home.ask(request_id="c2")).text == " five six seven", "now the draft is good enough"
        policy.write_text("rungs: []")
        said = (await watch.until("cannot be used"))["error"]
        assert said.startswith("route 'gkt': the policy policy.yaml cannot be used")
        assert (await home.ask(request_id="c3")).text == " five six seven"
        policy.unlink()
        assert "cannot be read" in (await watch.until("cannot be used"))["error"]
        policy.write_text(yaml.safe_dump(made))
        await watch.until("was reloaded")
        assert (await home.ask(request_id="c4")).text == "one two three four"

    async def test_a_password_in_a_broken_file_is_not_logged(self, watched: Any) -> None:
        _, watch = watched
        watch.file.write_text("ledger: {url: 'postgresql://me:s3cret@db/x', queue: [}")
        line = await watch.until("cannot be used")
        assert "s3cret" not in str(line)
        assert "line 1, column" in line["error"]

    @pytest.mark.parametrize("text", ["since: 2026-02-30 # s3cret", "since: !!int s3cret", "[" * 1500])
    async def test_what_no_value_can_be_made_of_is_refused_as_any_fault(self, watched: Any, text: str) -> None:
        home, watch = watched
        before = home.gateway.config
        watch.file.write_text(text)
        line = await watch.until("the")
        assert line["event"] == "the configuration cannot be used; the old one stays"
        assert "is not YAML" in line["error"]
        assert "s3cret" not in str(line)
        assert home.gateway.config is before

    async def test_an_empty_or_missing_file_is_not_the_defaults(self, watched: Any) -> None:
        home, watch = watched
        before = home.gateway.config
        watch.file.write_text("\n")
        assert "is empty" in (await watch.until("cannot be used"))["error"]
        watch.file.write_text("# server:\n#   max_in_flight: 5\n")
        assert "nothing but comments" in (await watch.until("cannot be used"))["error"]
        watch.file.unlink()
        assert "cannot read" in (await watch.until("cannot be used"))["error"]
        assert home.gateway.config is before

    async def test_a_file_that_is_still_being_written_is_waited_for(self, watched: Any) -> None:
        home, watch = watched
        for number in range(30):
            watch.file.write_text("server: {max_in_flight: [" + " " * number)
            await asyncio.sleep(0.008)
        watch.write(server={"max_in_flight": 8})
        await watch.until("was reloaded")
        assert self.outcomes(home)["rejected"] == 0

    async def test_a_prompt_that_changes(self, watched: Any, tmp_path: Path) -> None:
        home, watch = watched
        text = tmp_path / "brief.md"
        text.write_text("Be brief.")
        watch.write(prompts={"concise": str(text)})
        await watch.until("was reloaded")
        text.write_text("Be terse.")
        await watch.until("was reloaded")
        assert home.gateway._rules.prompts["concise"].text == "Be terse."
        await asyncio.sleep(0.1)
        assert self.outcomes(home)["applied"] == 2  # a file that is newly watched is not a change

    async def test_a_new_prompt_that_changes_while_it_is_taken_up_is_taken_up_again(
        self, watched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, watch = watched
        text = tmp_path / "brief.md"
        text.write_text("Be brief.")
        take_up = home.gateway.reload

        def meanwhile(wanted: Config) -> None:
            take_up(wanted)
            monkeypatch.setattr(home.gateway, "reload", take_up)
            text.write_text("Be terse.")

        monkeypatch.setattr(home.gateway, "reload", meanwhile)
        watch.write(prompts={"concise": str(text)})
        await watch.until("was reloaded")
        await watch.until("was reloaded")
        assert home.gateway._rules.prompts["concise"].text == "Be terse."

    async def test_a_change_before_the_first_look_is_seen(self, house: Any, tmp_path: Path) -> None:
        """Between the start's own reading and the watch: the gateway takes its time to open."""
        file = tmp_path / "gkt.yaml"
        file.write_text(yaml.safe_dump(BASE))
        since = stamps([file])
        async with house(teacher=teacher(), student=student()) as home:
            file.write_text(yaml.safe_dump({**BASE, "server": {"max_in_flight": 5}}))
            task = asyncio.create_task(Reloader(home.gateway, lambda: Config.load(file), file, since, every=0.02).run())
            await asyncio.sleep(0.2)
            assert home.gateway.config.server.max_in_flight == 5
            task.cancel()

    async def test_told_to_reload_it_does_so_at_once_and_names_what_waits(self, watched: Any) -> None:
        home, watch = watched
        watch.write(server={"port": 1234}, ledger={"url": "sqlite:///s3cret.db"})
        watch.reloader.now()
        line = await watch.until("need a restart")
        assert line["settings"] == ["server.port", "ledger.url"]
        assert "s3cret" not in str(line)
        assert home.gateway.config.server.port == 8080
        assert self.outcomes(home) == {"applied": 0, "partial": 1, "rejected": 0}

    async def test_a_fault_of_our_own_does_not_end_the_watch(
        self, watched: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, watch = watched

        def broken(config: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(home.gateway, "reload", broken)
            watch.write(server={"max_in_flight": 9})
            await watch.until("could not be reloaded")
        watch.write(server={"max_in_flight": 10})
        await watch.until("was reloaded")
        assert home.gateway.config.server.max_in_flight == 10


async def test_without_a_file_nothing_is_watched_but_a_reload_works(house: Any) -> None:
    async with house(teacher=teacher(), student=student()) as home:
        reloader = Reloader(home.gateway, lambda: config(server={"max_in_flight": 4}), None, {}, every=0.01)
        task = asyncio.create_task(reloader.run())
        await asyncio.sleep(0.08)
        assert home.gateway.config.server.max_in_flight == 1000
        reloader.now()
        await asyncio.sleep(0.05)
        assert home.gateway.config.server.max_in_flight == 4
        task.cancel()
