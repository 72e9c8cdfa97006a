"""GGUF files, as transformers reads them: once, and not three times over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SLOW = ("GGUFReader", "get_tensor_name_map")
"""What transformers calls with the same arguments again and again: the first three times, a second or more each, for
the tokenizer, the configuration and the weights; the second one for each of a model's parts, 27 ms each."""


@contextmanager
def read_once() -> Iterator[None]:
    """What is read of a GGUF file inside is kept until the end. For one thread at a time; needs the `gguf` package."""
    import gguf

    before = {name: getattr(gguf, name) for name in SLOW}
    for name, slow in before.items():
        setattr(gguf, name, cache(slow))
    try:
        yield
    finally:
        for name, slow in before.items():
            setattr(gguf, name, slow)
