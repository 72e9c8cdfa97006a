"""Tokens: counting them when nobody reported how many there were, with vocabularies found on this machine."""

from __future__ import annotations

import os
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1, sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from pricing.litellm_map import installed

if TYPE_CHECKING:
    from tiktoken import Encoding

CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
SOURCE = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"

# The SHA-256 of each vocabulary's file. tiktoken deletes a file that does not match, and then downloads: so a file
# is shown to it only after it was checked here.
DIGESTS = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
}
USUAL = "o200k_base"

# Whose vocabulary is public, first match wins. gpt-oss has a few more special tokens, which text never contains.
OWN = (
    (re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-[56]|gpt-oss|o[134])(?![^-.:@])"), "o200k_base"),
    (re.compile(r"(gpt-4|gpt-3\.5|gpt-35|babbage-002|davinci-002|text-embedding)(?![^-:@])"), "cl100k_base"),
    (re.compile(r"text-davinci-00[23](?![^-:@])"), "p50k_base"),
)

_environment = Lock()


@dataclass(frozen=True, slots=True)
class Count:
    """How many tokens a text has: `counted` with the model's own vocabulary, or `estimated` without it."""

    tokens: int
    source: Literal["counted", "estimated"]


class Vocabulary:
    """One of OpenAI's byte-pair vocabularies. Immutable; safe to share between threads."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self.name = encoding.name

    @classmethod
    def load(cls, name: str) -> Vocabulary | None:
        """The vocabulary `name`, or None when its file is not on this machine; it is never downloaded.

        It is looked for in the directory that TIKTOKEN_CACHE_DIR names, then in the installed litellm, which need
        not be importable. The first load of a vocabulary takes up to half a second, a later one a microsecond.
        """
        try:
            return _load(name, os.environ.get(CACHE_VARIABLE))
        except LookupError:
            return None

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`. What looks like a special token in it is ordinary text."""
        return self._encoding.encode_ordinary(text)

    def count(self, text: str) -> int:
        """The number of tokens of `text`."""
        return len(self.encode(text))

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes behind `ids`, which may begin or end within a code point; KeyError for an unknown id."""
        return self._encoding.decode_bytes(ids)

    def cut(self, text: str, tokens: int) -> tuple[str, int]:
        """The first `tokens` tokens of `text` and how many they are; all of a shorter text, unchanged.

        A code point that the cut splits is left out, though its tokens are counted: they were written.
        """
        ids = self.encode(text)
        if len(ids) <= tokens:
            return text, len(ids)
        kept = ids[: max(tokens, 0)]
        return getincrementaldecoder("utf-8")().decode(self.decode_bytes(kept)), len(kept)


def own_encoding(model: str) -> str | None:
    """The name of the model's own vocabulary, None when it is not one of those known here.

    OpenAI's and Azure's prefixes and a fine-tune's make no difference: `openai/gpt-4o`, `ft:gpt-4o-mini:me::1`.
    """
    sellers, _, name = model.lower().rpartition("/")
    if sellers.rpartition("/")[2] not in ("", "openai", "azure"):
        return None
    name = name.removeprefix("ft:")
    return next((encoding for pattern, encoding in OWN if pattern.match(name)), None)


def encoding_for(model: str) -> str:
    """The vocabulary to count `model`'s tokens with; for a model with another vocabulary, the usual one stands in."""
    return own_encoding(model) or USUAL


def count(text: str, model: str) -> Count:
    """The tokens of `text` as `model` would count them.

    `counted` only with the model's own vocabulary; else `estimated`: with the usual vocabulary, and where that
    is not at hand either, as a quarter of the bytes, rounded up.
    """
    own = own_encoding(model)
    vocabulary = Vocabulary.load(own) if own else None
    if vocabulary is not None:
        return Count(vocabulary.count(text), "counted")
    usual = Vocabulary.load(USUAL)
    if usual is not None:
        return Count(usual.count(text), "estimated")
    return Count(-(-len(text.encode("utf-8", "surrogatepass")) // 4), "estimated")


def cut(text: str, tokens: int, encoding: str) -> tuple[str, int]:
    """`Vocabulary.cut` by the vocabulary's name; LookupError when its file is not on this machine."""
    vocabulary = Vocabulary.load(encoding)
    if vocabulary is None:
        raise LookupError(f"the vocabulary {encoding} is not on this machine: install litellm or set {CACHE_VARIABLE}")
    return vocabulary.cut(text, tokens)


@lru_cache(maxsize=16)
def _load(name: str, folder: str | None) -> Vocabulary:
    """The vocabulary from `folder` or litellm. LookupError, which is not cached: the file may yet be put there."""
    for path in _paths(name, folder):
        if sha256(path.read_bytes()).hexdigest() == DIGESTS[name]:
            return _read(name, path.parent)
    raise LookupError(name)


def _paths(name: str, folder: str | None) -> Iterator[Path]:
    """Where the file of a vocabulary lies; tiktoken names it after the address it would download it from."""
    if name not in DIGESTS:
        return
    file = sha1(SOURCE.format(name).encode(), usedforsecurity=False).hexdigest()
    yield from (path for place in (folder, _litellm_folder()) if place and (path := Path(place, file)).is_file())


@lru_cache(maxsize=1)
def _litellm_folder() -> str | None:
    package = installed()
    return str(package.locate_file("litellm/litellm_core_utils/tokenizers")) if package else None


def _read(name: str, folder: Path) -> Vocabulary:
    import tiktoken

    # tiktoken takes its directory from the environment alone, so it is set for the time of this call.
    with _environment:
        before = os.environ.get(CACHE_VARIABLE)
        os.environ[CACHE_VARIABLE] = str(folder)
        try:
            return Vocabulary(tiktoken.get_encoding(name))
        finally:
            if before is None:
                del os.environ[CACHE_VARIABLE]
            else:
                os.environ[CACHE_VARIABLE] = before
