"""The page: a whole report as one HTML file that asks nobody for anything, styled and drawn as the dashboard is.

Its security policy allows exactly the scripts and the style sheet that it was written with, by their hashes, and no
connection at all: what a model or a dataset said is text, whatever it looks like.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.conversations import LIMIT, Shown, shown
from evals.figures import figures
from evals.results import Result
from evals.sheets import head, parts
from evals.summary import Summary
from gateway.dashboard.assets import PLOTLY, Assets

STATIC = Path(__file__).parent / "static"


def page(summary: Summary, results: Sequence[Result], *, limit: int = LIMIT) -> str:
    """The HTML of a report. `limit`: characters of conversations from which on answers are left out, and said to be.

    ConfigError: there is no plotly, whose script the charts are drawn with.
    """
    assets = Assets()
    styles = assets.files["dashboard.css"].body.decode() + (STATIC / "report.css").read_text("utf-8")
    drawing = assets.files[PLOTLY].body.decode()
    own = assets.files["dashboard.js"].body.decode() + (STATIC / "report.js").read_text("utf-8")
    kept = shown(summary.run, results, limit=limit)
    policy = (
        f"default-src 'none'; script-src {_allowed(drawing)} {_allowed(own)}; style-src {_allowed(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("report.html")
        .render(
            run=summary.run,
            created=datetime.fromtimestamp(summary.run.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            head=head(summary),
            parts=list(zip(parts(summary), figures(summary), strict=True)),
            shown=kept,
            data=_json(kept),
            policy=policy,
            styles=_inline(styles),
            drawing=_inline(drawing),
            own=_inline(own),
            map_styles=assets.inline_styles,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("evals", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inline(text: str) -> Markup:
    """A file of our own or of plotly's, as the content of its element; ValueError where it would end that element."""
    if "</script" in text.lower() or "</style" in text.lower():
        raise ValueError("a script or style sheet that cannot stand in a page")
    return Markup(text)  # noqa: S704 - files of this package and of plotly's wheel


def _json(kept: Shown) -> Markup:
    """For a script element: no `<` can end it."""
    made = orjson.dumps({"texts": kept.texts, "cells": kept.cells, "rows": kept.rows}).decode()
    return Markup(made.replace("<", "\\u003c"))  # noqa: S704 - JSON, in an element that is not HTML
