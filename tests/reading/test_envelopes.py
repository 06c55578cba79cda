"""Reading of envelopes and ids, and the keys of a dialect."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streams import Stream

from spanbus import dialects
from spanbus._reading.read import read
from spanbus.errors import DialectError


@pytest.mark.parametrize("envelope", ["metadata", "meta", "context", "headers"])
@pytest.mark.parametrize("key", ["run_id", "job_id"])
@pytest.mark.parametrize("make", [dict, lambda **fields: SimpleNamespace(**fields)])
def test_the_run_id_is_read_from_the_envelope(envelope: str, key: str, make: Any) -> None:
    stream = Stream()
    for kind in ("pipeline.started", "task.started", "task.completed", "pipeline.completed"):
        stream.hear(
            {
                "type": kind,
                envelope: make(**{key: "r-1"}),
                "data": {"task": "a"},
                "ts": 1_764_324_000,
            }
        )
    stream.end()
    assert [(run.run_id, len(run.children)) for run in stream.runs] == [("r-1", 1)]


def test_a_cloud_event_is_read() -> None:
    raw = read(
        {
            "specversion": "1.0",
            "id": "e-1",
            "type": "dev.example.task.started",
            "source": "/ci",
            "subject": "fetch",
            "time": "2025-11-28T10:00:00Z",
            "runid": "r-1",
            "data": {"task": "fetch"},
        }
    )
    assert (raw.event_type, raw.event_id, raw.at_ns, raw.source, raw.payload) == (
        "dev.example.task.started",
        "e-1",
        1_764_324_000 * 10**9,
        "/ci",
        {"task": "fetch"},
    )
    assert raw.run_id == "r-1"


@dataclasses.dataclass
class BubusLike:
    event_type: str
    event_id: str
    event_created_at: str
    task: str
    run_id: str


def test_the_fields_of_a_flat_event_object_are_read() -> None:
    raw = read(BubusLike("TaskStarted", "e-1", "2025-11-28T10:00:00Z", "fetch", "r-1"))
    assert (raw.event_type, raw.event_id, raw.at_ns, raw.run_id) == (
        "TaskStarted",
        "e-1",
        1_764_324_000 * 10**9,
        "r-1",
    )
    assert raw.payload["task"] == "fetch"


class CountsMisses:
    """An event that counts lookups of missing attributes, which are expensive on pydantic models."""

    asked = 0

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> object:
        type(self).asked += 1
        raise AttributeError(name)


def test_missing_attributes_of_a_class_are_looked_up_once() -> None:
    class Event(CountsMisses):
        asked = 0

    class Metadata(CountsMisses):
        asked = 0

    def event(number: int) -> Event:
        return Event(
            metadata=Metadata(
                event_type="task.started", timestamp=1_764_324_000 + number, event_id=str(number)
            ),
            payload={"task": f"t{number}"},
        )

    stream = Stream()
    stream.hear(event(0))
    first = Event.asked + Metadata.asked
    for number in range(1, 50):
        record = stream.hear(event(number))
        assert record is not None and record.name == f"t{number}"
    assert Event.asked + Metadata.asked == first > 0


def test_properties_are_read_and_one_that_raises_is_skipped() -> None:
    class Lazy:
        @property
        def event_type(self) -> str:
            return "task.started"

        @property
        def payload(self) -> Mapping[str, object]:
            return {"task": "fetch"}

        @property
        def timestamp(self) -> float:
            raise RuntimeError("not yet")

    raw = read(Lazy())
    assert (raw.event_type, dict(raw.payload), raw.timed) == (
        "task.started",
        {"task": "fetch"},
        False,
    )


# --- keys of a dialect ------------------------------------------------------------------------------------------------


def test_every_key_of_a_dialect() -> None:
    stream = Stream(
        {
            "extends": "generic",
            "type_keys": ["what"],
            "payload_keys": ["body"],
            "time_keys": ["when"],
            "id_keys": ["nr"],
            "duration_keys": {"lasted": "ms"},
            "attempts_key": "tries",
            "error_means_failure": False,
        }
    )
    for nr in (1, 1, 2):
        word = "completed" if nr == 2 else "started"
        stream.hear(
            {
                "what": f"task.{word}",
                "type": "noise",
                "when": "2025-11-28T10:00:00Z" if nr == 1 else "2025-11-28T10:00:09Z",
                "timestamp": 1,
                "nr": nr,
                "body": {"task": "a", "tries": 3, "lasted": 2_500, "error": "only a word"},
                "payload": {"task": "no"},
            }
        )
    state = stream.end()
    [phase] = stream.runs[0].children
    assert (phase.name, str(phase.result), phase.attempts, phase.duration_s) == (
        "a",
        "success",
        3,
        9.0,
    )
    assert (state.events_duplicate, stream.said) == (1, [])


@pytest.mark.parametrize(("said", "result"), [(True, "failure"), (False, "success")])
@pytest.mark.parametrize("key", ["error", "exception"])
def test_an_error_in_the_payload_of_an_end_is_a_failure_unless_switched_off(
    said: bool, result: str, key: str
) -> None:
    for payload, expected in (
        ({key: "ValueError: no"}, result),
        ({key: "ValueError: no", "success": True}, "success"),
        ({key: ""}, "success"),
        ({key: None}, "success"),
    ):
        stream = Stream({"extends": "generic", "error_means_failure": said})
        stream.say("task.started", {"task": "a"})
        stream.say("task.completed", {"task": "a", **payload})
        stream.end()
        assert stream.told()[0][2] == [("a", expected, 1)]


def test_an_exception_whose_str_raises_is_still_a_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    stream = Stream()
    stream.say("task.started", {"task": "a"})
    stream.say("task.failed", {"task": "a", "error": Broken()})
    stream.end()
    failure = stream.runs[0].children[0].failure
    assert failure is not None
    assert failure.error_type.endswith("Broken")
    assert failure.message == "<Broken without a text>"


def test_name_memory_keeps_a_name_that_only_the_first_event_has() -> None:
    stream = Stream({"extends": "generic", "name_memory": "uuid"})
    stream.say("pipeline.started", {"run_id": "r"})
    for uuid, name in (("1", "fetch"), ("2", "build")):
        stream.say("task.received", {"uuid": uuid, "name": name, "run_id": "r"})
    for word in ("started", "succeeded"):
        for uuid in "12":
            stream.say(f"task.{word}", {"uuid": uuid, "run_id": "r"})
    stream.say("pipeline.completed", {"run_id": "r"})
    stream.end()
    assert stream.told() == [
        ("workflow", "success", [("fetch", "success", 1), ("build", "success", 1)])
    ]


# --- the public module ------------------------------------------------------------------------------------------------

TOML = 'name = "conveyor"\nextends = "generic"\n[[rules]]\ntype = "station.jammed"\nlevel = "phase"\nverb = "end"\nresult = "failure"\nname = ["station"]\n'


def test_a_dialect_is_loaded_from_a_name_a_path_a_mapping_or_a_dialect(tmp_path: Path) -> None:
    import tomllib

    path = tmp_path / "conveyor.toml"
    path.write_text(TOML)
    from_path, from_text = dialects.load(path), dialects.load(str(path))
    from_mapping = dialects.load(tomllib.loads(TOML))
    assert dialects.load("generic") is dialects.load("generic")
    assert dialects.load(from_path) is from_path
    for dialect in (from_path, from_text, from_mapping, dialects.parse(tomllib.loads(TOML))):
        fact = dialect.read(
            {"type": "station.jammed", "payload": {"station": "press", "job_id": "j"}}
        )
        assert (dialect.name, fact.name, fact.run_key) == ("conveyor", "press", "j")
        assert str(fact.result) == "failure"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"run": "every"}, "run must be one of each, announced, not 'every'"),
        ({"run_ids": "uniqe"}, "did you mean 'unique'?"),
        ({"restart": "retry"}, "restart must be one of attempt, parallel"),
        ({"duration_keys": {"took": "fortnights"}}, "took must be one of s,"),
        ({"error_means_failure": "yes"}, "must be true or false"),
        ({"name_memry": "uuid"}, "did you mean 'name_memory'?"),
        ({"type_keys": [7]}, "type_keys must be a string or a list of strings"),
    ],
)
def test_a_mistake_names_the_key_and_the_right_word(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(DialectError) as error:
        dialects.load({"extends": "generic", **wrong})
    assert text in str(error.value)
