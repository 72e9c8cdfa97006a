"""The shape of upstreams that are asked over HTTP: servers that speak OpenAI's API, and what litellm translates for."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from students.servers import SERVERS, LimitField, Prefill, ServerKind
from students.settings import SELF, Deadlines, Spec, VariableName

SECRET_HEADER = re.compile(
    r"authorization|cookie|(api|access|subscription)[-_]?key|(auth|access)[-_]?token|secret|password", re.IGNORECASE
)
"""Names of headers that carry secrets."""

SECRET_OPTION = re.compile(r"api_?key|access_key|secret|token$|password|credentials|authorization", re.IGNORECASE)
"""Names of litellm's arguments that carry secrets."""


def _address(value: str) -> str:
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError("holds a user or a password: name the variable that holds the key in api_key_env")
    return value


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
