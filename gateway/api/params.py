"""Params: the fate of every parameter of the chat completions API, as a table that code, docs and tests read.

`python -m gateway.api.params > docs/parameters.md` writes the page of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from gateway.api import checks
from gateway.api.checks import Check
from gateway.chat import Need

Fate = Literal["gateway", "student", "teacher", "writer", "refused"]
"""Who a parameter is for; `MEANING` says it in words. `writer` is whichever model writes the answer."""

MEANING: dict[Fate, str] = {
    "gateway": "Used by the gateway itself.",
    "student": "Chooses tokens: the caller's word to the student, and to the teacher where it writes the whole answer. "
    "While the teacher writes guidance, its own settings from the configuration hold.",
    "teacher": "Sent with every call to the teacher; the student never sees it.",
    "writer": "Sent to the model that writes the answer, whichever the plan says that is.",
    "refused": "Answered with a 400 that names it.",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its fate, why, and what it may hold.

    `need` is what a chat that uses it needs; `idle` is true of the values that only say what holds anyway, which
    are checked, create no need and are sent to nobody. Null means that the parameter was not given.
    """

    name: str
    fate: Fate
    why: str
    check: Check = checks.kept
    need: Need | None = None
    idle: Callable[[Any], bool] | None = None
    idle_words: str = ""


OTHER_LIMITS = ("n_predict", "num_predict", "max_new_tokens", "max_length", "best_of", "n_cmpl")
"""How llama.cpp, Ollama, TGI, transformers and vLLM spell limits of their own. They would reach the model as unknown
fields do, and there overrule the one that is booked and bounded."""


def _table() -> Iterable[Parameter]:
    p = Parameter
    yield p("model", "gateway", "Names the route; the answer echoes it.", checks.text(256))
    yield p("messages", "gateway", "Become the prompts of both models; unknown keys in them are kept.")
    yield p("stream", "gateway", "The same answer as events, or folded into one object.", checks.boolean)
    yield p(
        "stream_options",
        "gateway",
        "`include_usage` adds the last chunk with the totals; `include_obfuscation` has no effect, nothing is padded.",
        checks.stream_options,
    )
    yield p(
        "n",
        "gateway",
        "One guidance, that many answers of the writer.",
        checks.integer(1, 128),
        need="samples",
        idle=lambda value: value == 1,
        idle_words="1",
    )
    limit = "Bounds the visible answer: the guidance is counted, the student gets what is left."
    yield p("max_completion_tokens", "gateway", limit, checks.integer(1))
    yield p("max_tokens", "gateway", limit + " The old name; giving both is refused.", checks.integer(1))
    yield p("metadata", "gateway", "Stays with the request in this gateway; no model is sent it.", checks.metadata)
    yield p("gkt", "gateway", "Overrides of the route for this request; also as `x-gkt-*` headers.")

    yield p("temperature", "student", "Sampling.", checks.number(0, 2))
    yield p("top_p", "student", "Sampling.", checks.number(0, 1))
    yield p("seed", "student", "Sampling.", checks.integer(-checks.MAX_SEED - 1, checks.MAX_SEED))
    yield p("presence_penalty", "student", "Sampling.", checks.number(-2, 2))
    yield p("frequency_penalty", "student", "Sampling.", checks.number(-2, 2))
    yield p("logit_bias", "student", "Its token ids are of one vocabulary, that of the writer.", checks.logit_bias)
    yield p("stop", "student", "The gateway itself honours it too, across the seam of both texts.", checks.stop)
    yield p(
        "logprobs",
        "student",
        "Given for the tokens whose writer reports them, never invented.",
        checks.boolean,
        need="logprobs",
        idle=lambda value: not value,
        idle_words="false",
    )
    yield p("top_logprobs", "student", "Allowed with `logprobs` alone.", checks.integer(0, 20))

    yield p(
        "tools",
        "writer",
        "A call of a tool is no text that a second model could go on with.",
        checks.mappings,
        need="tools",
        idle=lambda value: not value,
        idle_words="an empty array",
    )
    yield p("tool_choice", "writer", "Belongs to `tools`.", checks.string_or_mapping)
    yield p("parallel_tool_calls", "writer", "Belongs to `tools`.", checks.boolean)
    yield p(
        "functions",
        "writer",
        "The old name of `tools`.",
        checks.mappings,
        need="tools",
        idle=lambda value: not value,
        idle_words="an empty array",
    )
    yield p("function_call", "writer", "The old name of `tool_choice`.", checks.string_or_mapping)
    yield p(
        "response_format",
        "writer",
        "A grammar starts at the first token, so JSON cannot be begun by another model.",
        checks.response_format,
        need="json",
        idle=lambda value: value["type"] == "text",
        idle_words='`{"type": "text"}`',
    )
    yield p(
        "modalities",
        "writer",
        "Speech cannot be begun by another model.",
        checks.strings,
        need="audio",
        idle=lambda value: value == ["text"] or not value,
        idle_words='`["text"]`, with which `audio` is idle too',
    )
    yield p("audio", "writer", "Belongs to `modalities`.", checks.mapping, need="audio")
    yield p(
        "prediction",
        "writer",
        "Is compared with the answer token by token by the model that writes it.",
        checks.mapping,
        need="predicted_output",
    )
    yield p("web_search_options", "writer", "Only some teachers search.", checks.mapping, need="web_search")

    yield p("reasoning_effort", "teacher", "Overrules the effort in the configuration.", checks.text(64))
    yield p("verbosity", "teacher", "A setting of OpenAI's models.", checks.text(64))
    yield p("service_tier", "teacher", "Decides what the teacher's tokens cost.", checks.text(64))
    yield p("prompt_cache_key", "teacher", "Steers the teacher's prompt cache.", checks.text())
    yield p("prompt_cache_options", "teacher", "Steers the teacher's prompt cache.", checks.mapping)
    yield p("prompt_cache_retention", "teacher", "Steers the teacher's prompt cache.", checks.text(64))
    yield p("safety_identifier", "teacher", "Tells the teacher's provider users apart.", checks.text())
    yield p("user", "teacher", "The old name of `safety_identifier` and `prompt_cache_key`.", checks.text())
    yield p(
        "store",
        "teacher",
        "The provider keeps what the teacher wrote: the whole answer, or the guidance alone.",
        checks.boolean,
    )
    yield p(
        "moderation",
        "refused",
        "The provider would judge the teacher's words only, so the promise could not be kept for the student's.",
    )
    for name in OTHER_LIMITS:
        yield p(
            name, "refused", "Another server's word for what `max_tokens` or `n` limits; it may overrule them there."
        )


PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _table()}


def markdown() -> str:
    """The page of the documentation, generated from the table."""
    lines = [
        "# Every request parameter and its fate",
        "",
        "Generated by `python -m gateway.api.params > docs/parameters.md`; a test compares the two.",
        "",
        "Fields of `POST /v1/chat/completions`. Wrong types and values out of range are a 400 that names the field, in",
        "OpenAI's shape. Null is the same as absent. A field that this page does not name goes, as it is, to the model",
        "that writes the answer (`top_k`, `min_p`, `chat_template_kwargs`, ...).",
        "",
        "Some parameters create a *need*. A chat that guidance cannot honour is planned otherwise by the rules under",
        "`unguidable` in the configuration, and the receipt says why.",
    ]
    for fate, meaning in MEANING.items():
        lines += ["", f"## {fate}", "", meaning, "", "| parameter | why | need |", "|---|---|---|"]
        for parameter in PARAMETERS.values():
            if parameter.fate == fate:
                need = f"{parameter.need}" if parameter.need else ""
                if parameter.idle_words:
                    need += f", not by {parameter.idle_words}"
                lines.append(f"| `{parameter.name}` | {parameter.why} | {need} |")
    lines += [
        "",
        "## What is in the messages",
        "",
        "| in `messages` | need |",
        "|---|---|",
        "| a text as the last message of role `assistant`: the caller's own beginning of the answer | prefix |",
        "| a part of type `image_url`, `file`, or of a type that is not known | images |",
        "| a part of type `input_audio`, or an earlier answer's `audio` | audio |",
        "| `tool_calls`, `function_call`, or a message of role `tool` or `function` | tools |",
        "",
        "A last message of role `assistant` without any text says nothing and is dropped: servers disagree about it.",
        "",
        "## Overrides",
        "",
        'Under `gkt` in the body (`extra_body={"gkt": {...}}` in the SDK), or as headers; the body wins.',
        "",
        "| in `gkt` | header | value |",
        "|---|---|---|",
        "| `strategy` | `x-gkt-strategy` | teacher, student, cut-off, concise, hint or cascade |",
        "| `guidance_tokens` | `x-gkt-guidance-tokens` | 1 to 4096 |",
        "| `teacher` | `x-gkt-teacher` | the name of an upstream |",
        "| `student` | `x-gkt-student` | the name of an upstream |",
        "| `guidance_prompt` | `x-gkt-guidance-prompt` | the name of a guidance prompt |",
        "| `placement` | `x-gkt-placement` | prefix or context |",
        "| `cache` | `x-gkt-cache` | false: the teacher is asked, whatever is kept, and nothing is kept of it |",
        "",
        "One more header is no override: `x-gkt-provider-key`, the caller's own key for the teacher's provider, on",
        "routes with `pass_key`. See [keys](keys.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
