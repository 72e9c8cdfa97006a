"""Policies: made from a workload, checked on the half that they never saw, and put where a gateway finds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evals.calibrate import Goal, calibrate
from evals.recorded import Workload
from evals.replay import play, totals
from gateway.cascade.policy import Policy
from gateway.errors import ConfigError
from pricing import tradeoff


def made(workload: Workload, goal: Goal, evidence: Mapping[str, Any]) -> Policy:
    """A policy calibrated on the calibration half; what the held half says of it, and `evidence`, stand in its own.

    Raises `evals.calibrate.Unsupported`.
    """
    seen, held = workload.halves()
    policy = calibrate(seen, workload.manifest, goal)
    check: dict[str, Any] = {"questions": len(held)}
    if held:
        scores, costs = totals(play(policy, workload.manifest, question) for question in held)
        teacher = [question.arms[workload.manifest.teacher] for question in held]
        found = tradeoff.compare(scores, costs, [arm.score for arm in teacher], [arm.cost for arm in teacher])
        check |= {
            "retention": _told(found.retention),
            "retention_interval": [_told(end) for end in found.retention_interval or ()],
            "cost_share": _told(found.cost_share),
        }
    return policy.model_copy(update={"evidence": {**policy.evidence, **evidence, "held": check}})


def publish(policy: Policy, path: Path, now: float) -> Path | None:
    """Put a policy at `path`, at once and as a whole; where the one that was there is kept: `NAME.N.yaml`, or None.

    N counts from 1, in the order in which policies were replaced, and nothing that is kept is ever written over. The
    new one says in its evidence its own number, `revision`, and when it was `created`. ConfigError: it cannot be.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        kept = _kept(path)
        told = {"revision": 1 if kept is None else int(kept.stem.rpartition(".")[2]) + 1, "created": _moment(now)}
        beside.write_text(policy.model_copy(update={"evidence": {**told, **policy.evidence}}).dump(), "utf-8")
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return kept


def _kept(path: Path) -> Path | None:
    """Give what is at `path` a second name, the next that is free; None: there is nothing."""
    number = 1
    while path.exists():
        name = path.with_name(f"{path.stem}.{number}{path.suffix}")
        try:
            name.hardlink_to(path)
        except FileExistsError:
            number += 1
        else:
            return name
    return None


def _moment(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _told(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
