"""The tests that a prompt brings: examples and assertions, each able to fail, and no other words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import prompt_tests
from gateway.prompt_tests import MOST

PROMPT = """Write a function, please.

```python
def double(n):
    '''Twice a number.

    >>> double(2)
    4
    >>> double(double(1))
    4
    '''
```

I assert nothing here. It must hold that:

assert double(0) == 0
assert double(3) == 6, "six"
assert is a word too
assert double(0) == 0
"""


def passes(program: str, test: str) -> bool:
    names: dict[str, object] = {}
    exec(program, names)  # noqa: S102 - it is this test's own
    try:
        exec(test, names)  # noqa: S102 - the same
    except AssertionError:
        return False
    return True


def test_examples_that_stand_together_are_one_test_and_each_assertion_is_one() -> None:
    found = prompt_tests.tests(PROMPT)
    assert len(found) == 3
    assert found[1:] == ["assert double(0) == 0", 'assert double(3) == 6, "six"']
    assert [passes("def double(n): return 2 * n", test) for test in found] == [True, True, True]
    assert [passes("def double(n): return n * n", test) for test in found] == [False, True, False]
    assert [passes("def double(n): return 4", test) for test in found] == [True, False, False]


@pytest.mark.parametrize(
    "text", ["", "Write a sort.", "I assert that it works", ">>> double(2)", "assert", "assert (", ">>> print(\n4"]
)
def test_a_prompt_without_tests_has_none(text: str) -> None:
    assert prompt_tests.tests(text) == []


def test_there_are_no_more_than_are_run() -> None:
    assert len(prompt_tests.tests("".join(f"assert f({n}) == {n}\n" for n in range(99)))) == MOST


@given(st.text("asert >f(1)=\n`'\"", max_size=200))
def test_any_prompt_is_read(text: str) -> None:
    for test in prompt_tests.tests(text):
        compile(test, "test", "exec")
