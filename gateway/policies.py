"""Policies: the files that routes name, read and checked, and the upstreams of the students that they ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.cascade.policy import Policy
from gateway.config import Config, Route
from gateway.errors import ConfigError

EVEN = 0.5
"""A confidence that says nothing: the bound is the mean."""


class Ladder(NamedTuple):
    """A policy of cascades, and the upstream of each student that it names."""

    policy: Policy
    students: Mapping[str, str]


def load(config: Config) -> dict[str, Ladder]:
    """Read the policy of every route that names one. Raises `ConfigError` with the route, and what mends it."""
    ladders: dict[str, Ladder] = {}
    for name, route in config.routes.items():
        if route.policy is None:
            continue
        try:
            policy = Policy.load(route.policy)
            try:
                _vouches(policy, route, config)
                students = {rung.student: _seat(rung.student, route, config) for rung in policy.rungs}
            except ConfigError as error:
                raise ConfigError(f"the policy {route.policy.name} {error}") from None
        except ConfigError as error:
            raise ConfigError(f"route {name!r}: {error}") from None
        ladders[name] = Ladder(policy, students)
    return ladders


def incomparable(config: Config, ladders: Mapping[str, Ladder]) -> dict[str, str]:
    """The routes of cascades whose drafts agree only where they are the very same text, and what mends it.

    Such a cascade pays all its students and then the teacher, for nobody sees two of them say the same.
    """
    found: dict[str, str] = {}
    for name, ladder in ladders.items():
        route = config.routes[name]
        kind = ladder.policy.kind or route.answers
        if kind is None:
            found[name] = (
                "answers that say nowhere what they finally are cannot be compared: set `answers` on the route "
                "(number, choice, json or text; `meaning` for free text, `code` for programs), unless all do so"
            )
        elif kind == "meaning" and route.meaning is None:
            found[name] = "set `meaning: {by: embedding, upstream: NAME}` or `{by: judge, upstream: NAME}` on the route"
        elif kind == "code" and not route.run_code:
            found[name] = "set `run_code: true` on the route, which runs programs that models wrote; see SECURITY.md"
    return found


def _seat(student: str, route: Route, config: Config) -> str:
    """The upstream of a student: as the route says, or of that name, or the only one with that model."""
    served = [upstream for upstream, spec in config.upstreams.items() if spec.model == student]
    found = route.students.get(student) or (student if student in config.upstreams else None)
    if found is None and len(served) == 1:
        found = served[0]
    if found is None:
        many = f"several upstreams have this model ({', '.join(served)})" if served else "no upstream has this name"
        raise ConfigError(
            f"asks the student {student!r}, and {many}; say which upstream it is: `students: {{{student}: UPSTREAM}}`"
        )
    if found == route.teacher:
        raise ConfigError(
            f"asks the student {student!r}, whose upstream is the teacher's own; map it to another one in `students`"
        )
    return found


def _vouches(policy: Policy, route: Route, config: Config) -> None:
    """Raises `ConfigError` unless the policy's evidence shows the retention that the route wants."""
    if route.target is None:
        return
    wanted = route.target.retention
    mend = f"calibrate anew with `gkt calibrate ... --retention {wanted:g}`, or lower target.retention"
    low: Any = policy.evidence.get("retention_low")
    if not isinstance(low, int | float) or isinstance(low, bool):
        raise ConfigError(f"has no `retention_low` in its evidence, and target asks for one; {mend}")
    if low < wanted:
        raise ConfigError(f"vouches for a retention of {low:g}, and target asks for {wanted:g}; {mend}")
    aim: Any = policy.evidence.get("target")
    sure: Any = aim.get("confidence") if isinstance(aim, Mapping) else None
    known = isinstance(sure, int | float) and not isinstance(sure, bool)
    asked = route.target.confidence
    if (known and (sure <= EVEN or sure < (asked or EVEN))) or (asked is not None and not known):
        told = f"with a confidence of {sure:g}" if known else "without saying how surely"
        least = f"{asked:g}" if asked is not None else f"more than {EVEN:g}, which is an even chance"
        raise ConfigError(
            f"vouches for its retention {told}, and target asks for {least}; calibrate anew with "
            f"`gkt calibrate ... --retention {wanted:g} --confidence {asked or 0.95:g}`"
        )
    teachers = {route.teacher, route.teacher_model, config.upstreams[route.teacher].model if route.teacher else None}
    if policy.teacher.model not in teachers:
        raise ConfigError(
            f"was calibrated on the teacher {policy.teacher.model!r}, which is not this route's, and its evidence says "
            "nothing of another one: set teacher or teacher_model, calibrate anew, or drop target"
        )
