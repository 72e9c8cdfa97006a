"""Affinity: which members of a pool have read the beginning of a conversation, and so may have it in their cache.

A conversation is known by the messages that it begins with: each message's digest includes all before it, so that a
digest names a whole beginning. Nothing else is kept, and only of the newest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import orjson

from students.engine import Prompt

ROOM = 16_384
"""Beginnings that are kept; the oldest is forgotten for a new one."""


def beginnings(prompt: Prompt) -> Sequence[bytes]:
    """The digest of each beginning of the conversation, the shortest first. What stands before all messages in the
    model's own prompt, its tools, is a part of each. Instructions alone are none: they are common to many.
    """
    digest = blake2b(_plain(prompt.options.get("tools")) + (prompt.model or "").encode(), digest_size=8)
    found: list[bytes] = []
    for message in prompt.messages:
        digest.update(_plain(message) + b"\n")
        if found or message.get("role") not in ("system", "developer"):
            found.append(digest.digest())
    return found


class Memory:
    """Who has read which beginning. Members are numbers."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._readers: OrderedDict[bytes, set[int]] = OrderedDict()

    def read(self, digests: Sequence[bytes], member: int) -> None:
        """Remember that `member` has read all of these."""
        for digest in digests:
            self._readers.setdefault(digest, set()).add(member)
            self._readers.move_to_end(digest)
        while len(self._readers) > self._room:
            self._readers.popitem(last=False)

    def known(self, digests: Sequence[bytes], member: int) -> int:
        """How many messages from the beginning on `member` has read."""
        for length in range(len(digests), 0, -1):
            if member in self._readers.get(digests[length - 1], ()):
                return length
        return 0

    def forget(self, member: int) -> None:
        """What `member` had read, it has lost."""
        for digest in [digest for digest, readers in self._readers.items() if member in readers]:
            self._readers[digest].discard(member)
            if not self._readers[digest]:
                del self._readers[digest]


def _plain(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
