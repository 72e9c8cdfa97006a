"""The seam: no character lost, doubled or torn; stop strings honoured as if one model had written it all."""

from __future__ import annotations

import itertools

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.strategies.seam import Guide, Join, Rejoin, Trim, whole
from students.outlet import Outlet

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
WORD = regex.compile(rf"[[\p{{L}}\p{{M}}\p{{N}}_'’]--[{UNSPACED}]]+|\d[\d.,:;]*\d", regex.V1)
"""What no cut may fall inside of; in scripts without spaces every character is a word."""
PROSE = st.text(
    alphabet=st.sampled_from(list("ab12 .,\n-'$€\\{}éß世界คำ👩\u200d\u0301\ufffd")) | st.characters(codec="utf-8"),
    max_size=80,
)


def cuts(text: str, points: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(point % (len(text) + 1) for point in points)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Hello wor", "Hello"),
        ("Hello world ", "Hello world"),
        ("It costs 12", "It costs"),
        ("It costs 12.", "It costs"),
        ("It costs 12 ", "It costs 12"),
        ("Take the apple.", "Take the apple."),
        ("Take (the", "Take"),
        ("it don'", "it"),
        ("a self-", "a"),
        ("see www.exam", "see"),
        ("so \\boxed{", "so \\boxed{"),
        ("worth $3", "worth"),
        ("你好世", "你好"),
        ("one caf\ufffd", "one"),
        ("an e\u0301", "an"),
        ("I am 👩\u200d", "I am"),
        ("def f():\n    ", "def f():"),
        ("", ""),
        ("   ", ""),
        ("unfinished", ""),
    ],
)
def test_a_cut_keeps_whole_words_only(text: str, kept: str) -> None:
    assert text[: whole(text)] == kept


def test_a_very_long_run_is_cut_inside_rather_than_lost() -> None:
    text = "see " + "/".join(["segment"] * 60)
    assert len(text) - whole(text) < 64


@given(full=PROSE, at=st.integers(0, 80))
@example(full="125 apples", at=2)
@example(full="3.14", at=2)
@example(full="世界", at=1)
@example(full="see 世界", at=5)
def test_no_cut_tears_a_word_a_number_or_a_character(full: str, at: int) -> None:
    """Whatever the teacher would have written next, its last kept word is a whole word of its full answer."""
    cut = full[:at]
    kept = cut[: whole(cut)]
    assert cut.startswith(kept)
    assert kept == kept.rstrip()
    assert not kept.endswith("\ufffd")
    spans = [match.span() for match in WORD.finditer(full)]
    assert not any(start < len(kept) < end for start, end in spans)
    assert not (len(kept) < len(full) and regex.match(r"\p{M}|\u200d", full[len(kept)]) and kept and not kept.isascii())


@given(text=PROSE, points=st.lists(st.integers(0, 80), max_size=6))
def test_guidance_is_shown_as_it_is_kept_however_it_arrives(text: str, points: list[int]) -> None:
    guide = Guide()
    shown = "".join(guide.feed(piece).text for piece in cuts(text, points))
    assert shown == guide.kept
    assert guide.kept + guide.cut() == text
    assert text.startswith(guide.kept)


@given(text=PROSE, points=st.lists(st.integers(0, 80), max_size=6))
def test_a_complete_answer_is_shown_to_the_last_character(text: str, points: list[int]) -> None:
    guide = Guide()
    shown = "".join(guide.feed(piece).text for piece in cuts(text, points))
    assert shown + guide.complete().text == text == guide.kept


STOPS = st.lists(st.text(alphabet="ab\n#", min_size=1, max_size=4), max_size=3)


@given(text=st.text(alphabet="ab\n# ", max_size=40), stops=STOPS, points=st.lists(st.integers(0, 40), max_size=8))
@example(text="aab", stops=["ab"], points=[1, 2])
@example(text="ab#", stops=["b#", "ab#"], points=[1, 2])
def test_stop_strings_are_honoured_wherever_the_text_is_divided(text: str, stops: list[str], points: list[int]) -> None:
    outlet = Outlet(stops)
    shown = ""
    for piece in cuts(text, points):
        shown += outlet.feed(piece).text
        assert not any(stop in shown for stop in stops)
    shown += outlet.finish().text
    earliest = first_end(text, stops)
    assert outlet.stopped == (earliest is not None)
    assert shown == (text if earliest is None else text[:earliest])


def first_end(text: str, stops: list[str]) -> int | None:
    """Where the text ends for a model that checks after every character: at the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


def test_a_copy_goes_on_from_the_same_state_by_itself() -> None:
    outlet = Outlet(["END"])
    assert outlet.feed("see E").text == "see "
    twin = outlet.copy()
    assert outlet.feed("ND of it").text == ""
    assert outlet.stopped
    assert twin.feed("cho").text == "Echo"
    assert not twin.stopped


def entries(*tokens: str) -> list[dict[str, object]]:
    return [{"token": token, "logprob": -0.5, "bytes": list(token.encode())} for token in tokens]


def test_logprobs_leave_with_the_text_they_describe_and_are_dropped_with_it() -> None:
    guide = Guide()
    first = guide.feed("The ans", entries("The", " ans"))
    assert (first.text, first.logprobs) == ("The", entries("The"))
    second = guide.feed("wer is 4", entries("wer", " is", " 4"))
    assert (second.text, second.logprobs) == (" answer is", entries(" ans", "wer", " is"))
    assert guide.cut() == " 4"


def test_logprobs_of_tokens_that_split_a_character_stay_with_it() -> None:
    outlet = Outlet(["END"])
    halves: list[dict[str, object]] = [
        {"token": "?", "logprob": -1, "bytes": [0xC3]},
        {"token": "?", "logprob": -1, "bytes": [0xA9]},
    ]
    piece = outlet.feed("é", halves)
    assert piece.text == "é"
    assert piece.logprobs == halves


def test_white_space_that_the_caller_wrote_is_shown_once() -> None:
    trim = Trim("The answer is ")
    assert trim.feed("") == ""
    assert trim.feed(" ") == ""
    assert trim.feed("42 is ") == "42 is "
    assert trim.feed(" it") == " it"
    assert Trim("The answer is").feed(" 42") == " 42"


@pytest.mark.parametrize(
    ("shown", "pieces", "joined"),
    [
        ("The sky", [" is", " blue"], " is blue"),
        ("The sky", ["is", " blue"], " is blue"),
        ("The sky", ["The ", "sky is", " blue"], " is blue"),
        ("The sky", ["The sun"], " The sun"),
        ("The sky", [", of course"], ", of course"),
        ("The sky\n", ["is"], "is"),
        ("The sky", ["The"], " The"),
        ("The sky", ["The sky"], ""),
        ("The sky", [], ""),
    ],
)
def test_a_model_asked_to_go_on_joins_without_echo_or_glued_words(shown: str, pieces: list[str], joined: str) -> None:
    rejoin = Rejoin(shown)
    assert "".join(rejoin.feed(piece) for piece in pieces) + rejoin.finish() == joined


def test_the_plain_join_changes_nothing() -> None:
    assert Join().feed(" x ") == " x "
    assert Join().finish() == ""
