"""Opening a gateway: what is built, what is refused and in which words, and that all of it is closed."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.bootstrap import keys, open_gateway, seats
from gateway.chat import Caller
from gateway.config import Config
from gateway.errors import ConfigError, Unauthorized
from gateway.keys.key import Grant
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from students.engine import Ability
from students.errors import Unavailable
from students.guard import Guard
from students.llamacpp import LlamaCpp
from students.openai_api import OpenAIApi
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

SECRET = "sk-5ecret-4f9a1c"


async def test_a_gateway_removes_by_itself_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.retention.FIRST", 0.0)
    ledger = {"url": f"sqlite:///{tmp_path}/ledger.db", "keep_days": 400}
    first = await SqlLedger.open(str(ledger["url"]))
    old = Entry("old", 1e9, "m", "*", "teacher", "", "x", "ok", True, [], None)
    for each in (old, replace(old, request_id="young", at=time.time())):
        await first.settle(each)
    await first.aclose()
    config = Config.parse(
        {"ledger": ledger, "upstreams": {"teacher": {"kind": "scripted", "model": "m"}}, "routes": {}}
    )
    async with open_gateway(config, environ={}) as gateway:
        for _ in range(500):
            if await gateway.ledger.entry("old") is None:
                break
            await asyncio.sleep(0.02)
        assert [each["request_id"] for each in await gateway.ledger.entries()] == ["young"]
        assert (await gateway.ledger.savings())[0].requests == 2


class Told(Scripted):
    """An engine that tells when it was closed and what its probe finds."""

    def __init__(self, name: str, journal: list[str], *, proves: Ability | Exception | None = None) -> None:
        super().__init__(name)
        self._journal = journal
        self._proves = proves

    async def ready(self) -> Ability:
        self._journal.append(f"ready {self.name}")
        if isinstance(self._proves, Exception):
            raise self._proves
        if self._proves is not None:
            self.abilities = self._proves
        return self.abilities

    async def aclose(self) -> None:
        self._journal.append(f"close {self.name}")
        await super().aclose()


def parse(**config: Any) -> Config:
    return Config.parse({"ledger": {"url": "sqlite://"}, **config})


def paid(**fields: Any) -> dict[str, Any]:
    return {"kind": "openai_api", "model": "gpt-6-sol", "api_key_env": "TEACHER_KEY", **fields}


SPOKEN = {"kind": "scripted", "says": "Hi."}
SOLO = {"gkt": {"strategy": "student", "student": "student"}}


class TestSeats:
    def test_a_key_seats_the_model_itself(self) -> None:
        upstreams = seats(Config(), {"OPENAI_API_KEY": SECRET}, {})
        teacher, student = upstreams["teacher"], upstreams["student"]
        assert isinstance(teacher.engine, Guard)
        assert isinstance(student.engine, Guard)
        assert isinstance(teacher.engine.engine, OpenAIApi)
        assert isinstance(student.engine.engine, LlamaCpp)
        assert (teacher.stand_in, teacher.model, teacher.seller) == (None, "gpt-6-sol", "openai")
        assert (student.stand_in, student.model, student.seller) == (None, "smollm2-135m-instruct", "self")
        assert SECRET not in repr(upstreams)

    @pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": "  "}])
    def test_without_it_the_stand_in_sits_there_under_the_models_name(self, environ: dict[str, str]) -> None:
        upstreams = seats(Config(), environ, {})
        teacher, student = upstreams["teacher"], upstreams["student"]
        assert teacher.engine is student.engine
        assert (teacher.stand_in, teacher.model, teacher.seller) == ("student", "gpt-6-sol", "openai")

    def test_limits_are_the_configured_models_own(self) -> None:
        config = parse(
            upstreams={"a": paid(max_output=77, deadlines={"total": 12}, api_key_env=None), "student": SPOKEN},
            routes=SOLO,
        )
        upstreams = seats(config, {}, {})
        assert (upstreams["a"].max_output, upstreams["a"].max_seconds) == (77, 12.0)
        assert upstreams["student"].max_seconds == 600.0

    def test_a_missing_key_without_a_stand_in_is_named_by_its_variable(self) -> None:
        config = parse(upstreams={"teacher": paid(), "student": SPOKEN}, routes=SOLO)
        with pytest.raises(ConfigError, match=r"upstream 'teacher'.*TEACHER_KEY is not set") as caught:
            seats(config, {"OTHER": SECRET}, {})
        assert SECRET not in str(caught.value)

    def test_a_stand_in_that_has_no_key_either(self) -> None:
        config = parse(
            upstreams={"teacher": paid(stand_in="other"), "other": paid(api_key_env="OTHER_KEY"), "student": SPOKEN},
            routes=SOLO,
        )
        with pytest.raises(ConfigError, match="OTHER_KEY is not set"):
            seats(config, {}, {})

    def test_engines_that_are_given_replace_the_configured(self) -> None:
        engine = Scripted("teacher")
        upstreams = seats(Config(), {}, {"teacher": engine})
        assert upstreams["teacher"].engine is engine
        assert upstreams["teacher"].stand_in is None


class TestKeys:
    def test_none_are_asked_for_unless_they_are_named(self) -> None:
        assert keys(parse(), {"GKT_KEYS": SECRET}) == []

    def test_they_are_separated_by_commas(self) -> None:
        config = parse(server={"keys_env": "GKT_KEYS"})
        assert keys(config, {"GKT_KEYS": " a , ,b,"}) == ["a", "b"]

    @pytest.mark.parametrize("value", [None, "", " , "])
    def test_named_and_not_there(self, value: str | None) -> None:
        environ = {} if value is None else {"GKT_KEYS": value}
        with pytest.raises(ConfigError, match="GKT_KEYS is not set"):
            keys(parse(server={"keys_env": "GKT_KEYS"}), environ)

    @pytest.mark.parametrize("odd", ["ключ", "a\udcffb", "a\x07b"])
    def test_one_that_no_header_can_carry(self, odd: str) -> None:
        """Such a key would never match, or not even hash; the message names the variable and not the key."""
        with pytest.raises(ConfigError, match="GKT_KEYS") as caught:
            keys(parse(server={"keys_env": "GKT_KEYS"}), {"GKT_KEYS": f"{SECRET},{odd}"})
        assert SECRET not in str(caught.value)
        assert odd not in str(caught.value)

    async def test_they_open_the_gateway(self) -> None:
        config = parse(upstreams={"student": SPOKEN}, routes=SOLO, server={"keys_env": "GKT_KEYS"})
        async with open_gateway(config, environ={"GKT_KEYS": SECRET}) as gateway:
            assert not gateway.auth.open
            assert gateway.auth.caller(f"Bearer {SECRET}").id.startswith("key-")


class TestLife:
    async def test_all_is_closed_once_and_in_reverse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        journal: list[str] = []
        opened = SqlLedger.aclose

        async def aclose(ledger: Any) -> None:
            journal.append("close ledger")
            await opened(ledger)

        monkeypatch.setattr(SqlLedger, "aclose", aclose)
        engines = {"teacher": Told("teacher", journal), "student": Told("student", journal)}
        async with open_gateway(parse(), engines=engines, environ={}):
            assert sorted(journal) == ["ready student", "ready teacher"]
            journal.clear()
        assert journal == ["close student", "close teacher", "close ledger"]  # what still ran is booked in between

    async def test_an_engine_in_two_seats_is_closed_once(self) -> None:
        journal: list[str] = []
        async with open_gateway(parse(), engines={"student": Told("student", journal)}, environ={}) as gateway:
            assert gateway.upstreams["teacher"].engine is gateway.upstreams["student"].engine
        assert journal.count("close student") == 1

    async def test_an_upstream_that_is_not_up_does_not_keep_the_gateway_down(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.readiness.LOOK_SECONDS", 0.0)
        journal: list[str] = []
        student = Told("student", journal, proves=Unavailable("not yet"))
        async with open_gateway(parse(), engines={"student": student}, environ={}) as gateway:
            assert not (await gateway.readiness())["ready"]
            student._proves = None
            assert (await gateway.readiness())["ready"]

    async def test_a_student_that_proves_unable_is_a_fault_of_the_configuration(self) -> None:
        """It claimed that it can continue a text; the probe found out, and everything was closed again."""
        journal: list[str] = []
        student = Told("student", journal, proves=Ability.SAMPLES)
        with pytest.raises(ConfigError, match=r"route 'gkt'.*'student' cannot .*placement: context"):
            async with open_gateway(parse(), engines={"student": student}, environ={}):
                pytest.fail("it opened")
        assert journal.count("close student") == 1

    async def test_the_same_student_will_do_where_guidance_is_in_its_prompt(self) -> None:
        student = Told("student", [], proves=Ability.SAMPLES)
        routes = {"gkt": {"teacher": "teacher", "student": "student", "placement": "context"}}
        async with open_gateway(parse(routes=routes), engines={"student": student}, environ={}) as gateway:
            assert gateway.models(Caller()) == ["gkt"]

    async def test_a_ledger_that_cannot_be_opened_closes_the_engines(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        journal: list[str] = []
        config = parse(ledger={"url": f"sqlite:///{tmp_path}/file/ledger.db"})
        with pytest.raises(ConfigError):
            async with open_gateway(config, engines={"student": Told("student", journal)}, environ={}):
                pytest.fail("it opened")
        assert journal == ["close student"]

    async def test_missing_callers_keys_close_everything_too(self) -> None:
        journal: list[str] = []
        config = parse(server={"keys_env": "GKT_KEYS"})
        with pytest.raises(ConfigError, match="GKT_KEYS"):
            async with open_gateway(config, engines={"student": Told("student", journal)}, environ={}):
                pytest.fail("it opened")
        assert journal == ["close student"]

    async def test_a_start_that_is_interrupted_closes_everything(self) -> None:
        journal: list[str] = []

        class Starting(Told):
            async def ready(self) -> Ability:
                await asyncio.Event().wait()
                raise AssertionError

        async def start() -> None:
            async with open_gateway(parse(), engines={"student": Starting("student", journal)}, environ={}):
                pytest.fail("it opened")

        task = asyncio.create_task(start())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert journal == ["close student"]

    async def test_what_was_written_is_there_after_a_restart(self, house: Any, tmp_path: Path) -> None:
        ledger = {"url": f"sqlite:///{tmp_path}/ledger.db"}
        async with house(student=Scripted("student", "Hi."), ledger=ledger) as home:
            told = (await home.ask("student")).receipt
        async with house(student=Scripted("student"), ledger=ledger) as home:
            entry = await home.entry()
            assert (entry["outcome"], entry["request_id"]) == ("ok", told["request_id"])


class TestCallersOwnKeys:
    """Routes that pass them on need no key of the gateway's; all others do."""

    OWN: ClassVar = {"own": {"strategy": "teacher", "teacher": "teacher", "pass_key": True}}

    def test_the_teacher_may_be_without_a_key(self) -> None:
        config = parse(upstreams={"teacher": paid(), "student": SPOKEN}, routes={**self.OWN, **SOLO})
        bare, held = seats(config, {}, {}), seats(config, {"TEACHER_KEY": SECRET}, {})
        assert (bare["teacher"].keyless, held["teacher"].keyless) == (True, False)
        assert not bare["student"].keyless

    def test_without_a_variable_there_is_no_key_either(self) -> None:
        config = parse(upstreams={"teacher": paid(api_key_env=None), "student": SPOKEN}, routes=self.OWN)
        assert seats(config, {}, {})["teacher"].keyless

    @pytest.mark.parametrize(
        "route",
        [
            {"strategy": "teacher", "teacher": "teacher"},
            {"strategy": "cut-off", "teacher": "teacher", "student": "student", "placement": "context"},
            {"strategy": "student", "student": "teacher"},
            {"strategy": "teacher", "teacher": "held"},
        ],
    )
    def test_a_route_that_needs_the_gateways_own_is_named(self, route: dict[str, Any]) -> None:
        upstreams = {
            "teacher": paid(),
            "held": paid(api_key_env="OTHER_KEY", stand_in="teacher"),
            "student": SPOKEN,
        }
        config = parse(upstreams=upstreams, routes={**self.OWN, "ours": route})
        with pytest.raises(ConfigError, match=r"route 'ours' asks upstream .* with a key of the gateway's own"):
            seats(config, {}, {})
        seats(config, {"TEACHER_KEY": SECRET}, {})

    def test_a_baseline_asks_nobody(self) -> None:
        named = {"strategy": "student", "teacher": "teacher", "student": "student"}
        config = parse(upstreams={"teacher": paid(), "student": SPOKEN}, routes={**self.OWN, "free": named})
        assert seats(config, {}, {})["teacher"].keyless


