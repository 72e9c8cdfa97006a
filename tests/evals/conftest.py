"""The browser that reports are opened in."""

from __future__ import annotations

import os
from functools import cache

import pytest

from docs.browser import found

NEEDED = os.environ.get("GKT_NEED_BROWSER") == "1"


@cache
def browser() -> str | None:
    return found()


@pytest.fixture
def chromium() -> str:
    """The browser's path; without one the test is skipped, or fails where one is needed."""
    path = browser()
    if path is None and NEEDED:
        pytest.fail("GKT_NEED_BROWSER is set and there is no browser: `make browser` installs one")
    return path or pytest.skip("there is no browser: `make browser` installs one")
