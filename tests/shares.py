"""Which tests one process gets, when several run them (`pytest -n 2`)."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SPLIT = ("tests/contracts/test_engine.py", "tests/gateway/test_tradeoff_coverage.py")
"""Minutes of work, each parameter's independent of the others: an engine, a workload."""

LOADED = "tests/students/test_smollm2.py"
"""Waits for what the contract suite's engine `transformers` waits for, which is loaded once a process."""


class Shares(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file is one process's, for its fixtures are made once; of the longest ones, a parameter is.

    Shares are handed out in the order in which their tests were collected.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parameter = test.partition("[")[2].removesuffix("]")
        if file not in SPLIT or not parameter:
            return file
        return LOADED if parameter == "transformers" else f"{file}[{parameter}]"
