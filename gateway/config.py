"""Config: everything an operator can say, frozen and checked; `config.yaml` is the commented example."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from gateway.allowance import Quota
from gateway.answers import Kind
from gateway.chat import Overrides, Placement, StrategyName, Unguidable
from gateway.errors import ConfigError
from pricing.book import PriceBook
from students.engine import Sampling
from students.spec import (
    KINDS,
    EngineSpec,
    Hosted,
    LiteLLMSpec,
    LlamaCppSpec,
    OpenAISpec,
    PoolSpec,
    Strict,
    UpstreamSpec,
    VariableName,
)

GUIDED: tuple[StrategyName, ...] = ("cut-off", "concise", "hint")
Instead = Literal["teacher", "student", "context", "refuse"]


class OwnSampling(Strict):
    """Sampling settings of a route's own, in the API's words; None: the model's default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)

    def sampling(self) -> Sampling:
        """The same, as an engine takes it."""
        return Sampling(**self.model_dump())


class Server(Strict):
    """Where the gateway listens and how much it takes."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535, description="0: any free port.")
    keys_env: VariableName | None = Field(
        None,
        description="Name of the environment variable with the keys of callers, separated by commas; "
        "without it, and without keys in the ledger, the gateway listens on loopback only.",
    )
    admin_key_env: VariableName | None = Field(
        None,
        description="Name of the environment variable with the key for the accounts and the callers' keys (`/gkt/v1`). "
        "Without it, keys cannot be made over HTTP, and with callers' keys, accounts cannot be read.",
    )
    open_metrics: bool = Field(
        False, description="`/metrics` asks for no key; otherwise for the admin's, where keys are configured."
    )
    max_body_bytes: int = Field(20_000_000, ge=1_000)
    max_in_flight: int = Field(1_000, ge=1, description="Requests under way at once; more are answered 503.")
    drain_seconds: float = Field(30.0, ge=0, description="How long a stop waits for answers under way.")


class LedgerConfig(Strict):
    """Where accounts are kept."""

    url: str = Field("sqlite:///gkt-ledger.db", description="An SQLAlchemy URL; sqlite:// keeps it in memory.")
    store_text: bool = Field(False, description="Keep prompts and answers beside the accounts.")
    queue: int = Field(10_000, ge=100, description="Rows that may wait to be written; more are answered 503.")
    spool: Path | None = Field(
        None, description="Folder for rows that the database does not take; by default beside the file, or `gkt-spool`."
    )
    spool_bytes: int = Field(
        256 * 2**20, ge=0, description="The most that may wait there; then new calls are answered 503. 0: nothing does."
    )
    keep_days: int | None = Field(
        None,
        ge=1,
        description="Entries and their calls are removed when they are older; their sums stay. Without it: never.",
    )
    keep_texts_days: int | None = Field(
        None,
        ge=1,
        description="Prompts and answers are removed when they are older, and files that were kept aside beside the "
        "spool. Without it: with their entries.",
    )
    synchronous: Literal["normal", "full"] = Field(
        "normal", description="SQLite's: with `full` each commit waits for the disk, and outlives a loss of power."
    )

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        try:
            where = urlsplit(value)
            asked = {name.lower() for name in parse_qs(where.query, keep_blank_values=True)}
            secret = where.password is not None or bool(asked & {"password", "sslpassword"})
        except ValueError:
            raise ValueError("is not the URL of a database") from None
        if secret:
            raise ValueError("holds a password: leave it out, and set the environment variable PGPASSWORD")
        return value


class SharedConfig(Strict):
    """What the replicas of a gateway agree on: how much of their limits and budgets callers have used, and breakers."""

    redis_url_env: VariableName | None = Field(
        None,
        description="Name of the environment variable with the URL of a Redis (redis://, rediss://, unix://). Without "
        "it each process counts limits for itself, and budgets are counted in the ledger's database.",
    )
    when_away: Literal["refuse", "local"] = Field(
        "refuse",
        description="While Redis is away, callers with limits or budgets are answered 503, or served by what each "
        "process counts for itself.",
    )
    prefix: str = Field("gkt", min_length=1, max_length=64, description="Begins every key in Redis.")
    cache_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**40,
        description="The most that kept guidance takes there, or in the memory of each process (`guidance_cache` of a "
        "route).",
    )


class TelemetryConfig(Strict):
    """What is told to a collector."""

    traces: bool = Field(
        False,
        description="Send OpenTelemetry traces (extra `otel`); where to, and how many, say the standard `OTEL_` "
        "environment variables.",
    )


class BaselineConfig(Strict):
    """How far the teacher's answer may be from the length of the one that was shown."""

    length_ratio_low: float = Field(0.5, gt=0, le=1)
    length_ratio_high: float = Field(2.0, ge=1)


