"""A phase over time: failures, passes on a retry, whether it gets slower."""

from __future__ import annotations

import pytest

from spanbus._runs.listing import PhasePoint
from spanbus._runs.over_time import over_time, quantile, trend


def point(
    number: int, seconds: float = 1.0, result: str = "success", attempts: int = 1
) -> PhasePoint:
    return PhasePoint(
        "ci", "tests", f"run-{number}", number * 10**9, seconds, result, "shop", attempts
    )


def test_a_pass_on_a_retry_is_flaky_and_no_failure() -> None:
    found = over_time(
        [
            point(1),
            point(2, attempts=2),
            point(3, result="failure", attempts=2),
            point(4, 0.0, "skip"),
        ],
        60,
    )
    assert (found["runs"], found["failures"], found["flaky"]) == (3, 1, 1)
    assert (found["project"], found["workflow"], found["phase"]) == ("shop", "ci", "tests")
    assert found["last_failure"] == {"run_id": "run-3", "at": "1970-01-01T00:00:03.000000Z"}


def test_only_the_newest_points_are_told_and_all_are_counted() -> None:
    found = over_time([point(number) for number in range(1, 101)], 60)
    points = found["points"]
    assert isinstance(points, list)
    assert (found["runs"], len(points)) == (100, 60)
    assert points[-1] == ["1970-01-01T00:01:40.000000Z", 1.0, "success", "run-100", 1]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0] * 7, None),  # too few
        ([1.0] * 8, None),
        ([1.0] * 4 + [2.0] * 4, 1.0),
        ([2.0] * 4 + [1.0] * 4, -0.5),
        ([1.0] * 4 + [1.1] * 4, None),  # below the threshold of diff
        ([0.01] * 4 + [0.02] * 4, None),  # twice as long, and not worth a word
        ([1.0, 3.0, 1.0, 3.0] + [3.0] * 4, None),  # as noisy before
        ([0.0] * 4 + [1.0] * 4, None),
        ([number / 10 for number in range(30, 90)], 0.6742),  # a steady growth is no noise
    ],
)
def test_a_trend_is_more_than_noise(seconds: list[float], expected: float | None) -> None:
    assert trend(seconds) == expected


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert (quantile([], 0.5), quantile([1.0], 0.95), quantile([1.0, 2.0], 0.5)) == (0.0, 1.0, 1.5)
