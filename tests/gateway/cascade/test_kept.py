"""Drafts as the ledger keeps them read as the drafts that were made, and hold no word of them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer
from gateway.cascade import kept
from gateway.cascade.kept import Kept
from gateway.cascade.signals import Draft, read

NAMES = ("small", "other", "third")
answers = st.one_of(
    st.none(),
    st.builds(Answer, st.just("number"), st.sampled_from(["18", "7", "1/2", "3/4", "-5"])),
    st.builds(Answer, st.just("choice"), st.sampled_from("AB")),
    st.builds(Answer, st.just("text"), st.sampled_from(["paris", "18"])),
    st.builds(Answer, st.just("json"), st.sampled_from(["{}", "[1]"])),
    st.builds(Answer, st.just("meaning"), st.sampled_from(["It is so.", "It is not."])),
    st.builds(Answer, st.just("code"), st.sampled_from(["passes 11", "n = 1"])),
)
drafts = st.lists(
    st.builds(
        Draft,
        st.sampled_from(NAMES),
        answers,
        st.integers(1, 500),
        st.one_of(st.none(), st.floats(-9, 0)),
        st.booleans(),
        st.sampled_from([0, 0, 48, 128]),
        st.booleans(),
        st.one_of(st.none(), st.floats(-20, 0)),
    ),
    min_size=1,
    max_size=4,
)


def keep(made: list[Draft]) -> list[Kept]:
    bare = [
        Kept(
            place,
            draft.student,
            draft.tokens,
            logprob=draft.logprob,
            least=draft.least,
            guidance=draft.guidance,
            told=draft.told,
            complete=draft.complete,
        )
        for place, draft in enumerate(made)
    ]
    return kept.grouped(bare, [draft.answer for draft in made])


@given(drafts, st.permutations(NAMES))
def test_what_is_kept_reads_as_what_was_made(made: list[Draft], prefer: list[str]) -> None:
    again = kept.loads(kept.dumps(keep(made)))
    assert again == keep(made)
    for height in range(1, len(made) + 1):
        assert read([each.draft for each in again[:height]], prefer) == read(made[:height], prefer)
    for one, other in pairwise(range(len(made))):
        assert (again[one].answer == again[other].answer) == (made[one].answer == made[other].answer)


@given(st.text(min_size=12))
def test_no_word_is_kept(secret: str) -> None:
    assert secret not in kept.dumps(keep([Draft("small", Answer("text", secret), 12)]))


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert kept.loads('[{"place": 0, "model": "small", "output": 3, "mood": "good"}]') == [Kept(0, "small", 3)]
