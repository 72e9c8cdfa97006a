"""The table of servers: what a row fills in, and that its claims hold on the servers themselves or their fakes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.openai_api import OpenAIApi
from students.prefill import WAYS, Proof
from students.servers import KEYS, SERVERS, Prefill, Server, ServerKind
from students.spec import OpenAISpec
from tests import real_servers
from tests.fake_servers import STUDENTS, Mistral, Tgi, proofs, spec
from tests.fakes import served

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "Count from 1 to 30, separated by commas."},)


class TestTable:
    def test_every_kind_has_a_row_and_a_fake(self) -> None:
        assert set(SERVERS) == set(get_args(ServerKind))
        assert set(STUDENTS) == set(SERVERS) - {"openai", "auto", "other"}

    def test_its_keys_are_keys_of_an_upstream(self) -> None:
        assert set(KEYS) <= set(OpenAISpec.model_fields)
        assert set(KEYS) <= set(Server.__dataclass_fields__)

    def test_a_row_fills_in_what_is_left_out(self) -> None:
        ollama = OpenAISpec.model_validate({"model": "llama3.1:8b", "server": "ollama"})
        assert ollama.prefill == "implicit"
        assert ollama.limit_field == "max_tokens"
        assert (ollama.samples, ollama.logprobs, ollama.stream_usage) == (False, False, True)
        assert ollama.base_url == "http://127.0.0.1:11434/v1"

    def test_what_is_written_comes_first(self) -> None:
        keys = {"prefill": "context", "samples": True, "base_url": "http://gpu-1/v1", "logprobs": None}
        ollama = OpenAISpec.model_validate({"model": "m", "server": "ollama", **keys})
        assert {name: getattr(ollama, name) for name in keys} == keys

    def test_nothing_is_assumed_of_other_servers(self) -> None:
        assert OpenAISpec(model="m") == OpenAISpec.model_validate({"model": "m", "server": "other"})

    def test_an_unknown_server_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="vllm"):
            OpenAISpec.model_validate({"model": "m", "server": "vlm"})

    @pytest.mark.parametrize("kind", sorted(set(SERVERS) - {"openai", "other", "auto"}))
    def test_a_server_of_ones_own_is_never_openai(self, kind: ServerKind) -> None:
        assert "openai.com" not in OpenAISpec(model="m", **SERVERS[kind].keys()).base_url


class TestProofs:
    async def test_the_way_of_each_row_is_proven(self) -> None:
        found = await proofs()
        for kind in STUDENTS:
            way = SERVERS[kind].prefill
            assert way != "auto"
            proof = found[kind, way]
            assert (proof.proven, proof.prefill) == (True, way), kind
            assert proof.limited, kind

    async def test_what_each_row_says_is_so(self) -> None:
        """Usage at the end of a stream, n in one call, log probabilities: asked of each fake."""
        for kind, student in STUDENTS.items():
            row = SERVERS[kind]
            async with served(student()) as fake, aclosing(OpenAIApi(kind, spec(fake))) as engine:
                await engine.ready()
                sampling = Sampling(seed=7, top_p=0.9, logprobs=Ability.LOGPROBS in engine.abilities)
                prompt = Prompt(ASK, max_tokens=3, sampling=sampling, n=2 if row.samples else 1)
                async with aclosing(engine.stream(prompt)) as events:
                    said = [event async for event in events]
                finish = said[-1]
                assert isinstance(finish, Finish)
                assert (finish.usage is not None) is row.usage, kind
                assert len(finish.reasons) == prompt.n, kind
                first = said[0]
                assert isinstance(first, Delta)
                assert bool(first.logprobs) is (Ability.LOGPROBS in engine.abilities), kind
                assert fake.asked[-1][row.seed_field] == 7

    @pytest.mark.parametrize(
        ("keys", "why"),
        [
            ({"stream_usage": True}, "stream_options"),
            ({"limit_field": "max_completion_tokens"}, "max_completion_tokens"),
        ],
    )
    async def test_mistral_refuses_what_it_does_not_know(self, keys: dict[str, Any], why: str) -> None:
        async with served(Mistral()) as fake, aclosing(OpenAIApi("mistral", spec(fake, **keys))) as engine:
            assert Ability.CONTINUE not in await engine.ready()
            assert engine.proof is not None
            assert why in engine.proof.why

    async def test_tgi_trims(self) -> None:
        """A text that ends in white space would not be continued from exactly there; none ever does."""
        async with served(Tgi()) as fake:
            assert isinstance(fake, Tgi)
            messages = [*ASK, {"role": "assistant", "content": "1, 2, "}]
            assert fake.prompt({"messages": messages}).endswith("1, 2,")


REAL: dict[ServerKind, tuple[Callable[[], str], Callable[[], object] | None]] = {
    "llama.cpp": (real_servers.llama_server, None),
    "transformers-serve": (real_servers.transformers_serve, real_servers.counter),
    "llama-cpp-python": (real_servers.llama_cpp_python, real_servers.smollm2),
}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", REAL)
async def test_a_real_server_is_as_its_fake(kind: ServerKind) -> None:
    """Each way of continuing a text is proven, or not, on the real one where it is on the fake that stands for it."""
    start, tokenizer = REAL[kind]
    keys: dict[str, Any] = {"server": kind, "base_url": f"{start()}/v1", "model": "m"}
    keys |= {} if tokenizer is None else {"tokenizer": str(tokenizer())}
    keys |= {"model": str(tokenizer())} if kind == "transformers-serve" and tokenizer is not None else {}
    found: dict[Prefill, Proof | None] = {}
    for way in WAYS:
        asked = OpenAISpec.model_validate({**keys, "prefill": way, "deadlines": {"first_token": 120}})
        async with aclosing(OpenAIApi(kind, asked)) as engine:
            await engine.ready()
            found[way] = engine.proof
    fakes = await proofs()
    assert {way: proof is not None and proof.proven for way, proof in found.items()} == {
        way: fakes[kind, way].proven for way in WAYS
    }
    assert SERVERS[kind].known == "run"
