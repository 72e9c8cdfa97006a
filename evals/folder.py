"""Folder: where a run is, who may write there, and what identifies it, so that no other run goes on there."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from evals.results import RESULTS, RUN, Cell, Run, read
from evals.scorers import JUDGE_PROMPT
from evals.tasks import Task
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.strategies.prompts import BUILT_IN, Prompts

if TYPE_CHECKING:
    from evals.asking import Asker
    from evals.runner import Options

LOCK = "run.lock"

IDENTITY = ("seed", "cells", "tasks", "prices", "settings")
"""Fields of a run that a run which goes on must have too."""

APART = frozenset({"policy", "shadow", "holdout", "overrides", "pass_key", "target", "guidance_cache", "answers"})
"""Settings of a route that decide no answer of a run; of its policy the content does, whatever its file's name."""

TOLD = 5
"""So many differences are named."""


def settings(
    tasks: Mapping[str, Task],
    cells: Sequence[Cell],
    *,
    routes: Sequence[str],
    config: Config | None,
    elsewhere: str | None,
    student_shots: int = 0,
) -> dict[str, Any]:
    """What decides answers beside a run's cells and questions: the prompts word by word, and how `routes` are set.

    Texts are told as the beginnings of their SHA-256. `config` is the gateway's; None: it is `elsewhere`, and what its
    routes say is not known. ConfigError: a file that it names cannot be read.
    """
    told: dict[str, Any] = {"elsewhere": elsewhere, "prompts": {}, "exemplars": {}}
    for name, task in tasks.items():
        shots = sorted({cell.exemplars for cell in cells if cell.task == name})
        asked = [[task.messages(item, each) for item in task.items] for each in shots]
        told["prompts"][name] = _hash([asked, [task.stop(each) for each in shots], task.pairs(student_shots)])
        told["exemplars"][name] = _hash(list(map(list, task.exemplars[: max(shots, default=0)])))
    if any(item.scorer == "judge" for task in tasks.values() for item in task.items):
        told["prompts"]["judge"] = _hash(JUDGE_PROMPT)
    if config is None:
        return told
    known = {name: config.routes.get(name) or config.routes.get("*") for name in routes}
    told["routes"] = {name: _route(route.model_dump(mode="json"), name) for name, route in known.items() if route}
    names = {name for cell in cells for name in (cell.teacher, cell.student) if name is not None}
    names |= {name for route in known.values() if route for name in (route.teacher, route.student) if name is not None}
    told["models"] = {name: config.upstreams[name].model for name in sorted(names) if name in config.upstreams}
    prompts = Prompts(config.prompts)
    named = {*BUILT_IN, *(route.guidance_prompt for route in known.values() if route and route.guidance_prompt)}
    told["instructions"] = {name: _hash(prompts[name].text) for name in sorted(named)}
    return told


def described(name: str, tasks: Mapping[str, Task], cells: Sequence[Cell], options: Options, asker: Asker) -> Run:
    """A run that begins now: what was asked for, of the questions that were drawn. ConfigError as `settings`."""
    told = {
        task.name: {
            "sha256": task.sha256,
            "scorer": task.scorers,
            "questions": len(task.items),
            "max_tokens": options.max_tokens,
            "samples": options.samples,
            "asked": sha256(" ".join(sorted(item.id for item in task.items)).encode()).hexdigest(),
            "models": {"": options.model, **(options.routes or {})},
            "judge": options.judge,
            "student_shots": len(task.pairs(options.student_shots)),
        }
        for task in tasks.values()
    }
    routes = [options.model, *(options.routes or {}).values(), *([options.judge] if options.judge else [])]
    shots = options.student_shots
    facts = settings(tasks, cells, routes=routes, config=asker.config, elsewhere=asker.elsewhere, student_shots=shots)
    prices = {model: dict(price) for model, price in (options.prices or {}).items()}
    made = version("gkt-gateway")
    return Run(name, time.time(), options.seed, made, list(cells), told, prices, list(options.notes), facts)


def begun(folder: Path, wanted: Run) -> Run:
    """The run of the folder: the one that was begun there, if it is the same, else this one, from now on.

    ConfigError: there is another run, and the message names what differs.
    """
    if not (folder / RUN).exists():
        if (folder / RESULTS).exists():
            raise ConfigError(f"{folder} has results and no {RUN}")
        part = folder / f"{RUN}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(wanted)))
        part.replace(folder / RUN)
        return wanted
    there, _ = read(folder)
    one, other = msgspec.to_builtins(there), msgspec.to_builtins(wanted)
    for field in IDENTITY:
        found = list(_differences(one[field], other[field], ""))
        if field == "settings" and not one[field]:
            raise ConfigError(f"{folder} has a run of an earlier version, which did not say how it asked; take another")
        if found:
            more = f" and {len(found) - TOLD} more" if len(found) > TOLD else ""
            raise ConfigError(
                f"{folder} has a run with other {field} ({', '.join(found[:TOLD])}{more}); take another folder, or ask "
                "for the same again"
            )
    return there


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone. ConfigError: another one runs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another process runs in {folder}") from None
        yield


def _route(told: dict[str, Any], name: str) -> dict[str, Any]:
    path = told["policy"]
    kept = {key: value for key, value in told.items() if key not in APART and value is not None}
    if path is not None:
        try:
            kept["policy"] = sha256(Path(path).read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise ConfigError(f"route {name}: its policy {path}: {error.strerror}") from error
    return kept


def _hash(of: object) -> str:
    return sha256(orjson.dumps(of, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _differences(one: Any, other: Any, place: str) -> Iterator[str]:
    """Where two values differ, and how, from the outside in; `one` is what is there."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differences(one.get(key), other.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (each, beside) in enumerate(zip(one, other, strict=True)):
            yield from _differences(each, beside, f"{place}[{number}]")
    elif isinstance(one, list) and isinstance(other, list):
        yield f"{place} {len(one)} of them, not {len(other)}".strip()
    elif one != other:
        yield f"{place} {one}, not {other}".strip()
