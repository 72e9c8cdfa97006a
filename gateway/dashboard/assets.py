"""Assets: style sheet, scripts and icon, each under a URL that names its content, so that browsers keep it for ever."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gateway.dashboard import PATH
from gateway.errors import ConfigError

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PLOTLY = "plotly.min.js"
SMALL = 1_000
"""Bytes below which compressing is not worth it."""


@dataclass(frozen=True)
class Asset:
    """One file as it is served. `packed` is it in gzip; it is made on first use and takes a third of a second for
    the largest, so not on the event loop."""

    name: str
    body: bytes

    @cached_property
    def digest(self) -> str:
        """The first of the SHA-256 of the content."""
        return hashlib.sha256(self.body).hexdigest()[:16]

    @property
    def media_type(self) -> str:
        return TYPES[Path(self.name).suffix]

    @property
    def url(self) -> str:
        return f"{PATH}/assets/{self.digest}/{self.name}"

    @cached_property
    def packed(self) -> bytes | None:
        """None for what is small."""
        return gzip.compress(self.body, 6, mtime=0) if len(self.body) > SMALL else None


class Assets:
    """All files by name. The charts' script is plotly's own, out of its wheel, whose Python code is not imported."""

    def __init__(self) -> None:
        files = [*sorted(STATIC.iterdir()), _plotly()]
        self.files: Mapping[str, Asset] = {file.name: Asset(file.name, file.read_bytes()) for file in files}

    def url(self, name: str) -> str:
        """Where `name` is served."""
        return self.files[name].url

    @cached_property
    def inline_styles(self) -> list[str]:
        """Ids of the style sheets that plotly would put into a page for map charts, were they not there already.

        Our security policy forbids them, and the pages have no maps.
        """
        found = re.findall(rb'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)', self.files[PLOTLY].body)
        return sorted({each.decode() for each in found})


def _plotly() -> Path:
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ConfigError("the dashboard needs the package plotly: pip install plotly")
    return Path(spec.origin).parent / "package_data" / PLOTLY
