"""Pages: the parts of the documentation that are read from the code.

Every configuration key, from the models that check them, into `docs/configuration.md`; every module, from its
docstring, into `docs/architecture.md`; every metric into `docs/observability.md`; what is known of every teacher into
`docs/teachers.md`, and of every server, with what the probe finds at it, into `docs/students.md`. `make docs` calls
`python -m docs.pages`, which writes them, and a test compares.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from structlog.testing import capture_logs

from docs.pictures import replaced
from gateway.allowance import BudgetSpec, Quota
from gateway.config import (
    BaselineConfig,
    Config,
    LedgerConfig,
    Meaning,
    OwnSampling,
    Route,
    Server,
    SharedConfig,
    Target,
    TelemetryConfig,
    default_unguidable,
)
from gateway.metrics import COUNTERS, GAUGES, HISTOGRAMS
from pricing.configured import KEYS
from students.capabilities import rows
from students.prefill import WAYS
from students.servers import SERVERS
from students.spec import (
    BreakerSpec,
    Deadlines,
    LiteLLMSpec,
    LlamaCppSpec,
    ManagedSpec,
    OpenAISpec,
    PoolSpec,
    ReplaySpec,
    ScriptedSpec,
    Spec,
    TransformersSpec,
)

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGES = ("pricing", "students", "gateway", "evals", "benchmarks")

SECTIONS: Mapping[str, type[BaseModel]] = {
    "The file": Config,
    "`server`": Server,
    "`ledger`": LedgerConfig,
    "`shared`": SharedConfig,
    "`limits`": Quota,
    "`limits.budgets`, each": BudgetSpec,
    "`telemetry`": TelemetryConfig,
    "`routes.NAME`": Route,
    "`routes.NAME.target`": Target,
    "`routes.NAME.meaning`": Meaning,
    "`routes.NAME.teacher_sampling`, `routes.NAME.student_sampling`": OwnSampling,
    "`upstreams.NAME`, every kind": Spec,
    "`upstreams.NAME`, `kind: openai_api`": OpenAISpec,
    "`upstreams.NAME`, `kind: litellm_api`": LiteLLMSpec,
    "`upstreams.NAME`, `kind: llamacpp`": LlamaCppSpec,
    "`upstreams.NAME`, `kind: managed`": ManagedSpec,
    "`upstreams.NAME`, `kind: transformers`": TransformersSpec,
    "`upstreams.NAME`, `kind: replay`": ReplaySpec,
    "`upstreams.NAME`, `kind: scripted`": ScriptedSpec,
    "`upstreams.NAME`, `kind: pool`": PoolSpec,
    "`upstreams.NAME.breaker`": BreakerSpec,
    "`upstreams.NAME.deadlines`": Deadlines,
    "`baseline`": BaselineConfig,
}

MEANING: Mapping[str, str] = {
    "Config.server": "Where the gateway listens and how much it takes.",
    "Config.ledger": "Where accounts are kept.",
    "Config.shared": "What the replicas of a gateway agree on.",
    "Config.telemetry": "What is told to a collector.",
    "Config.upstreams": "The models, by names of your own. The section replaces the default one as a whole.",
    "Config.routes": "What a client's model name means. The section replaces the default one as a whole.",
    "Config.unguidable": "What is done instead for chats that guidance cannot honour; single rules replace defaults.",
    "Config.baseline": "The range beside every `same_length` baseline.",
    "Server.host": "Address to listen on. Anything but loopback needs keys: `keys_env`, or `gkt keys create`.",
    "Server.max_body_bytes": "A longer request body is answered 413.",
    "Route.guidance_tokens": "The teacher's budget for guidance.",
    "Route.on_teacher_failure": "`student`: it answers alone, or goes on from what came; `error`: the caller gets it.",
    "Route.on_student_failure": "Before its first word only. `teacher`: it completes the answer; `error`.",
    "OwnSampling.temperature": "See the API.",
    "OwnSampling.top_p": "See the API.",
    "OwnSampling.seed": "See the API.",
    "OwnSampling.presence_penalty": "See the API.",
    "OwnSampling.frequency_penalty": "See the API.",
    "OpenAISpec.kind": "Any server that speaks OpenAI's chat completions; the kind is never guessed.",
    "LiteLLMSpec.kind": "A provider whose API is not OpenAI's, through litellm (extra `litellm`).",
    "OpenAISpec.base_url": "Up to and including `/v1`.",
    "Hosted.logprobs": "False: they are not asked for.",
    "Hosted.tools": "The model calls tools.",
    "Hosted.json_schema": "The server honours `response_format`.",
    "Hosted.deadlines": "See below.",
    "LlamaCppSpec.kind": "A GGUF model on the llama.cpp server, in a child process.",
    "LlamaCppSpec.start_seconds": "A child that is not up by then is ended, and the upstream is unavailable.",
    "LlamaCppSpec.deadlines": "See below.",
    "ManagedSpec.kind": "A command that serves OpenAI's API, started and kept by the gateway.",
    "TransformersSpec.kind": "A model of Hugging Face transformers in the gateway's own process, batched.",
    "TransformersSpec.start_seconds": "A model that is not loaded by then is unavailable; loading goes on.",
    "TransformersSpec.deadlines": "See below.",
    "ReplaySpec.kind": "Recorded answers.",
    "ReplaySpec.model": "The recorded model's name, for prices.",
    "ScriptedSpec.kind": "A fixed text.",
    "PoolSpec.kind": "Several upstreams that serve one model, as one: see docs/pools.md. Has no other keys.",
    "ScriptedSpec.model": "The name that receipts and prices know it by.",
    "ScriptedSpec.says": "The answer to everything; one word is one token.",
    "Deadlines.connect": "For the connection.",
    "Deadlines.total": "For the whole call, waiting for a place and tries included.",
    "BaselineConfig.length_ratio_low": "Low end: this times the tokens shown.",
    "BaselineConfig.length_ratio_high": "High end: this times the tokens shown.",
}
"""Of keys whose models say nothing more than their name. A key that is in neither place is an error."""

PRICES: Mapping[str, str] = {
    "input": "Dollars per million prompt tokens.",
    "output": "Dollars per million output tokens.",
    "cached": "Dollars per million prompt tokens that came from a cache; without it, `input`.",
    "cache_write": "Dollars per million prompt tokens that were written to a cache; without it, `input`.",
    "per_hour": "Dollars per hour of the machine, charged for the time of each call.",
    "from": "First day (UTC) on which the row holds.",
    "until": "First day (UTC) on which it no longer holds.",
    "tier": "Service tier that the row is for; without it, the default tier.",
}


def settings() -> str:
    """Every key of the configuration with its default and meaning, as Markdown. Raises LookupError for one without."""
    parts: list[str] = []
    for title, model in SECTIONS.items():
        parts += [f"### {title}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            if model is Spec or name not in Spec.model_fields or not issubclass(model, Spec):
                cells = (f"`{name}`", _values(field), _default(model, name, field), _meaning(model, name, field))
                parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts += ["### `prices.MODEL`, one row or a list of rows", "", "| key | meaning |", "|---|---|"]
    if set(PRICES) != set(KEYS):
        raise LookupError(f"keys of a price without a meaning, or no longer there: {set(PRICES) ^ set(KEYS)}")
    parts += [f"| `{key}` | {meaning} |" for key, meaning in PRICES.items()]
    parts += ["", "### `unguidable`, the default rules", "", "| need | instead |", "|---|---|"]
    parts += [f"| `{need}` | `{instead}` |" for need, instead in default_unguidable().items()]
    return "\n".join(parts)


def metrics() -> str:
    """Every metric with its labels, as Markdown."""
    lines = ["| metric | labels | meaning |", "|---|---|---|"]
    for name, told in {**COUNTERS, **HISTOGRAMS, **GAUGES}.items():
        labels = ", ".join(f"`{label}`" for label in told.labels)
        lines.append(f"| `{name}` | {labels} | {told.text} |")
    return "\n".join(lines)


SENT: Mapping[bool | None, str] = {True: "yes", False: "no", None: "?"}
SAMPLED: Mapping[str | None, str] = {"always": "yes", "off": "while not reasoning", "never": "no", None: "?"}


def teachers() -> str:
    """What is known of every model, in the order in which names are looked up, as Markdown."""
    lines = [
        "| model | limit | reasoning off by | sampling | `stop` | prefill | images | logprobs | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        reasoning = {"never": "does not reason", "always": "**cannot be switched off**", None: "?"}.get(row.reasoning)
        if reasoning is None:
            sent = json.dumps(dict(row.off)) if row.off else ""
            reasoning = f"`{sent}`" if sent else "it is off"
        cells = [
            ", ".join(f"`{pattern}`" for pattern in row.models),
            f"`{row.limit_field}`" if row.limit_field else "?",
            reasoning,
            SAMPLED[row.sampling],
            *(SENT[value] for value in (row.stop, row.prefill, row.images, row.logprobs)),
            row.source,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


KNOWN: Mapping[str, str] = {"run": "run here", "source": "its source", "said": "what is said of it"}


def servers() -> str:
    """What is known of every kind of server, as Markdown."""
    lines = [
        "| `server` | `prefill` | `limit_field` | stream's usage | `n` in one call | log probabilities | known from |",
        "|---|---|---|---|---|---|---|",
    ]
    traps = ["", *(f"- **{kind}**: {row.traps}." for kind, row in SERVERS.items() if row.traps)]
    for kind, row in SERVERS.items():
        usage = "reported" if row.usage else "not reported"
        cells = [
            f"`{kind}`",
            f"`{row.prefill}`",
            f"`{row.limit_field}`" if row.limit_field else "by the model",
            usage if row.stream_usage or not row.usage else "reported unasked",
            SENT[row.samples],
            "by the model" if row.logprobs is None else SENT[row.logprobs],
            KNOWN[row.known],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *traps])


def proofs() -> str:
    """What the probe finds of each way at each kind of server, found now at their strict fakes, as Markdown."""
    from tests.fake_servers import STUDENTS
    from tests.fake_servers import proofs as find

    with capture_logs():
        found = asyncio.run(find())
    lines = [f"| server | {' | '.join(f'`{way}`' for way in WAYS)} |", f"|---|{'---|' * len(WAYS)}"]
    for kind in STUDENTS:
        cells = []
        for way in WAYS:
            proof = found[kind, way]
            own = "**" if SERVERS[kind].prefill == way else ""
            echo = "; the text is repeated, and taken away" if proof.echoes else ""
            cells.append(f"{own}{'proven' if proof.proven else proof.why.partition(':')[0]}{own}{echo}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def modules() -> str:
    """The tree of the packages with the first sentence of every module, as Markdown."""
    lines: list[str] = []
    for package in PACKAGES:
        lines += [f"{package}/", *_tree(ROOT / package, 1)]
    return "\n".join(["```text", *lines, "```"])


def _tree(folder: Path, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for path in sorted(folder.glob("*.py")):
        said = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if said:
            name = f"{indent}{path.name}"
            yield f"{name:<24} {_sentence(said, path)}".rstrip()
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))):
        yield f"{indent}{below.name}/"
        yield from _tree(below, depth + 1)


def _sentence(docstring: str, path: PurePath) -> str:
    """The first sentence of the first line, without the module's own name before it."""
    first = docstring.split("\n", 1)[0].split(". ", 1)[0].rstrip(".:")
    label, colon, rest = first.partition(": ")
    own = colon and len(label) < 20 and not label.startswith("`") and _squeezed(path.stem) in _squeezed(label)
    return rest if own else first


