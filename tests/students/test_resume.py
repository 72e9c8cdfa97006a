"""Going on with an answer that broke off: nothing twice, nothing missing."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from students.engine import Delta, Prompt
from students.resume import Broken, Seam

ASK = ({"role": "user", "content": "Hi"},)
texts = st.text(st.sampled_from("ab \n\t"), max_size=12)


def broken(prompt: Prompt, *said: str) -> Broken:
    state = Broken(prompt)
    for text in said:
        state.add(Delta(text))
    return state


def test_what_had_not_begun_is_asked_anew() -> None:
    prompt = Prompt(ASK, max_tokens=5, prefix="Once")
    state = broken(prompt)
    assert state.rest()[0] is prompt
    assert (state.begun, state.resumable, state.ended) == (False, True, False)


def test_the_rest_begins_with_all_that_was_said_and_has_what_is_left_of_the_limit() -> None:
    prompt, seam = broken(Prompt(ASK, max_tokens=5, prefix="Once"), " upon", " a ").rest()
    assert (prompt.prefix, prompt.max_tokens) == ("Once upon a", 3)
    assert [seam.new(text) for text in (" ti", " me")] == ["ti", " me"]
    assert broken(Prompt(ASK), "a").rest()[0].max_tokens is None


def test_an_answer_at_its_limit_has_ended() -> None:
    assert broken(Prompt(ASK, max_tokens=2), "a", "b").ended
    assert not broken(Prompt(ASK), "a", "b").ended


def test_an_answer_that_is_not_one_plain_text_is_not_continued() -> None:
    assert not broken(Prompt(ASK, n=2), "a").resumable
    assert not broken(Prompt(ASK, options={"tools": []}), "a").resumable
    state = Broken(Prompt(ASK))
    state.add(Delta("", fields={"tool_calls": []}))
    assert not state.resumable
    assert Broken(Prompt(ASK, n=2)).resumable, "nothing of it was delivered"


@given(texts, texts, st.lists(st.integers(0, 12)))
def test_a_model_that_repeats_the_white_space_is_not_shown_twice(said: str, rest: str, cuts: list[int]) -> None:
    whole = said + rest
    prompt, seam = broken(Prompt(ASK), said).rest()
    kept = prompt.prefix
    assert kept == said.rstrip()
    continuation = whole[len(kept) :]  # what a model writes that goes on from exactly there
    at = sorted({0, len(continuation), *(min(cut, len(continuation)) for cut in cuts)})
    pieces = [continuation[start:end] for start, end in itertools.pairwise(at)]
    assert said + "".join(seam.new(piece) for piece in pieces) == whole


def test_white_space_of_another_kind_is_the_models_own() -> None:
    seam = Seam("\n")
    assert (seam.new(" a"), seam.new("\n")) == (" a", "\n")