class Target(Strict):
    """What a cascade is to keep."""

    retention: float = Field(
        gt=0,
        le=1,
        description="Lower bound of the share of the teacher's accuracy, which `gkt calibrate --ledger` aims at unless "
        "told otherwise.",
    )
    confidence: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="The least one-sided confidence of that bound. Null: any that is more than an even chance.",
    )


class Meaning(Strict):
    """Who says whether two answers in free text mean the same."""

    by: Literal["embedding", "judge"] = Field(
        description="`embedding`: an upstream of kind openai_api whose server has `/embeddings`; `judge`: a model that "
        "is asked for one word."
    )
    upstream: str = Field(description="Name of an upstream.")
    threshold: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Cosine from which on two embeddings are the same answer; it depends on the model.",
    )
    max_tokens: int = Field(16, ge=1, description="Of a judge's verdict; one that thinks needs more.")


class Route(Strict):
    """What a model name means."""

    strategy: StrategyName = Field(
        "cut-off",
        description="Who answers: `teacher` or `student` alone; the student after the teacher's first words "
        "(`cut-off`, `concise`), or with the teacher's `hint`; or students first, and the teacher where that is worth "
        "its price (`cascade`).",
    )
    teacher: str | None = Field(None, description="Name of an upstream.")
    student: str | None = Field(None, description="Name of an upstream.")
    teacher_model: str | None = Field(
        None, description="Ask the teacher's upstream for this model; `*`: the name asked for."
    )
    guidance_tokens: int = Field(40, ge=1, le=4096)
    guidance_prompt: str | None = Field(None, description="Name of a prompt; None: the strategy's own.")
    placement: Placement | None = Field(None, description="None: prefix for cut-off and concise, context for hint.")
    on_teacher_failure: Literal["student", "error"] = "student"
    on_student_failure: Literal["teacher", "error"] = "teacher"
    teacher_sampling: OwnSampling = Field(OwnSampling(temperature=0.0), description="For guidance.")
    student_sampling: OwnSampling = Field(
        OwnSampling(temperature=0.8, top_p=0.9), description="Where the caller says nothing; the paper's settings."
    )
    unguidable: dict[Unguidable, Instead] = Field(
        default_factory=dict, description="Replaces single rules of the top level."
    )
    overrides: list[str] | None = Field(None, description="Which overrides a request may use; None: all.")
    shadow: float = Field(
        0,
        ge=0,
        le=1,
        description="Probability that the teacher answers too, after the client has been served: what that costs is "
        "booked as measurement, and gives measured and calibrated baselines.",
    )
    holdout: float = Field(
        0, ge=0, le=1, description="Probability that the teacher alone answers instead of the strategy."
    )
    answers: Kind | None = Field(
        None,
        description="What kind of final answer this route's chats have: `number`, `choice`, `json` or `text`. Shadows "
        "are compared by it: then the last number, the last `(X)` or the whole text of an answer counts. `meaning`: "
        "free text, which `meaning` compares; `code`: programs, which `run_code` compares. None: only an answer that "
        "says where it is, as `#### 18` does.",
    )
    meaning: Meaning | None = Field(
        None,
        description="For `answers: meaning`: `{by: embedding|judge, upstream: NAME}`; else only equal texts agree.",
    )
    run_code: bool = Field(
        False,
        description="For `answers: code`: run the programs that models write, in a sandbox, against the tests that the "
        "prompt brings (docs/cascade.md, SECURITY.md); else only equal programs agree.",
    )
    pass_key: bool = Field(
        False,
        description="Callers may send a key of their own in `x-gkt-provider-key`; the teacher's upstream is then asked "
        "with it, and no other one. Without the header, the configured key is used; where there is none, 401.",
    )

    guidance_cache: int | None = Field(
        None,
        ge=1,
        le=30 * 86_400,
        description="Seconds for which the teacher's first words are kept, in memory or in Redis, for requests of the "
        "same caller that would ask the teacher exactly the same; by default they are not.",
    )

    policy: Path | None = Field(
        None,
        description="For `cascade`: the file that `gkt calibrate` wrote. It is watched: a new one is used at once, and "
        "one that cannot be used leaves the old one in its place.",
    )
    students: dict[str, str] = Field(
        default_factory=dict,
        description="For `cascade`: the upstream of each student that the policy names; by default the upstream of "
        "that name, or the only one with that model.",
    )
    target: Target | None = Field(
        None, description="For `cascade`: what the policy must vouch for, by its own evidence; by default nothing."
    )

    @field_validator("overrides")
    @classmethod
    def _known_overrides(cls, value: list[str] | None) -> list[str] | None:
        for name in value or []:
            if name not in Overrides.__slots__:
                raise ValueError(f"unknown override; known are: {', '.join(Overrides.__slots__)}")
        return value

    @property
    def guided(self) -> bool:
        """True when the strategy lets the teacher begin and the student go on."""
        return self.strategy in GUIDED


