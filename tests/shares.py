"""Which tests one process gets, when several run them (`pytest -n 2`)."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ENGINES = "tests/contracts/test_engine.py"
LOADED = "tests/students/test_smollm2.py"
"""Waits for what the contract suite's engine `transformers` waits for, which is loaded once a process."""


class Shares(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file is one process's, for its fixtures are made once; of the engines' contract suite, an engine is.

    The longest come first, in the order in which they were collected.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        engine = test.partition("[")[2].removesuffix("]")
        if file != ENGINES or not engine:
            return file
        return LOADED if engine == "transformers" else f"{file}[{engine}]"
