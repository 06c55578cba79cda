"""Events and payloads of every shape are read."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from uuid import UUID

import pytest

from spanbus.telemetry import dialect_file, replay
from spanbus.telemetry.raw import read
from spanbus.workflow.events import WorkflowEvent

TYPE = "workflow.quality.completed"


class Slots:
    __slots__ = ("job_id", "step_id", "success")

    def __init__(self, **values: object) -> None:
        for name, value in values.items():
            setattr(self, name, value)


class Tuple(NamedTuple):
    job_id: str
    step_id: str
    success: bool


@dataclasses.dataclass(slots=True)
class Data:
    job_id: str
    step_id: str
    success: bool


@dataclasses.dataclass
class Flat:
    type: str
    id: str
    job_id: str
    step_id: str
    success: bool


VALUES: dict[str, object] = {"job_id": "j", "step_id": "lint", "success": False}

SHAPES: dict[str, Callable[[], object]] = {
    "a mapping": lambda: {"type": TYPE, "payload": VALUES},
    "an object": lambda: SimpleNamespace(type=TYPE, payload=VALUES),
    "a payload that is an object": lambda: {"type": TYPE, "payload": SimpleNamespace(**VALUES)},
    "a payload with slots": lambda: {"type": TYPE, "payload": Slots(**VALUES)},
    "a payload that is a named tuple": lambda: {"type": TYPE, "data": Tuple("j", "lint", False)},
    "a payload that is a dataclass": lambda: SimpleNamespace(kind=TYPE, data=Data("j", "lint", False)),
    "a flat mapping": lambda: {"event_type": TYPE, "timestamp": 1_700_000_000.0, "source": "x", **VALUES},
    "a flat object": lambda: SimpleNamespace(topic=TYPE, **VALUES),
    "a flat dataclass": lambda: Flat(TYPE, "e1", "j", "lint", False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payload_is_found_wherever_it_is_kept(shape: str) -> None:
    raw = read(SHAPES[shape]())
    assert raw.event_type == TYPE
    assert {key: raw.payload.get(key) for key in VALUES} == VALUES
    assert not raw.payload.keys() & {"type", "event_type", "topic", "kind", "id", "timestamp", "source"}
    fact = dialect_file.load("crackerjack").fact(raw)
    assert (fact.name, fact.run_key, str(fact.result)) == ("lint", "j", "failure")


@pytest.mark.parametrize("event", [{"type": TYPE, "payload": None, "step_id": "x"}, {"type": TYPE, "payload": [1]}, {"type": TYPE, "data": "text"}])
def test_a_payload_that_says_nothing_is_empty(event: Mapping[str, object]) -> None:
    assert dict(read(event).payload) == {}


def test_ids_may_be_uuids() -> None:
    run, event = UUID(int=1), UUID(int=2)
    raw = read({"type": TYPE, "payload": {"job_id": run}, "metadata": {"event_type": TYPE, "event_id": event}})
    assert raw.event_id == str(event)
    assert dialect_file.load("crackerjack").fact(raw).run_key == str(run)


@pytest.mark.parametrize("member", WorkflowEvent)
def test_a_type_may_be_the_name_of_the_reference_enumeration(member: WorkflowEvent) -> None:
    for written in (member.name, f"WorkflowEvent.{member.name}"):
        assert read({"type": written}).event_type == member.value


def test_a_type_may_be_a_member_of_a_numbered_enumeration() -> None:
    class Numbered(enum.Enum):
        HOOK_STRATEGY_FAILED = 7

    assert read({"type": Numbered.HOOK_STRATEGY_FAILED}).event_type == "hooks.strategy.failed"


def test_a_recorded_event_with_its_payload_under_data_has_the_time_of_that(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    path.write_text(json.dumps({"type": TYPE, "data": {"timestamp": 1_700_000_000.5, "step_id": "lint"}}))
    assert [fact.at_ns for fact in replay.facts(path, dialect_file.load("crackerjack"))] == [1_700_000_000_500_000_000]