def _squeezed(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha()).rstrip("s")


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(each, name):,}"
        for each in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(each, name, None) is not None
    ]
    kind, null, _ = _type(field.annotation).partition(", or null")
    return " ".join([kind, *bounds]) + null


def _type(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "null"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is Union or type(annotation).__name__ == "UnionType":
        return ", or ".join(_type(each) for each in args)
    if origin is Annotated:
        return _type(args[0])
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return "list"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true, false", "Path": "file"}
    return words[annotation.__name__]


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required() or name == "kind":
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if model is Config and isinstance(value, dict | BaseModel) and value:
        return "see `config.yaml`" if isinstance(value, dict) else "see below"
    if isinstance(value, BaseModel):
        said = value.model_dump(exclude_defaults=True)
        return f"`{_flow(said)}`" if said else "see below"
    return f"`{_flow(value)}`"


def _flow(value: Any) -> str:
    """The value as it would be written in YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    return str(value)


def _meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    own = next((MEANING[key] for kind in model.__mro__ if (key := f"{kind.__name__}.{name}") in MEANING), None)
    if own is None and not field.description:
        raise LookupError(f"{model.__name__}.{name} is documented nowhere: give its Field a description")
    text = " ".join(part for part in (own, field.description) if part)
    return re.sub(r"\bNone\b", "null", text)


def write() -> None:
    """Write all pages."""
    for page, name, text in (
        ("configuration.md", "settings", settings()),
        ("architecture.md", "modules", modules()),
        ("observability.md", "metrics", metrics()),
        ("teachers.md", "teachers", teachers()),
        ("students.md", "servers", servers()),
        ("students.md", "proofs", proofs()),
    ):
        path = HERE / page
        path.write_text(replaced(path.read_text("utf-8"), name, text), "utf-8")


if __name__ == "__main__":
    write()
