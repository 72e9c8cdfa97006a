"""Fixtures that all tests share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the gateway does."""
    return "asyncio"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded answers; the test is skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip("recorded answers are not at hand (../shared/data)")
    return DATA
