"""An ended run is freed by reference counting, so that a service leaves no work for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._workflow.events import Event


@pytest.fixture(autouse=True)
def without_garbage_collection() -> Generator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def records() -> int:
    return sum(type(thing) is SpanState for thing in gc.get_objects())


def a_run(correlator: Correlator) -> None:
    """Feed a run of two phases, each with a hook and with two attempts."""
    reader = Reader(load("spanbus"))
    at_ns = 1_790_000_000_000_000_000

    def say(event_type: str, phase: str | None = None, **payload: object) -> None:
        nonlocal at_ns
        at_ns += 1_000_000
        event = Event(event_type, f"{at_ns}", at_ns, payload, "test", "r-1", phase, 1)
        correlator.apply(reader.read(event))

    say("workflow.started", workflow="standard")
    for phase in ("build", "test"):
        say("workflow.phase.started", phase, max_attempts=2)
        say("hooks.execution.started", phase, hook="ruff")
        say("workflow.phase.retrying", phase, error="once")
        say("workflow.phase.started", phase)
        say("workflow.phase.completed", phase, success=True)
    say("workflow.completed", success=True)


def test_an_ended_run_is_freed_without_garbage_collection() -> None:
    before = records()
    correlator = Correlator()
    a_run(correlator)
    assert correlator.state().phases_ended == 2
    assert records() == before


def test_an_ended_run_that_is_referenced_keeps_its_tree() -> None:
    runs: list[SpanState] = []
    a_run(Correlator(on_run_ended=runs.append))
    assert [phase.name for phase in runs[0].children] == ["build", "test"]
    assert all(len(phase.children) == 2 for phase in runs[0].children), "the attempts"
