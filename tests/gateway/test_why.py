"""Every receipt says which rule chose its plan, and what break-even says of it; so does the page of its request."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Observed, Policy
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.pipeline import Gateway
from students.engine import Engine
from students.errors import Unavailable
from students.scripted import Scripted
from tests.gateway.strategies.test_cascade import GUIDED, agreeing

pytestmark = pytest.mark.anyio

PRICES = {"big": {"input": 2, "output": 10}, "one": {"input": 0.1, "output": 0.1}, "two": {"input": 0.2, "output": 0.2}}
BIG = "Blue light is scattered most. So the answer is 18, and the sky is blue at noon and red in the evening."
SMALL = "Well, it is scattered on its long way through all that air, so I think that the answer is 18."
SHARE = r"\d\.\d{3}"
FIXED = (
    rf"break-even: guidance of 5 tokens costs {SHARE} of the teacher's whole answer of \d+ tokens \(same_length\), "
    rf"{SHARE} with the student's: it pays where the student finishes more than that alone, and for answers of \d+ "
    r"tokens or more; not observed yet"
)
ALONE = "break-even: none, the teacher answers alone and at its whole price"

DRAFTS = Observed(asked=350, accepted=0.8, escalated=0.2, kept=0.8, needed=0.02)
POLICIES: Mapping[str, Policy] = {
    "calibrated": agreeing({"student": "one", "observed": DRAFTS}, {"student": "two"}),
    "by-hand": agreeing(),
    "guiding": agreeing(
        {"student": "one", "observed": DRAFTS},
        {"student": "two", "kind": "guidance", "guidance_tokens": 8, "observed": GUIDED},
    ),
    "closed": agreeing(
        {"student": "one", "observed": DRAFTS}, {"student": "two", "kind": "guidance", "guidance_tokens": 8}
    ),
}
WHY: Mapping[str, str] = {
    "cut-off": f"route cut-off: cut-off; {FIXED}",
    "concise": f"route concise: concise; {FIXED}",
    "hint": f"route hint: hint; {FIXED}",
    "teacher": f"route teacher: teacher; {ALONE}",
    "student": (
        "route student: student; break-even: none, the student answers alone and nothing of the teacher's was bought"
    ),
    "held": f"holdout: the teacher alone, drawn with probability 1; route held: cut-off; {ALONE}",
    "calibrated": (
        "route calibrated: cascade; break-even: the drafts keep 0.800 from the teacher and pay above 0.020, as "
        "calibrated; rung 2 of 2: 2 of 2 drafts agree; .*: one"
    ),
    "by-hand": (
        f"route by-hand: cascade; break-even: the drafts cost {SHARE} of the teacher's whole answer and pay above that "
        "kept from it; not observed yet; rung 2 of 2: .*: one"
    ),
    "guiding": (
        "route guiding: cascade; break-even: the drafts keep 0.800 .*, as calibrated; guidance of 8 tokens keeps 0.500 "
        "from the teacher and pays above 0.100; rung 2 of 2: .*"
    ),
    "closed": (
        "route closed: cascade; break-even: the drafts keep 0.800 .*, as calibrated; guidance of 8 tokens is closed; "
        "rung 1 of 2: .*; the next rung is closed: nobody has seen yet what guidance of 8 tokens keeps from the .*"
    ),
    "unpriced": (
        "route unpriced: cut-off; break-even: what guidance of 5 tokens costs of the teacher's answer is not known, "
        "nor when it pays; not observed yet"
    ),
    "dear": (
        r"route dear: hint; break-even: guidance of 20 tokens costs 1.000 of the teacher's whole answer of 20 tokens "
        r"\(same_length\), 1.\d+ with the student's: it pays nowhere at this length, "
        r"only for answers of \d+ tokens or more; not observed yet; "
        "it does not pay here, and is given as asked: only a cascade closes its guidance"
    ),
}


@asynccontextmanager
async def opened(folder: Path, **engines: Scripted) -> AsyncGenerator[tuple[Gateway, httpx.AsyncClient]]:
    cast: dict[str, Engine] = {
        "teacher": Scripted("teacher", BIG, model="big"),
        "strange": Scripted("strange", BIG, model="unheard-of"),
        "one": Scripted("one", SMALL, model="one"),
        "two": Scripted("two", "Well, it is 18.", model="two"),
        **engines,
    }
    both: dict[str, Any] = {"teacher": "teacher", "student": "one", "guidance_tokens": 5}
    routes = {name: {**both, "strategy": name} for name in ("cut-off", "concise", "hint")}
    routes |= {name: {"teacher": "teacher", "student": "one", "strategy": name} for name in ("teacher", "student")}
    routes["held"] = {**both, "strategy": "cut-off", "holdout": 1}
    routes["unpriced"] = {**both, "strategy": "cut-off", "teacher": "strange"}
    routes["dear"] = {**both, "strategy": "hint", "guidance_tokens": 20}
    for name, policy in POLICIES.items():
        (folder / f"{name}.yaml").write_text(policy.dump(), "utf-8")
        routes[name] = {"teacher": "teacher", "strategy": "cascade", "policy": str(folder / f"{name}.yaml")}
    upstreams = {name: {"kind": "scripted", "model": getattr(engine, "model", "")} for name, engine in cast.items()}
    told = {"ledger": {"url": "sqlite://"}, "prices": PRICES, "upstreams": upstreams, "routes": routes}
    async with open_gateway(Config.parse(told), engines=cast, environ={}) as gateway:
        app = create_app(gateway.config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
        door = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=door, base_url="http://localhost") as client,
        ):
            yield gateway, client


async def ask(
    client: httpx.AsyncClient, model: str, *, stream: bool = False, **more: Any
) -> tuple[dict[str, Any], str]:
    """The receipt, as the official client got it; and what the headers said before the answer."""
    sdk = AsyncOpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=client)
    told: Any = {"model": model, "messages": [{"role": "user", "content": "Why is the sky blue? " * 4}], **more}
    raw: Any = await sdk.chat.completions.with_raw_response.create(stream=stream, **told)
    if not stream:
        return raw.parse().model_dump()["gkt"], raw.headers["x-gkt-why"]
    frames = [chunk.model_dump() async for chunk in raw.parse()]
    return frames[-1]["gkt"], raw.headers["x-gkt-why"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WHY)
async def test_why(name: str, stream: bool, tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        receipt, header = await ask(client, name, stream=stream)
        page = await client.get(f"{PATH}/requests/{receipt['request_id']}")
    assert re.fullmatch(WHY[name], receipt["why"]), receipt["why"]
    assert receipt["why"].startswith(header)
    assert page.status_code == 200
    assert f"<dd>{receipt['why']}</dd>" in html.unescape(page.text)


async def test_what_was_seen_of_fixed_guidance(tmp_path: Path) -> None:
    """The share that students finished, as the process has seen it: a fallback is not finished alone."""
    failing = Scripted("one", SMALL, model="one", error=lambda _: broken[0])
    broken: list[Unavailable | None] = [None]
    async with opened(tmp_path, one=failing) as (_, client):
        for fault in (None, None, Unavailable("gone"), None):
            broken[0] = fault
            told, _ = await ask(client, "cut-off")
        assert told["why"].endswith("or more; observed: 2 of 3 finished alone")
        hinted, _ = await ask(client, "hint")
        assert hinted["why"].endswith("not observed yet"), "each strategy of a route by itself"
        broken[0] = Unavailable("gone")
        for _ in range(40):
            told, _ = await ask(client, "cut-off")
    assert told["why"].endswith(
        "observed: 3 of 43 finished alone; "
        "it does not pay here, and is given as asked: only a cascade closes its guidance"
    )


async def test_what_leaves_nothing_to_save(tmp_path: Path) -> None:
    """An answer within the guidance, guidance that was kept from before, and who asks for something else."""
    async with opened(tmp_path, teacher=Scripted("teacher", "It is blue.", model="big")) as (_, client):
        told, _ = await ask(client, "cut-off")
        assert told["why"].endswith(
            "; break-even: guidance of 5 tokens was all of the teacher's answer, and leaves nothing to save"
        )
        asked, _ = await ask(client, "cut-off", extra_body={"gkt": {"strategy": "teacher"}})
        assert asked["why"] == f"route cut-off: teacher, asked for: strategy; {ALONE}"
