"""Records of ``logging`` as events."""

from __future__ import annotations

import logging
import sys

import pytest

from spanbus._reading.dialect_file import load
from spanbus._reading.facts import Ended, Fact


def read(message: object, *arguments: object, **extra: object) -> Fact:
    record = logging.LogRecord("jobs", logging.INFO, __file__, 1, message, arguments, None)
    record.created = 1_700_000_000.25
    vars(record).update(extra)
    return load("generic").read(record)


@pytest.mark.parametrize(
    "fact",
    [
        read("Task %s failed: %d of %d", "test", 2, 40),
        read("task failed", task="test", error="2 of 40"),
        read("Task %(task)s failed: 2 of 40", {"task": "test"}),
        read({"event": "task.failed", "task": "test", "error": "2 of 40", "timestamp": 1.7e9 + 0.25}),
        read('{"event": "task.failed", "task": "test", "error": "2 of 40", "timestamp": 1700000000.25}'),
    ],
)  # fmt: skip
def test_a_record_says_what_ended(fact: Fact) -> None:
    assert isinstance(fact, Ended)
    assert (fact.rank.name, fact.name, str(fact.result)) == ("PHASE", "test", "failure")
    assert fact.failure is not None
    assert fact.failure.message == "2 of 40"
    assert round(fact.event.at_ns / 1e6) == 1_700_000_000_250


def test_an_exception_of_a_record_is_the_failure() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        fact = read("task failed", task="test", exc_info=sys.exc_info())
    assert isinstance(fact, Ended)
    assert fact.failure is not None
    assert (fact.failure.error_type, fact.failure.message) == ("KeyError", "'x'")


@pytest.mark.parametrize(
    "message",
    [
        "logging in as root with password hunter2 failed",
        "the connection to the database was lost",
        "half of it is done, the rest was started",
        "%s and no more %s",
    ],
)
def test_other_messages_are_no_types(message: str) -> None:
    fact = read(message, "one")
    assert (fact.verb.name, fact.event.name) == ("EVENT", "log")
    assert fact.event.payload["message"] == message
