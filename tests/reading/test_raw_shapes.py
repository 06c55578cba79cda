"""Events and payloads of every shape: mappings, objects, dataclasses, JSON text."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import Stream

from spanbus._reading import dialect_file, replay
from spanbus._reading.facts import Ended
from spanbus._reading.places import Keys
from spanbus._reading.read import read
from spanbus._reading.reader import Reader
from spanbus._reading.shape import name_of
from spanbus._workflow.events import WorkflowEvent

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
    "a payload that is a dataclass": lambda: SimpleNamespace(
        kind=TYPE, data=Data("j", "lint", False)
    ),
    "a flat mapping": lambda: {
        "event_type": TYPE,
        "timestamp": 1_700_000_000.0,
        "source": "x",
        **VALUES,
    },
    "a flat object": lambda: SimpleNamespace(topic=TYPE, **VALUES),
    "JSON text": lambda: json.dumps({"type": TYPE, "payload": VALUES}),
    "JSON as bytes": lambda: json.dumps({"type": TYPE, **VALUES}).encode(),
    "a payload in JSON text": lambda: {"topic": TYPE, "payload": json.dumps(VALUES)},
    "all of it in one other field": lambda: {"type": TYPE, "source": "x", "detail": VALUES},
    "JSON text in one other field": lambda: SimpleNamespace(
        topic=TYPE, body=json.dumps(VALUES).encode()
    ),
    "a flat dataclass": lambda: Flat(TYPE, "e1", "j", "lint", False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payload_is_found_in_every_shape(shape: str) -> None:
    raw = read(SHAPES[shape]())
    assert raw.event_type == TYPE
    assert {key: raw.payload.get(key) for key in VALUES} == VALUES
    assert not raw.payload.keys() & {
        "type",
        "event_type",
        "topic",
        "kind",
        "id",
        "timestamp",
        "source",
    }
    fact = dialect_file.load("crackerjack").fact(raw)
    assert isinstance(fact, Ended)
    assert (fact.name, fact.run_key, str(fact.result)) == ("lint", "j", "failure")


@pytest.mark.parametrize(
    "event",
    [
        {"type": TYPE, "payload": None, "step_id": "x"},
        {"type": TYPE, "payload": [1]},
        {"type": TYPE, "data": "text"},
    ],
)
def test_a_payload_that_is_not_a_mapping_is_empty(event: Mapping[str, object]) -> None:
    assert dict(read(event).payload) == {}


def test_one_mapping_among_other_fields_is_not_the_payload() -> None:
    raw = read({"type": TYPE, "step_id": "lint", "details": {"step_id": "no"}})
    assert dict(raw.payload) == {"step_id": "lint", "details": {"step_id": "no"}}


@pytest.mark.parametrize("text", ["{", "{1}", "{" * 100_000, "[1]", "{not json}"])
def test_text_that_is_not_a_json_object_is_not_a_payload(text: str) -> None:
    assert dict(read({"type": TYPE, "payload": text}).payload) == {}
    with pytest.raises(ValueError, match="no type"):
        read(text)


class Number:
    """A number that is not of a builtin type, like those of numpy."""

    def __int__(self) -> int:
        return 7


Integral.register(Number)

IDS: list[tuple[object, str]] = [
    (7, "7"),
    (0, "0"),
    (UUID(int=5), str(UUID(int=5))),
    (b"r-1", "r-1"),
    (b"\xff", "\\xff"),
    (1.5, "1.5"),
    (Decimal(7), "7"),
    (date(2025, 11, 28), "2025-11-28"),
    (Number(), "7"),
]


@pytest.mark.parametrize(("value", "text"), IDS)
def test_ids_and_names_of_any_scalar_type_become_text(value: object, text: str) -> None:
    stream = Stream()
    for run in (value, "another"):
        stream.say("run.started", {"run_id": run})
    for word in ("started", "completed"):
        for run in (value, "another"):
            stream.say(f"task.{word}", {"run_id": run, "task": value})
    for run in (value, "another"):
        stream.say("run.completed", {"run_id": run})
    stream.end()
    assert [(run.run_id, [phase.name for phase in run.children]) for run in stream.runs] == [
        (text, [text]),
        ("another", [text]),
    ]


@pytest.mark.parametrize("kind", [lambda **fields: fields, SimpleNamespace])
def test_a_task_object_in_the_payload_is_named_by_its_name_field(
    kind: Callable[..., object],
) -> None:
    stream = Stream()
    for name in ("fetch", "build"):
        stream.say("task.started", {"task": kind(name=name, id=1)})
        stream.say("task.failed", {"task": kind(name=name, id=1), "error": ValueError("no")})
    stream.end()
    assert stream.told() == [
        ("implicit", "failure", [("fetch", "failure", 1), ("build", "failure", 1)])
    ]


@pytest.mark.parametrize("value", [ValueError, print, read])
def test_a_class_or_function_is_named_by_its_dunder_name(value: type) -> None:
    assert name_of(value) == value.__name__


class Array:
    """An array like those of numpy: ``bool`` raises, and ``==`` gives no bool."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other: object) -> Array:  # type: ignore[override]
        return self

    __hash__ = None  # type: ignore[assignment]


