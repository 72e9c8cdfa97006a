"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

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
