"""Lookup of open phases by the ids in their events."""

from __future__ import annotations

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.open_run import OpenRun
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader


class ForeignRun:
    """A run whose events are fed to a correlator with the generic dialect."""

    def __init__(self) -> None:
        dialect = load("generic")
        self.correlator = Correlator(policy=dialect.policy)
        self._reader, self._number = Reader(dialect), 0
        self.tell("pipeline.started", pipeline="p")

    def tell(self, event_type: str, **payload: object) -> None:
        self._number += 1
        at_ns = 1_700_000_000_000_000_000 + self._number * 1_000_000
        event = {"event_type": event_type, "at_ns": at_ns, "payload": {"run_id": "r", **payload}}
        self.correlator.apply(self._reader.read(event))

    @property
    def run(self) -> OpenRun:
        spans = self.correlator._spans  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        (run,) = spans.runs.values()
        return run

    def ids(self) -> dict[str, list[str]]:
        """Return the names of the open phases by id, and assert that each phase has that id."""
        for subject_id, phases in self.run.by_id.items():
            assert {phase.subject_id for phase in phases} == {subject_id}
        return {key: [one.record.name for one in group] for key, group in self.run.by_id.items()}


def test_an_ended_phase_is_removed_from_the_lookup_by_id() -> None:
    foreign = ForeignRun()
    for name, subject_id in (("lint", "1"), ("tests", "2"), ("tests", "3")):
        foreign.tell("task.started", task=name, task_id=subject_id)
    assert foreign.ids() == {"1": ["lint"], "2": ["tests"], "3": ["tests"]}
    foreign.tell("task.completed", task_id="3")
    foreign.tell("task.completed", task="lint", task_id="1")
    assert foreign.ids() == {"2": ["tests"]}
    foreign.tell("task.completed", task="tests", task_id="2")
    assert foreign.ids() == {}
    assert not foreign.run.phases
    assert foreign.correlator.state().phases_ended == 3


def test_ids_that_turn_out_to_be_event_ids_are_removed() -> None:
    foreign = ForeignRun()
    foreign.tell("task.started", task="lint", id="1")
    foreign.tell("task.started", task="tests", id="2")
    foreign.tell("task.completed", task="lint", id="3")
    foreign.tell("task.completed", task="tests", id="4")
    assert foreign.ids() == {}
    assert foreign.correlator.state().phases_ended == 2


def test_several_phases_may_share_an_id() -> None:
    foreign = ForeignRun()
    for name in ("lint", "tests", "docs"):
        foreign.tell("task.started", task=name, task_id="of all")
    foreign.tell("task.failed", task="tests", task_id="of all", final=True, error="no")
    foreign.tell("task.completed", task="docs", task_id="of all")
    assert [phase.record.name for phase in foreign.run.open_phases() if phase.pending is None] == [
        "lint"
    ]
