"""Tokens: our counts are the recorded ones; a cut never tears a character; no vocabulary is ever harmed."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha1
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import tokens
from pricing.tokens import CACHE_VARIABLE, Count, Vocabulary, count, cut, encoding_for, own_encoding

O200K = Vocabulary.load("o200k_base")
needs_vocabulary = pytest.mark.skipif(O200K is None, reason="no vocabulary on this machine")


def loaded(name: str) -> Vocabulary:
    vocabulary = Vocabulary.load(name)
    assert vocabulary is not None
    return vocabulary


def file_of(name: str) -> str:
    return sha1(tokens.SOURCE.format(name).encode(), usedforsecurity=False).hexdigest()


@needs_vocabulary
def test_our_counts_are_the_recorded_counts(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "chatgpt_gsm8k.jsonl").read_text(encoding="utf-8").splitlines()]
    sample = rows[::13][:200]
    assert len(sample) == 200
    assert len({row["cl100k_tokens"] for row in sample}) > 50
    for row in sample:
        assert count(row["response"], "gpt-3.5-turbo-0613") == Count(row["cl100k_tokens"], "counted")


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-2024-08-06", "o200k_base"),
        ("openai/gpt-4o-mini", "o200k_base"),
        ("openrouter/openai/gpt-4o", "o200k_base"),
        ("ft:gpt-4o-mini:me::1", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-4.1-mini", "o200k_base"),
        ("gpt-5.6-terra", "o200k_base"),
        ("gpt-6.1-terra", "o200k_base"),
        ("gpt-6-sol", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-1106-preview", "cl100k_base"),
        ("azure/gpt-35-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0613", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
        ("gpt-7", None),
        ("gpt-4.7", None),
        ("o1x", None),
        ("someone/gpt-4-distilled", None),
        ("Llama-3.1-8B-Instruct", None),
        ("SmolLM2-135M-Instruct", None),
        ("claude-sonnet-5-5", None),
        ("", None),
    ],
)
def test_whose_vocabulary_is_known(model: str, encoding: str | None) -> None:
    assert own_encoding(model) == encoding
    assert encoding_for(model) == (encoding or "o200k_base")


@needs_vocabulary
def test_another_vocabulary_makes_it_an_estimate() -> None:
    text = "Natalia sold clips to 48 of her friends."
    assert count(text, "gpt-4o").source == "counted"
    assert count(text, "SmolLM2-135M-Instruct") == Count(count(text, "gpt-4o").tokens, "estimated")


def test_without_a_vocabulary_it_is_a_quarter_of_the_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(tokens, "_litellm_folder", lambda: None)
    assert Vocabulary.load("o200k_base") is None
    assert count("", "gpt-4o") == Count(0, "estimated")
    assert count("abcd", "gpt-4o") == Count(1, "estimated")
    assert count("abcde", "gpt-4o") == Count(2, "estimated")
    assert count("\ud800", "gpt-4o") == Count(1, "estimated")
    with pytest.raises(LookupError, match="o200k_base is not on this machine"):
        cut("text", 1, "o200k_base")
    assert list(tmp_path.iterdir()) == []


@needs_vocabulary
def test_the_operators_directory_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = next(tokens._paths("p50k_base", None))
    shutil.copy(source, tmp_path / file_of("p50k_base"))
    assert next(tokens._paths("p50k_base", str(tmp_path))).parent == tmp_path
    monkeypatch.setattr(tokens, "_litellm_folder", lambda: None)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert loaded("p50k_base").encode("Hello world") == [15496, 995]
    assert os.environ[CACHE_VARIABLE] == str(tmp_path)


@needs_vocabulary
def test_a_file_put_there_later_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = next(tokens._paths("cl100k_base", None))
    monkeypatch.setattr(tokens, "_litellm_folder", lambda: None)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert Vocabulary.load("cl100k_base") is None
    shutil.copy(source, tmp_path / file_of("cl100k_base"))
    assert Vocabulary.load("cl100k_base") is not None


def test_a_damaged_file_is_left_alone_and_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / file_of("o200k_base")
    damaged.write_bytes(b"IQ== 0\n")
    monkeypatch.setattr(tokens, "_litellm_folder", lambda: None)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert Vocabulary.load("o200k_base") is None
    assert damaged.read_bytes() == b"IQ== 0\n"


@needs_vocabulary
def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    tokens._load.cache_clear()
    assert Vocabulary.load("p50k_base") is not None
    assert CACHE_VARIABLE not in os.environ


@needs_vocabulary
def test_special_tokens_in_a_text_are_text() -> None:
    for name in ("o200k_base", "cl100k_base"):
        ids = loaded(name).encode("<|endoftext|>")
        assert len(ids) > 1
        assert loaded(name).decode_bytes(ids) == b"<|endoftext|>"


@needs_vocabulary
@given(st.text())
def test_encoding_loses_nothing(text: str) -> None:
    for name in ("o200k_base", "cl100k_base"):
        vocabulary = loaded(name)
        assert vocabulary.decode_bytes(vocabulary.encode(text)) == text.encode()


@needs_vocabulary
@given(st.text() | st.text("aé漢😀👩‍🚀 \n1", max_size=40), st.integers(0, 30))
def test_a_cut_is_a_beginning_of_the_text(text: str, limit: int) -> None:
    for name in ("o200k_base", "cl100k_base"):
        vocabulary = loaded(name)
        ids = vocabulary.encode(text)
        kept, used = vocabulary.cut(text, limit)
        assert text.startswith(kept)
        assert used == min(limit, len(ids))
        rest = vocabulary.decode_bytes(ids[:used])[len(kept.encode()) :]
        assert len(rest) < 4  # less than one code point is left out
        if len(ids) <= limit:
            assert kept == text


@needs_vocabulary
def test_a_split_code_point_is_left_out_and_its_tokens_are_counted() -> None:
    text = "ok 🧑🏽"
    ids = loaded("cl100k_base").encode(text)
    torn = [n for n in range(len(ids)) if not text.encode().startswith(cut(text, n, "cl100k_base")[0].encode())]
    assert torn == []
    shown = [cut(text, n, "cl100k_base") for n in range(len(ids) + 1)]
    assert shown[0] == ("", 0)
    assert shown[-1] == (text, len(ids))
    assert any(a[0] == b[0] for a, b in pairwise(shown))  # one token that shows nothing
    assert not any("\ufffd" in kept for kept, _ in shown)


@needs_vocabulary
def test_what_is_no_text_is_counted_too() -> None:
    assert count("a\ud800b", "gpt-4o").tokens > 0
    assert cut("a", -1, "o200k_base") == ("", 0)
