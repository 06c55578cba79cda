"""The cache on the way of an event: a result for each argument, and no more of them than were asked for."""

from __future__ import annotations

import pytest

from spanbus._bounded_cache import bounded_cache


def test_a_function_is_called_once_for_each_argument() -> None:
    called: list[str] = []

    def length(text: str) -> int:
        called.append(text)
        return len(text)

    known = bounded_cache(length, 10)
    assert [known(text) for text in ("one", "three", "one", "three")] == [3, 5, 3, 5]
    assert called == ["one", "three"]


def test_results_are_bounded_and_right_beyond_the_bound() -> None:
    called: list[int] = []

    def double(number: int) -> int:
        called.append(number)
        return 2 * number

    known = bounded_cache(double, 4)
    assert [known(number) for number in (*range(100), *range(100))] == [
        2 * number for number in (*range(100), *range(100))
    ]
    before = len(called)
    assert [known(number) for number in (97, 98, 99)] == [194, 196, 198]
    assert len(called) == before, "the last ones are known"
    assert before == 200, "what is beyond the bound is not"


def test_an_error_is_raised_and_not_remembered() -> None:
    known = bounded_cache(int, 4)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            known("no number")
    assert known("7") == 7
