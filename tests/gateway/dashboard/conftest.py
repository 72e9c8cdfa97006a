"""A real gateway on a real SQLite file with known requests, its pages, and what a page says."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.chat import Call, Seat, Stage
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.ledger.entry import Entry
from gateway.pipeline import Gateway
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage
from students.scripted import Scripted

ADMIN = "admin-key-of-the-test"
KEY = "callers-key-of-the-test"
NASTY = "<script>alert(1)</script>&\"'"
FORMULA = '=HYPERLINK("http://x")'
PRICE = Price("gpt-6-sol", "config", input=Money.usd(2), output=Money.usd(10), row="config: gpt-6-sol")


def call(request_id: str, number: int, stage: Stage, seat: Seat, nano: int | None, at: float, **rest: Any) -> Call:
    """A call that is over, and cost `nano`; None: it has no price."""
    upstream = "teacher" if seat == "teacher" else "student"
    usage = Usage(300, 40, cached=128)
    price, money = (None, None) if nano is None else (PRICE, Money(nano))
    notional = rest.get("stand_in") is not None
    told = {"first_token": 0.25, "duration": 1.5, "finish": "stop", "stand_in": None, **rest}
    line = Line(stage, upstream, usage, price, money, notional)
    return Call(
        f"c{number}",
        request_id,
        stage,
        seat,
        upstream,
        upstream,
        started=at,
        bound=None,
        usage=usage,
        line=line,
        **told,
    )


def entry(request_id: str, at: float, calls: Sequence[Call], **rest: Any) -> Entry:
    """A request that is over."""
    told: dict[str, Any] = {
        "model": "gpt-6-sol",
        "route": "*",
        "strategy": "cut-off",
        "why": "route *: cut-off",
        "caller": "key-aaaa",
        "outcome": "ok",
        "stream": True,
        "teacher": "teacher",
        "student": "student",
        "teacher_tokens": 40,
        "baseline": Baseline("same_length", Money(1_500_000_007), Money(2_000_000_011), Money(3_000_000_013), 160),
        "first_token": 0.25,
        "duration": 2.0,
        "visible_input": 300,
        "visible_output": 160,
        **rest,
    }
    return Entry(request_id=request_id, at=at, calls=calls, **told)


def known(now: float) -> list[Entry]:
    """Requests of the last hours; every amount has its own digits, down to the last nano-dollar."""
    made = []
    for number in range(6):
        at, name = now - 60 * number - 30, f"guided-{number}"
        pair = [
            call(name, 0, "guidance", "teacher", 100_000_001 + number, at),
            call(name, 1, "answer", "student", 20_000_003 * (number + 1), at + 0.5),
        ]
        made.append(entry(name, at, pair, caller="key-aaaa" if number % 2 else "key-bbbb"))
    at = now - 7_200
    whole = Baseline("measured", Money(500_000_009), Money(500_000_009), Money(500_000_009), 160)
    made.append(
        entry(
            "teacher-1",
            at,
            [call("teacher-1", 0, "answer", "teacher", 500_000_009, at)],
            strategy="teacher",
            baseline=whole,
            teacher_tokens=160,
            model="gkt",
        )
    )
    fell = [
        call("fallback-1", 0, "guidance", "teacher", 7, at),
        call("fallback-1", 1, "answer", "student", 5, at + 1, error="Unavailable", finish=None, first_token=None),
        call("fallback-1", 2, "fallback", "teacher", 900_000_031, at + 2),
    ]
    made.append(entry("fallback-1", at + 1, fell, wasted="reasoning"))
    made.append(
        entry(
            "unpriced-1",
            at + 2,
            [call("unpriced-1", 0, "answer", "student", None, at)],
            strategy="student",
            model=NASTY,
        )
    )
    made.append(
        entry(
            "failed-1",
            at + 3,
            [call("failed-1", 0, "guidance", "teacher", 17, at, stand_in="student")],
            outcome="failed",
            error="upstream_timeout",
            stand_in=True,
            model=FORMULA,
            caller="key-cccc",
            visible_output=None,
        )
    )
    old = now - 40 * 86_400
    made.append(entry("old-1", old, [call("old-1", 0, "answer", "student", 3, old)], strategy="hint", caller="key-old"))
    return made


def measured(answered: Sequence[Entry]) -> list[Entry]:
    """A route with holdouts, one request in five, beside what was answered."""
    drawn = []
    for number in range(100):
        at, name, held = answered[0].at - number, f"drawn-{number}", number % 5 == 0
        nano = (9_000_000 if held else 2_000_000) + number
        one = call(name, 0, "answer", "teacher" if held else "student", nano, at)
        how = {"arm": "holdout", "propensity": 0.2} if held else {"arm": "policy", "propensity": 0.8}
        drawn.append(entry(name, at, [one], route="gkt", **how))
    return [*answered, *drawn]


@dataclass
class Pages:
    """The dashboard of one gateway, and a browser's session with it."""

    gateway: Gateway
    http: httpx.AsyncClient
    entries: list[Entry] = field(default_factory=list)

    async def log_in(self, key: str = ADMIN) -> httpx.Response:
        return await self.http.post(f"{PATH}/login", data={"key": key})

    async def get(self, path: str = "", status: int = 200, **query: str) -> Html:
        """A page, which must be sound whatever it says."""
        response = await self.http.get(PATH + path, params=query or None)
        assert response.status_code == status, response.text[:500]
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return Html.of(response.text)

    async def rows(self, path: str = "", **query: str) -> list[dict[str, str]]:
        """A table as its CSV has it."""
        response = await self.http.get(PATH + path, params={**query, "format": "csv"})
        assert response.status_code == 200, response.text[:500]
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        return list(csv.DictReader(io.StringIO(response.text)))


VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Html(HTMLParser):
    """A page, taken apart: its text, elements, and faults of its form."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.pieces: list[str] = []
        self.scripts: list[str] = []
        self.within: dict[str, list[dict[str, str]]] = {}
        """`data` elements by the id of the nearest element around them that has one."""
        self._ids: list[tuple[int, str]] = []

    @classmethod
    def of(cls, text: str) -> Html:
        page = cls()
        page.feed(text)
        page.close()
        assert text.startswith("<!doctype html>")
        assert page.open == []
        assert page.faults == []
        page.check()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"an attribute twice: {tag}")
        said = {name: value or "" for name, value in attrs}
        self.elements.append((tag, said))
        if tag == "data" and self._ids:
            self.within.setdefault(self._ids[-1][1], []).append(said)
        if tag not in VOID:
            self.open.append(tag)
            if "id" in said:
                self._ids.append((len(self.open), said["id"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> within {self.open}")
            return
        if self._ids and self._ids[-1][0] == len(self.open):
            self._ids.pop()
        self.open.pop()

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.pieces).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [said for name, said in self.elements if name == tag]

    def amounts(self, name: str) -> list[str]:
        """The exact amounts in the element with that id, in their order."""
        return [each["value"] for each in self.within.get(name, [])]

    def check(self) -> None:
        """What every page must have for who does not see it or has no mouse; nothing inline, nothing from elsewhere."""
        ids = [said["id"] for _, said in self.elements if "id" in said]
        assert len(ids) == len(set(ids)), "an id twice"
        assert [said.get("lang") for said in self.all("html")] == ["en"]
        assert len(self.all("title")) == len(self.all("main")) == len(self.all("h1")) == 1
        assert {"header", "main", "footer"} <= {tag for tag, _ in self.elements}
        labelled = {said["for"] for said in self.all("label")}
        for tag in ("input", "select", "textarea"):
            for said in self.all(tag):
                if said.get("type") != "hidden" and "hidden" not in said:
                    assert said["id"] in labelled, said
        for said in self.all("img"):
            assert "alt" in said
        assert len(self.all("table")) == len(self.all("caption"))
        self._check_stacks()
        for _, said in self.elements:
            for name in ("aria-labelledby", "aria-describedby"):
                assert set(said.get(name, "").split()) <= set(ids), said
            assert "style" not in said, "forbidden by our policy"
            assert not [name for name in said if name.startswith("on")], "forbidden by our policy"
            for name in ("src", "href", "action"):
                assert said.get(name, "/").startswith(("/dashboard", "/", "#main")), said
                assert not said.get(name, "/").startswith("//"), said
        for said in self.all("script"):
            assert "src" in said or said["type"] == "application/json"
        assert not self.all("style")

    def _check_stacks(self) -> None:
        """On a narrow screen a stack is no table to a browser but by its roles."""
        roles = {"tr": ("row",), "td": ("cell",), "thead": ("rowgroup",), "tbody": ("rowgroup",)}
        stack = False
        for tag, said in self.elements:
            if tag == "table":
                stack = said.get("class") == "stack"
                assert said.get("role") == ("table" if stack else None)
            elif stack and tag == "th":
                assert said.get("role") == {"col": "columnheader", "row": "rowheader"}[said["scope"]]
            elif stack and tag in roles:
                assert said.get("role") in roles[tag]


@pytest.fixture
def made() -> SimpleNamespace:
    """`made.entry(...)`, `made.call(...)`: requests to put on record."""
    return SimpleNamespace(entry=entry, call=call)


@pytest.fixture
def answered() -> Callable[[], list[Entry]]:
    """The known requests, as of now."""
    return lambda: known(time.time())


Open = Callable[..., AbstractAsyncContextManager[Pages]]


@pytest.fixture
def pages(tmp_path: Path) -> Open:
    """`async with pages(entries, admin=, keys=, text=, prices=)`: a gateway that has answered `entries`, logged in."""

    @asynccontextmanager
    async def opened(
        entries: Sequence[Entry] | None = None,
        *,
        admin: str | None = ADMIN,
        keys: str | None = KEY,
        text: bool = False,
        prices: Mapping[str, Any] | None = None,
        log_in: bool = True,
    ) -> AsyncGenerator[Pages, None]:
        environ = {name: value for name, value in (("T_ADMIN", admin), ("T_KEYS", keys)) if value}
        config = Config.parse(
            {
                "server": {"admin_key_env": admin and "T_ADMIN", "keys_env": keys and "T_KEYS"},
                "ledger": {"url": f"sqlite:///{tmp_path}/ledger.db", "store_text": text},
                "upstreams": {
                    "teacher": {"kind": "scripted", "model": "gpt-6-sol"},
                    "student": {"kind": "scripted", "model": "mine"},
                },
                "routes": {"gkt": {"teacher": "teacher", "student": "student"}},
                "prices": {"gpt-6-sol": {"input": 2, "output": 10}, **(prices or {})},
            }
        )
        engines = {"teacher": Scripted("teacher", "The sky"), "student": Scripted("student", " is blue.")}
        made = known(time.time()) if entries is None else list(entries)
        async with open_gateway(config, environ=environ, engines=engines) as gateway:
            for each in made:
                await gateway.ledger.settle(each)
            app = create_app(config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
                page = Pages(gateway, http, made)
                if log_in and admin:
                    assert (await page.log_in()).status_code == 303
                yield page

    return opened