def default_upstreams() -> dict[str, UpstreamSpec]:
    """The embedded student, and OpenAI as the teacher while OPENAI_API_KEY is set."""
    return {
        "teacher": OpenAISpec(
            model="gpt-6-sol",
            api_key_env="OPENAI_API_KEY",
            streaming="as_asked",
            stand_in="student",
        ),
        "student": LlamaCppSpec(),
    }


def default_routes() -> dict[str, Route]:
    """One name for each strategy, and `*` for every other model name."""
    both = {"teacher": "teacher", "student": "student"}
    return {
        "gkt": Route(strategy="cut-off", **both),
        "gkt-concise": Route(strategy="concise", **both),
        "gkt-hint": Route(strategy="hint", **both),
        "teacher": Route(strategy="teacher", teacher="teacher"),
        "student": Route(strategy="student", teacher="teacher", student="student"),
        "*": Route(strategy="cut-off", teacher_model="*", **both),
    }


def default_prices() -> dict[str, Any]:
    """A guess for the embedded student: a virtual core at $0.04 an hour, 135 tokens/s out and 1,100 tokens/s in."""
    return {"smollm2-135m-instruct": {"input": 0.01, "output": 0.08}}


def default_unguidable() -> dict[Unguidable, Instead]:
    """What is done instead for chats whose answer cannot be glued from two models' texts."""
    return {
        "tools": "teacher",
        "json": "teacher",
        "images": "teacher",
        "audio": "teacher",
        "web_search": "teacher",
        "predicted_output": "teacher",
        "prefix": "student",
    }