class TestStoredKeys:
    async def test_they_open_the_gateway_and_close_it_to_others(self) -> None:
        config = parse(upstreams={"student": SPOKEN}, routes=SOLO)
        async with open_gateway(config, environ={}) as gateway:
            assert gateway.auth.caller(None).id == "anonymous"
            key, secret = await gateway.keys.create(Grant(name="k", models=("gk?",)))
            assert gateway.auth.caller(f"Bearer {secret}").id == key.id
            with pytest.raises(Unauthorized):
                gateway.auth.caller(None)
            assert gateway.models(gateway.auth.caller(f"Bearer {secret}")) == ["gkt"]

    async def test_a_key_lists_what_it_may_ask_for(self) -> None:
        routes = {**SOLO, "other": SOLO["gkt"], "*": SOLO["gkt"]}
        async with open_gateway(parse(upstreams={"student": SPOKEN}, routes=routes), environ={}) as gateway:
            narrow = Caller(models=("oth*", "x-*"))
            assert gateway.models(narrow) == ["other"]
            assert [gateway.knows(name, narrow) for name in ("gkt", "other", "x-1", "y-1")] == [
                False,
                True,
                True,
                False,
            ]


class TestSpool:
    async def test_it_lies_where_the_configuration_says(self, tmp_path: Path) -> None:
        folder = tmp_path / "spool"
        ledger = {"url": f"sqlite:///{tmp_path}/ledger.db", "spool": str(folder)}
        async with open_gateway(parse(upstreams={"student": SPOKEN}, routes=SOLO, ledger=ledger), environ={}):
            assert len(os.listdir(folder)) == 1
        assert os.listdir(folder) == []
        ledger["spool_bytes"] = "0"
        async with open_gateway(parse(upstreams={"student": SPOKEN}, routes=SOLO, ledger=ledger), environ={}):
            assert os.listdir(folder) == []
