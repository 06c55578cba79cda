"""Marks and durations are one table and one way, wherever they are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spanbus._cli import draw
from spanbus._runs import markdown
from spanbus._runs.format import ASCII_MARKS, MARKS, duration
from spanbus._semantics import Result


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.000_45, "450 µs"),
        (0.000_999_4, "999 µs"),
        (0.000_999_6, "1 ms"),
        (0.095, "95 ms"),
        (0.099_6, "0.10 s"),
        (1.234, "1.23 s"),
        (9.996, "10.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3_599.6, "1 h 00 min"),
        (3_725, "1 h 02 min"),
    ],
)
def test_a_duration_has_the_unit_that_keeps_it_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_result_has_a_mark_of_its_own_also_in_ascii() -> None:
    for marks in (MARKS, ASCII_MARKS):
        assert set(marks) == {*Result, ""}
        assert len(set(marks.values())) == len(marks)
    assert all(mark.isascii() and len(mark) == 1 for mark in ASCII_MARKS.values())


def test_terminal_and_report_have_the_same_marks_and_durations() -> None:
    assert draw.seconds is markdown.duration is duration
    assert draw.MARKS is markdown.MARKS is MARKS


def test_the_picture_in_the_readme_has_these_marks() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    picture = readme.split("```text\n")[1].split("```")[0]
    shown = set(re.findall(rf"(\S) ({'|'.join(Result)})\b", picture))
    assert shown == {
        (MARKS[result], result.value) for result in (Result.SUCCESS, Result.FAILURE, Result.SKIP)
    }