def test_values_whose_bool_raises_are_read() -> None:
    stream = Stream()
    fields = dict.fromkeys("error result status skipped attempts duration run_id stage".split())
    odd = {"task": "a", **{key: Array() for key in fields}, "success": True}
    stream.say("task.started", odd)
    stream.say("task.completed", odd)
    stream.end()
    assert stream.told() == [("implicit", "success", [("a", "success", 1)])]


def test_uuids_are_ids() -> None:
    run, event = UUID(int=1), UUID(int=2)
    raw = read(
        {
            "type": TYPE,
            "payload": {"job_id": run},
            "metadata": {"event_type": TYPE, "event_id": event},
        }
    )
    assert raw.event_id == str(event)
    assert dialect_file.load("crackerjack").fact(raw).run_key == str(run)


@pytest.mark.parametrize("member", WorkflowEvent)
def test_names_of_workflow_event_members_are_types(member: WorkflowEvent) -> None:
    for written in (member.name, f"WorkflowEvent.{member.name}"):
        assert read({"type": written}).event_type == member.value


def test_an_enum_member_with_a_number_is_typed_by_its_name() -> None:
    class Numbered(enum.Enum):
        HOOK_STRATEGY_FAILED = 7

    assert read({"type": Numbered.HOOK_STRATEGY_FAILED}).event_type == "hooks.strategy.failed"


def test_a_recorded_event_takes_its_time_from_the_payload_under_data(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    path.write_text(
        json.dumps({"type": TYPE, "data": {"timestamp": 1_700_000_000.5, "step_id": "lint"}})
    )
    assert [
        fact.event.at_ns for fact in replay.facts(path, Reader(dialect_file.load("crackerjack")))
    ] == [1_700_000_000_500_000_000]


class Uncached(dict[str, object]):
    """A mapping for which no read plan is cached."""


WORDS = st.sampled_from(["run.started", "task", "a", "", "7"])
FIELDS = st.sampled_from(
    "type event_type kind name event payload data metadata headers meta context run_id runid job_id id event_id phase "
    "attempt at_ns timestamp time created_at source correlation_id traceparent anything".split()
)
VALUES_OF_FIELDS = st.one_of(
    st.none(),
    WORDS,
    st.integers(0, 3),
    st.just(1_760_000_000.5),
    st.dictionaries(FIELDS, st.one_of(st.none(), WORDS, st.just(1_760_000_001)), max_size=4),
)
EVENTS = st.lists(st.dictionaries(FIELDS, VALUES_OF_FIELDS, max_size=6), max_size=8)
SAID = (
    "event_type event_id at_ns source payload run_id phase attempt correlation traceparent tracestate odd_time timed"
).split()
KEYS = Keys(("kind",), ("meta",), ("time",), (), ("run_id", "job_id"))


def told(event: object, keys: Keys) -> object:
    try:
        raw = read(event, keys, now_ns=1)
    except ValueError as error:
        return str(error)
    return [getattr(raw, name) for name in SAID]


@given(EVENTS)
def test_a_cached_read_plan_gives_the_same_result_as_none(
    events: list[dict[str, object]],
) -> None:
    for fields in events:
        assert told(fields, KEYS) == told(Uncached(fields), KEYS)
        assert told(SimpleNamespace(**fields), KEYS) == told(
            SimpleNamespace(**fields),
            Keys(("kind",), ("meta",), ("time",), (), ("run_id", "job_id")),
        )


def test_events_beyond_the_size_of_the_plan_cache_are_read() -> None:
    keys = Keys()
    for number in range(1_100):
        raw = read({"type": "task.started", "run_id": "r", f"field {number}": number}, keys)
        assert (raw.run_id, dict(raw.payload)) == ("r", {"run_id": "r", f"field {number}": number})


def test_metadata_that_the_first_event_lacks_is_read_from_later_ones() -> None:
    class Late:
        type, payload = "a.note", {"x": 1}

        def __init__(self, run_id: str | None) -> None:
            self.given = {"run_id": run_id} if run_id is not None else None

        @property
        def metadata(self) -> object:
            return self.given

    keys = Keys(runs=("run_id",))
    assert [read(Late(run_id), keys).run_id for run_id in (None, "r")] == [None, "r"]


@pytest.mark.parametrize("of", ["event", "metadata", "headers", "context"])
def test_an_empty_id_is_no_id(of: str) -> None:
    empty = {"run_id": "", "phase": "", "correlation_id": "", "event_id": ""}
    event = {"type": "task.started", "payload": {"task": "a"}}
    event.update(empty if of == "event" else {of: empty})
    raw = read(event, Keys(runs=("run_id",)))
    assert (raw.run_id, raw.phase, raw.correlation, raw.event_id) == (None, None, None, "")
    stream = Stream()
    for run_id in ("", ""):
        stream.say("run.started", {"run_id": run_id})
        stream.hear(event)
        stream.say("task.completed", {"task": "a"})
        stream.say("run.completed", {"run_id": run_id})
    stream.end()
    assert stream.told() == [("workflow", "success", [("a", "success", 1)])] * 2
