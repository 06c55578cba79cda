"""Facts that `exec` makes directly equal those that the reader makes from events of our engine."""

from __future__ import annotations

import pytest

from spanbus._exec.arguments import parse
from spanbus._exec.facts import SOURCE, CommandFacts
from spanbus._exec.launch import Child
from spanbus._exec.supervise import CommandExit
from spanbus._exec.trace import trace_of
from spanbus._reading.dialect_file import load
from spanbus._reading.facts import Fact, Rank
from spanbus._reading.policy import Policy
from spanbus._reading.reader import Reader
from spanbus._workflow.events import Event, WorkflowEvent

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDS = {
    "success": (0, None),
    "failure": (3, None),
    "killed": (-9, None),
    "by a real-time signal": (-40, None),
    "asked to end": (-2, "SIGINT"),
    "asked to end, and ended well": (0, "SIGTERM"),
    "not started": None,
}


def read(fact: Fact, env: dict[str, str], phase: str) -> Fact:
    """The fact of an event of the engine with what this one says."""
    event, of_phase = fact.event, fact.rank is not Rank.RUN
    assert event.source == SOURCE
    return Reader(load("spanbus")).read(
        Event(
            WorkflowEvent(event.name),
            event.event_id,
            event.at_ns,
            event.payload,
            event.source,
            fact.run_key,
            phase if of_phase else None,
            1 if of_phase else None,
            env.get("TRACEPARENT"),
            env.get("TRACESTATE"),
        )
    )


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("env", [{}, {"TRACEPARENT": TRACEPARENT, "TRACESTATE": "a=b"}])
@pytest.mark.parametrize(
    "line",
    [
        ["--", "make", "-j8"],
        ["-w", "nightly", "-n", "build it", "--", "/usr/bin/make"],
        ["--", "42", "--token=abc"],
        ["--", "w\udcffx"],
    ],
)
def test_every_fact_equals_the_one_read_from_an_event(
    line: list[str], env: dict[str, str], end: str
) -> None:
    arguments = parse(line)
    child = Child(1_700_000_000_123_456_789, 5)
    how = ENDS[end]
    ended = None
    if how is None:
        child.error = OSError(2, "No such file or directory")
    else:
        ended = CommandExit(how[0], 1_234_567_890, 1_700_000_001_358_024_679)
        ended.signal_name = how[1]
    facts = CommandFacts(arguments, trace_of(env, arguments.phase, arguments.program), child)
    fact_of_meaning = (*facts.started(), *facts.ended(ended))
    assert [repr(fact) for fact in fact_of_meaning] == [
        repr(read(fact, env, arguments.phase)) for fact in fact_of_meaning
    ]
    assert [type(fact).__name__ for fact in fact_of_meaning] == ["Started"] * 3 + ["Ended"] * 3


def test_without_a_dialect_the_correlator_uses_the_rules_of_our_bus() -> None:
    assert load("spanbus").policy == Policy()
