"""The dashboard and the alerts name metrics and labels that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from docs.pages import ROOT
from gateway.metrics import COUNTERS, GAUGES, HISTOGRAMS, KINDS, RELOADS, STAGES

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
TESTS = ALERTS.with_name("alerts_test.yaml")

SERIES: dict[str, tuple[str, ...]] = {name: told.labels for name, told in {**COUNTERS, **GAUGES}.items()} | {
    name + suffix: (*told.labels, "le") if suffix == "_bucket" else told.labels
    for name, told in HISTOGRAMS.items()
    for suffix in ("_bucket", "_count", "_sum")
}
VALUES: dict[str, set[str]] = {
    "stage": set(STAGES),
    "direction": {direction for direction, _ in KINDS},
    "kind": {kind for _, kind in KINDS},
    "stream": {"true", "false"},
}
OUTCOMES: dict[str, set[str]] = {
    "gkt_config_reload_total": set(RELOADS),
    "gkt_requests_total": {"ok", "failed", "abandoned"},
    "gkt_stage_duration_seconds_count": {"ok", "failed", "cut"},
}


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if panel["type"] != "row")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]


EXPRESSIONS: list[Any] = [
    *(pytest.param(each["expr"], id=panel["title"]) for panel in panels() for each in panel["targets"]),
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in rules()),
]


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric that an expression names, with what stands in its braces."""
    for found in re.finditer(r"\b(gkt_\w+)(?:\{([^}]*)\})?", expression):
        yield found.group(1), found.group(2) or ""


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_it_names_is_there(expression: str) -> None:
    named = list(selectors(expression))
    assert named
    for name, matchers in named:
        assert name in SERIES
        for label, value in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', matchers):
            assert label in SERIES[name]
            if label == "outcome":
                assert value in OUTCOMES[name]
            elif label in VALUES:
                assert value in VALUES[label]
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in re.split(r"\s*,\s*", group):
            assert any(label in SERIES[name] for name, _ in named)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_counters_are_rated(expression: str) -> None:
    for name in re.findall(r"\b(?:rate|increase)\((gkt_\w+)", expression):
        assert name not in GAUGES
    for name, _ in selectors(expression):
        assert name in GAUGES or re.search(rf"\b(?:rate|increase)\({name}\b", expression), "a bare counter says little"


def test_legends_name_labels_that_are_left() -> None:
    for panel in panels():
        for target in panel["targets"]:
            kept = {label for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_every_metric_is_shown_somewhere() -> None:
    shown = {name for parameter in EXPRESSIONS for name, _ in selectors(str(parameter.values[0]))}
    for name in {**COUNTERS, **GAUGES, **HISTOGRAMS}:
        assert any(each.startswith(name) for each in shown), name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_alerts_say_what_to_do_and_are_all_tested() -> None:
    bad = yaml.safe_load(TESTS.read_text("utf-8"))["tests"][-1]["promql_expr_test"][0]["exp_samples"]
    assert {re.sub(r'.*"(\w+)".*', r"\1", sample["labels"]) for sample in bad} == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_prometheus_agrees() -> None:
    """Its own tool checks the alerts and plays a good and a bad hour to them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    for command, file in (("check", ALERTS), ("test", TESTS)):
        done = subprocess.run([promtool, command, "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
