"""Partitions of an observer, given by numbers or as a share."""

from __future__ import annotations

import pytest

from spanbus.errors import InputError
from spanbus.integrations import _nats_partitions as partitions

ALL = tuple(range(64))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", (0,)),
        ("63", (63,)),
        ("0-3", (0, 1, 2, 3)),
        (" 0-1, 40 ,41", (0, 1, 40, 41)),
        ("5,5,4-5", (4, 5)),
        ("0-63", ALL),
    ],
)
def test_partitions_by_number(text: str, wanted: tuple[int, ...]) -> None:
    assert partitions.numbered(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give numbers such as 0-15"),
        ("a", "give numbers such as 0-15"),
        ("-1", "give numbers such as 0-15"),
        ("1-", "give numbers such as 0-15"),
        ("1..3", "give numbers such as 0-15"),
        ("64", "numbered from 0 to 63"),
        ("60-64", "numbered from 0 to 63"),
        ("3-1", "the smaller one first"),
    ],
)
def test_invalid_partition_numbers(text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        partitions.numbered(text)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("of", [1, 2, 3, 4, 5, 7, 16, 63, 64])
def test_shares_count_from_zero_and_cover_all_partitions(of: int) -> None:
    shares = [partitions.share(f"{which}/{of}") for which in range(of)]
    assert tuple(number for each in shares for number in each) == ALL
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["2/4", "spanbus-observe-2/4", "pod.2/4", "observer_2/4", " 2/4 "])
def test_a_share_is_read_from_the_ordinal_of_a_pod_name(text: str) -> None:
    assert partitions.share(text) == tuple(range(32, 48))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4/4", "shares are counted from 0: 0/4 to 3/4"),
        ("1/1", "shares are counted from 0: the only one is 0/1"),
        ("0/0", "1 to 64 shares, not 0"),
        ("0/65", "1 to 64 shares, not 65"),
        ("2", "such as 0/4"),
        ("pod/4", "such as 0/4"),
        ("1/4/2x", "such as 0/4"),
        ("-/4", "such as 0/4"),
        ("", "such as 0/4"),
    ],
)
def test_invalid_shares(text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        partitions.share(text)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_partitions_from_the_command_line() -> None:
    assert partitions.given(None, None) == ALL
    assert partitions.given("7", None) == (7,)
    assert partitions.given(None, "1/2") == tuple(range(32, 64))
    with pytest.raises(InputError, match="not both"):
        partitions.given("7", "1/2")
    with pytest.raises(InputError, match="from 0 to 63"):
        partitions.checked([64])
    with pytest.raises(InputError, match="none"):
        partitions.checked([])


@pytest.mark.parametrize("text", ["0-63", "0", "0-3, 7, 9-11", "5, 7"])
def test_partitions_are_described_for_people(text: str) -> None:
    assert partitions.shown(partitions.numbered(text)) == text


@pytest.mark.parametrize(
    ("after", "upto"), [(0, 1), (4, 7), (63, 64), (10, 10), (5, 1_000), (999, 1_064)]
)
def test_each_missing_event_is_counted_by_one_partition(after: int, upto: int) -> None:
    counts = [partitions.counted_by(number, after, upto) for number in range(partitions.PARTITIONS)]
    assert sum(counts) == upto - after
    assert max(counts) - min(counts) <= 1