class Config(Strict):
    """The whole configuration. `Config()` is what the gateway runs on when there is no file."""

    server: Server = Server()
    ledger: LedgerConfig = LedgerConfig()
    shared: SharedConfig = SharedConfig()
    limits: Quota = Field(Quota(), description="For each caller whose key says nothing else.")
    telemetry: TelemetryConfig = TelemetryConfig()
    upstreams: dict[str, UpstreamSpec] = Field(default_factory=default_upstreams)
    routes: dict[str, Route] = Field(default_factory=default_routes)
    prices: dict[str, Any] = Field(
        default_factory=default_prices, description="Dollars per million tokens or per hour; see `pricing.configured`."
    )
    prompts: dict[str, Path] = Field(default_factory=dict, description="Further guidance prompts: name -> text file.")
    unguidable: dict[Unguidable, Instead] = Field(default_factory=default_unguidable)
    baseline: BaselineConfig = BaselineConfig()

    @field_validator("unguidable")
    @classmethod
    def _all_rules(cls, value: dict[Unguidable, Instead]) -> dict[Unguidable, Instead]:
        return default_unguidable() | value

    @field_validator("prices")
    @classmethod
    def _prices(cls, value: dict[str, Any]) -> dict[str, Any]:
        PriceBook.from_config(value)
        return value

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, route in self.routes.items():
            for seat in ("teacher", "student"):
                upstream = getattr(route, seat)
                needed = route.guided or route.strategy == seat
                if upstream is None and needed:
                    raise ValueError(f"route {name!r}: strategy {route.strategy!r} needs a {seat}")
                if upstream is not None and upstream not in self.upstreams:
                    raise ValueError(
                        f"route {name!r}: {seat} {upstream!r} is not among the upstreams: {', '.join(self.upstreams)}"
                    )
            _check_measuring(name, route)
            self._check_cascade(name, route)
            self._check_meaning(name, route)
            self._check_passing(name, route)
            if route.strategy == "hint" and route.placement == "prefix":
                raise ValueError(f"route {name!r}: a hint is not the beginning of an answer; its placement is context")
        for name, spec in self.upstreams.items():
            if isinstance(spec, PoolSpec):
                self._check_pool(name, spec)
            if isinstance(spec, Hosted) and spec.stand_in is not None:
                other = self.upstreams.get(spec.stand_in)
                if other is None or spec.stand_in == name or getattr(other, "stand_in", None):
                    raise ValueError(
                        f"upstream {name!r}: stand_in {spec.stand_in!r} is not another upstream that stands for itself"
                    )
        return self

    def _check_cascade(self, name: str, route: Route) -> None:
        if route.policy is None:
            if route.strategy == "cascade":
                raise ValueError(
                    f"route {name!r}: strategy 'cascade' needs a policy, the file that `gkt calibrate` writes"
                )
            if route.students or route.target:
                raise ValueError(f"route {name!r}: students and target are of a cascade's policy, and there is none")
            return
        if route.teacher is None:
            raise ValueError(f"route {name!r}: a cascade needs a teacher, the last that is asked")
        for student, upstream in route.students.items():
            if upstream not in self.upstreams:
                raise ValueError(
                    f"route {name!r}: students.{student}: {upstream!r} is not among the upstreams: "
                    f"{', '.join(self.upstreams)}"
                )

    def _check_meaning(self, name: str, route: Route) -> None:
        if route.meaning is None:
            return
        spec = self.upstreams.get(route.meaning.upstream)
        if spec is None:
            raise ValueError(
                f"route {name!r}: meaning.upstream {route.meaning.upstream!r} is not among the upstreams: "
                f"{', '.join(self.upstreams)}"
            )
        if route.meaning.by == "embedding" and not isinstance(spec, OpenAISpec):
            raise ValueError(
                f"route {name!r}: meaning.upstream {route.meaning.upstream!r} is to embed, which upstreams of kind "
                "openai_api can; take one, or by: judge"
            )

    def _check_pool(self, name: str, pool: PoolSpec) -> None:
        for member in pool.members:
            spec = self.upstreams.get(member)
            if spec is None or isinstance(spec, PoolSpec):
                raise ValueError(f"upstream {name!r}: member {member!r} is not an upstream of another kind than pool")
            if isinstance(spec, Hosted) and spec.stand_in is not None:
                raise ValueError(f"upstream {name!r}: member {member!r} has a stand_in, which is another model")
            for what, mine, its in (("model", pool.model, spec.model), ("provider", pool.seller, spec.seller)):
                if mine != its:
                    raise ValueError(
                        f"upstream {name!r}: member {member!r} has {what} {its!r} and the pool {mine!r}: all are to "
                        "answer with one model at one price"
                    )

    def engine(self, name: str | None) -> EngineSpec | None:
        """The upstream of that name; of a pool the first member, like which all are. None: there is none."""
        spec = self.upstreams.get(name or "")
        return self.engine(spec.members[0]) if isinstance(spec, PoolSpec) else spec

    @property
    def passing(self) -> frozenset[str]:
        """The upstreams that routes ask with callers' own keys."""
        return frozenset(route.teacher for route in self.routes.values() if route.pass_key and route.teacher)

    def _check_passing(self, name: str, route: Route) -> None:
        if not route.pass_key:
            return
        spec = self.upstreams.get(route.teacher or "")
        if not isinstance(spec, OpenAISpec | LiteLLMSpec):
            raise ValueError(
                f"route {name!r}: pass_key needs a teacher of kind openai_api or litellm_api, which takes a key"
            )
        if spec.stand_in is not None:
            raise ValueError(
                f"route {name!r}: pass_key needs a teacher without stand_in: no other upstream is given a caller's key"
            )
        if route.student == route.teacher:
            raise ValueError(f"route {name!r}: pass_key needs a student that is not the teacher's upstream")

    @classmethod
    def load(cls, path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Config:
        """Read `path`; None: the file that GKT_CONFIG names, else ./config.yaml, else the embedded defaults.

        Relative file names inside the file are relative to the file. Raises `ConfigError` that names the place.
        """
        path = cls.find(path, environ=environ)
        if path is None:
            return cls()
        return cls.parse(cls.read(path), where=str(path), base=path.parent)

    @staticmethod
    def read(path: Path) -> Any:
        """What the YAML of a file says, unchecked; None: nothing at all. Raises `ConfigError`, without the text."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            return yaml.safe_load(text.decode("utf-8"))
        except Exception as error:  # noqa: BLE001 - what the parser makes values with raises whatever it likes
            raise ConfigError(f"{path} is not YAML: {_where(error)}") from None

    @staticmethod
    def find(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Path | None:
        """The file that `load` reads; None: there is none, and the embedded defaults hold."""
        if path is not None:
            return path
        named = environ.get("GKT_CONFIG")
        return Path(named) if named else Path("config.yaml") if Path("config.yaml").is_file() else None

    @classmethod
    def parse(cls, data: Any, *, where: str = "configuration", base: Path | None = None) -> Config:
        """Check plain data; raises `ConfigError` with one line for each fault."""
        if data is not None and not isinstance(data, dict):
            raise ConfigError(f"{where}: must be a mapping of sections")
        try:
            config = cls.model_validate(data or {})
        except ValidationError as error:
            faults = [_fault(item) for item in error.errors(include_url=False)]
            raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(faults))) from None
        if base is None:
            return config
        prompts = {name: base / file for name, file in config.prompts.items()}
        upstreams = {name: _anchored(spec, base) for name, spec in config.upstreams.items()}
        spool = config.ledger.spool
        ledger = config.ledger if spool is None else config.ledger.model_copy(update={"spool": base / spool})
        routes = {
            name: route if route.policy is None else route.model_copy(update={"policy": base / route.policy})
            for name, route in config.routes.items()
        }
        placed = {"prompts": prompts, "upstreams": upstreams, "ledger": ledger, "routes": routes}
        return config.model_copy(update=placed)


def _check_measuring(name: str, route: Route) -> None:
    for setting in ("shadow", "holdout"):
        if not getattr(route, setting):
            continue
        if route.strategy == "teacher":
            raise ValueError(
                f"route {name!r}: {setting} compares a strategy with the teacher alone, and this strategy is the "
                "teacher alone; leave it out"
            )
        if route.teacher is None:
            raise ValueError(f"route {name!r}: {setting} needs a teacher")


def _where(error: Exception) -> str:
    """What is wrong with a text and where, without the text: this is logged, and the text may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if mark is None and isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return "it has bytes or characters that no YAML text has"
    if mark is None:
        return "it has a value that is not of the kind that its form or its tag says, such as a day that there is not"
    problem = re.sub(r"'[^'<>]{2,}'", "'...'", getattr(error, "problem", None) or "not understood")
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def _anchored(spec: Any, base: Path) -> Any:
    keys = ("gguf", "file", "log", "exemplars", "chat_template")
    files = {key: base / value for key in keys if isinstance(value := getattr(spec, key, None), Path)}
    return spec.model_copy(update=files) if files else spec


def _fault(item: Any) -> str:
    """One fault and its place, by the names of keys. No value is repeated: it may be a secret in the wrong place."""
    place = ".".join(str(part) for part in item["loc"] if part not in KINDS)
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "union_tag_invalid":  # pydantic's own words repeat the value
        text = f"{item['ctx']['discriminator'].strip(chr(39))} must be one of {item['ctx']['expected_tags']}"
    return f"{place}: {text}" if place else str(text)
