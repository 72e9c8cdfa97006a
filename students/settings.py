"""What the settings of all kinds of upstream share: strictness, deadlines, the breaker, names of secrets."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator


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
