"""Open phases are found by the ids that their events tell, as long as they are open."""

from __future__ import annotations

from spanbus._correlation.correlator import Correlator
from spanbus._correlation.open_run import OpenRun
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader


class Told:
    """A run as a foreign bus tells it."""

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
        """Names of the open phases by their ids, which each of them agrees with."""
        for subject_id, phases in self.run.by_id.items():
            assert {phase.subject_id for phase in phases} == {subject_id}
        return {key: [one.record.name for one in group] for key, group in self.run.by_id.items()}


def test_an_end_takes_the_id_of_its_phase_along() -> None:
    told = Told()
    for name, subject_id in (("lint", "1"), ("tests", "2"), ("tests", "3")):
        told.tell("task.started", task=name, task_id=subject_id)
    assert told.ids() == {"1": ["lint"], "2": ["tests"], "3": ["tests"]}
    told.tell("task.completed", task_id="3")
    told.tell("task.completed", task="lint", task_id="1")
    assert told.ids() == {"2": ["tests"]}
    told.tell("task.completed", task="tests", task_id="2")
    assert told.ids() == {}
    assert not told.run.phases
    assert told.correlator.state().phases_ended == 3


def test_ids_that_turn_out_to_be_those_of_events_are_forgotten() -> None:
    told = Told()
    told.tell("task.started", task="lint", id="1")
    told.tell("task.started", task="tests", id="2")
    told.tell("task.completed", task="lint", id="3")
    told.tell("task.completed", task="tests", id="4")
    assert told.ids() == {}
    assert told.correlator.state().phases_ended == 2


def test_an_id_may_be_that_of_many_phases() -> None:
    told = Told()
    for name in ("lint", "tests", "docs"):
        told.tell("task.started", task=name, task_id="of all")
    told.tell("task.failed", task="tests", task_id="of all", final=True, error="no")
    told.tell("task.completed", task="docs", task_id="of all")
    assert [phase.record.name for phase in told.run.open_phases() if phase.pending is None] == [
        "lint"
    ]
