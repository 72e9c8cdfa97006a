"""Embeddings: what a server that speaks OpenAI's `/embeddings` is asked, and its answer understood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from students.bodies import encode
from students.engine import Embedded, Vector
from students.errors import BadReply
from students.wire import read_usage


def body(model: str, texts: Sequence[str]) -> bytes:
    """The request for all texts at once."""
    return encode({"model": model, "input": list(texts), "encoding_format": "float"})


def read(reply: bytes, count: int) -> Embedded:
    """The answer to `count` texts. Raises `BadReply` for any other: a vector in the wrong place is a wrong answer."""
    try:
        told = orjson.loads(reply)
        rows = told["data"]
        vectors = {row["index"]: _vector(row["embedding"]) for row in rows}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise BadReply("the answer to /embeddings is none") from None
    if len(rows) != count or set(vectors) != set(range(count)) or len({len(each) for each in vectors.values()}) != 1:
        raise BadReply(f"not one vector for each of {count} texts")
    usage = told.get("usage")
    found = read_usage(usage) if isinstance(usage, dict) else None
    return Embedded(
        [vectors[place] for place in range(count)],
        None if found is None or found.input is None else replace(found, output=0),
    )


def cosine(one: Vector, other: Vector) -> float:
    """How near two vectors of one length are, from -1 to 1."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def _vector(told: Any) -> Vector:
    """Raises `ValueError`, `TypeError`: no vector with a direction."""
    vector = tuple(float(each) for each in told if not isinstance(each, bool | str))
    size = math.hypot(*vector)
    if len(vector) != len(told) or not 0 < size < math.inf:
        raise ValueError
    return vector
