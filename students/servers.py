"""Servers: what each kind of server that speaks OpenAI's API does in its own way. Data, no I/O.

`server: vllm` in an upstream fills in what its row says, for the keys that the configuration leaves out. How a text is
continued is a claim, which the probe at start proves or takes away (`students.prefill`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Prefill = Literal["continue_flag", "implicit", "prefix_field", "raw_completion", "context"]
"""How a server is told to continue a text; `context`: it cannot, see `students.prefill`."""

LimitField = Literal["max_completion_tokens", "max_tokens"]

ServerKind = Literal[
    "vllm",
    "sglang",
    "llama.cpp",
    "llama-cpp-python",
    "ollama",
    "tgi",
    "lm-studio",
    "transformers-serve",
    "deepseek",
    "mistral",
    "anthropic",
    "openai",
    "auto",
    "other",
]

Known = Literal["run", "source", "said"]
"""run: seen on the real server, by this project's tests; source: read in the server's source; said: by its own
documentation or by its users."""


@dataclass(frozen=True, slots=True)
class Server:
    """The habits of one kind of server. None: it depends on the model, or is not known.

    `prefill` to `max_concurrent` are keys of an `openai_api` upstream, and its defaults there. `seed_field`: how it
    spells `seed`; `thinking_switch`: it takes `chat_template_kwargs`, with which a given beginning of an answer
    switches thinking off; `usage`: it reports usage at the end of a stream, asked or not; `traps`: what else to know.
    """

    known: Known
    prefill: Prefill | Literal["auto"] = "context"
    limit_field: LimitField | None = None
    stream_usage: bool = True
    samples: bool = True
    logprobs: bool | None = None
    tools: bool = True
    json_schema: bool = True
    base_url: str | None = None
    max_concurrent: int | None = None
    usage: bool = True
    seed_field: str = "seed"
    thinking_switch: bool = False
    traps: str = ""

    def keys(self) -> dict[str, Any]:
        """Those keys of an upstream that it says something about."""
        said = {name: getattr(self, name) for name in KEYS}
        return {name: value for name, value in said.items() if value is not None}


KEYS = (
    "prefill",
    "limit_field",
    "stream_usage",
    "samples",
    "logprobs",
    "tools",
    "json_schema",
    "base_url",
    "max_concurrent",
)

SERVERS: Mapping[ServerKind, Server] = {
    "vllm": Server(
        known="source",
        prefill="continue_flag",
        limit_field="max_tokens",
        tools=False,
        base_url="http://127.0.0.1:8000/v1",
        traps="one field without the other is a 400; cached tokens are reported with `--enable-prompt-tokens-details`; "
        "tools need `--enable-auto-tool-choice`",
    ),
    "sglang": Server(
        known="source",
        prefill="continue_flag",
        limit_field="max_tokens",
        tools=False,
        base_url="http://127.0.0.1:30000/v1",
        thinking_switch=True,
        traps="without the field the text silently becomes a message of the user; tools need `--tool-call-parser`; "
        "cached tokens are reported with `--enable-cache-report`",
    ),
    "llama.cpp": Server(
        known="run",
        prefill="continue_flag",
        limit_field="max_tokens",
        samples=False,
        base_url="http://127.0.0.1:8080/v1",
        thinking_switch=True,
        traps="a 400 while thinking is on, so it is switched off; not streaming, it repeats the text, and does not "
        "notice that a client has left",
    ),
    "llama-cpp-python": Server(
        known="run",
        prefill="raw_completion",
        limit_field="max_tokens",
        stream_usage=False,
        samples=False,
        logprobs=False,
        json_schema=False,
        base_url="http://127.0.0.1:8000/v1",
        max_concurrent=1,
        usage=False,
        traps="ignores the fields and starts again; needs `tokenizer` or `chat_template`; a second request cuts the "
        "answer to the first, so the gateway asks for one at a time (`--interrupt_requests false` for other clients); "
        "says nothing of usage in a stream, so tokens are counted here",
    ),
    "ollama": Server(
        known="source",
        prefill="implicit",
        limit_field="max_tokens",
        samples=False,
        logprobs=False,
        base_url="http://127.0.0.1:11434/v1",
        traps="depends on the model's template; ignores `max_completion_tokens`; its `/completions` renders the "
        "template too; a thinking model needs `reasoning_effort: none`; a long prompt is cut without a word, unless "
        "`num_ctx` is raised",
    ),
    "tgi": Server(
        known="source",
        prefill="implicit",
        limit_field="max_tokens",
        samples=False,
        tools=False,
        json_schema=False,
        base_url="http://127.0.0.1:3000/v1",
        traps="trims white space behind the text; ignores `max_completion_tokens` and `n`; `top_p: 1` is refused (422)",
    ),
    "lm-studio": Server(
        known="said",
        prefill="implicit",
        limit_field="max_tokens",
        samples=False,
        logprobs=False,
        base_url="http://127.0.0.1:1234/v1",
        traps="depends on version and model",
    ),
    "transformers-serve": Server(
        known="run",
        prefill="raw_completion",
        limit_field="max_tokens",
        stream_usage=False,
        samples=False,
        logprobs=False,
        json_schema=False,
        base_url="http://127.0.0.1:8000/v1",
        traps="a chat always starts again, and the fields are a 422; needs `tokenizer`, the same model; `temperature` "
        "does nothing where the model's own settings do not sample; a stop string is not taken off by it, but here",
    ),
    "deepseek": Server(
        known="said",
        prefill="prefix_field",
        limit_field="max_tokens",
        samples=False,
        json_schema=False,
        base_url="https://api.deepseek.com/beta",
        traps="the address that ends in `/beta`, no other",
    ),
    "mistral": Server(
        known="said",
        prefill="prefix_field",
        limit_field="max_tokens",
        stream_usage=False,
        logprobs=False,
        base_url="https://api.mistral.ai/v1",
        seed_field="random_seed",
        traps="repeats the text, which is taken away; a field that it does not know is a 422: `stream_options`, "
        "`max_completion_tokens`, `seed`",
    ),
    "anthropic": Server(
        known="said",
        prefill="implicit",
        limit_field="max_tokens",
        samples=False,
        logprobs=False,
        json_schema=False,
        base_url="https://api.anthropic.com/v1",
        traps="Claude up to 4.5 only, later ones refuse it (400); a text that ends in white space is a 400; ignores "
        "`response_format` and `seed`",
    ),
    "openai": Server(known="said", base_url="https://api.openai.com/v1", traps="cannot continue a text"),
    "auto": Server(
        known="said",
        prefill="auto",
        samples=False,
        logprobs=False,
        traps="the ways are tried in turn at start, and the first that is proven is used",
    ),
    "other": Server(known="said", traps="nothing is assumed; say what it can do"),
}
