"""NATS subjects, event lines and messages, without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanbus._delivery.endpoints import shown_url
from spanbus._semantics import Result
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.secret_rules import REDACTED
from spanbus._workflow.events import Event
from spanbus.errors import InputError
from spanbus.integrations._nats_client import servers_of
from spanbus.integrations._nats_wire import (
    MESSAGE_BYTES,
    MESSAGE_LINES,
    Lines,
    TooLong,
    event_of,
    messages_of,
    subject,
    token,
)
from spanbus.integrations.nats_stream import Wanted, differences_of

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@given(st.text())
def test_any_name_is_one_subject_token(name: str) -> None:
    assert TOKEN.fullmatch(token(name))
    assert token(name) == token(name)


def test_similar_names_have_different_tokens() -> None:
    names = ["a b", "a.b", "a_b", "a>b", "x" * 10_000, "x" * 10_001, "", "ü", "nightly-42"]
    assert len({token(name) for name in names}) == len(names)
    assert token("nightly-42") == "nightly-42"
    assert subject("nightly", "nightly-42") == "spanbus.v1.event.nightly.nightly-42"
    assert subject(None, None) == "spanbus.v1.event.-.-"


def event(number: int, run_id: str = "r", **payload: object) -> Event:
    return Event("workflow.phase.started", f"e-{number}", number, payload, run_id=run_id)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2_000)), max_size=400))
def test_messages_have_every_line_in_the_order_of_its_run(sizes: list[tuple[int, int]]) -> None:
    events = [
        event(number, f"run-{run}", message="m" * size) for number, (run, size) in enumerate(sizes)
    ]
    found = messages_of([Lines(None).record_of(each, "w") for each in events])
    for run in range(4):
        sent = [each.event_id for each in events if each.run_id == f"run-{run}"]
        messages = found.get(f"spanbus.v1.event.w.run-{run}", [])
        lines = [json.loads(line) for each in messages for line in each.body.split(b"\n")]
        assert [line["event_id"] for line in lines] == sent
        for each in messages:
            assert each.lines <= MESSAGE_LINES and len(each.body) <= MESSAGE_BYTES
            first = json.loads(each.body.split(b"\n")[0])["event_id"]
            assert each.message_id == (first if each.lines == 1 else f"{first}.{each.lines}")
    ids = [each.message_id for messages in found.values() for each in messages]
    assert len(ids) == len(set(ids))


def test_a_too_long_line_is_an_error_unless_redaction_cuts_it() -> None:
    with pytest.raises(TooLong):
        Lines(None).record_of(event(1, message="x" * 300_000), "w")
    assert Lines(Redactor()).record_of(event(1, message="x" * 300_000), "w"), (
        "cut as in span events"
    )


def test_a_payload_has_span_event_attributes_and_fields_for_observers() -> None:
    secret = "gh" + "p_" + "a1B2" * 9
    payload = {
        "workflow": "nightly",
        "phases": ["lint", "tests"],
        "error": f"401 for token {secret}",
        "password": "hunter2",
        "unknown": "not allowed",
        "summary": {"counts": {"failed": 2, "anything": 1}, "api_key": "k"},
        "duration": 1.25,
        "success": False,
        "stacktrace": f"Traceback: Authorization: Bearer {secret}",
        "rerun_of": "nightly-41",
        "live": object(),
    }
    line = Lines(Redactor()).record_of(event(1, **payload), "nightly").split(b"\n", 2)[2]
    found = json.loads(line)["payload"]
    assert secret.encode() not in line and b"hunter2" not in line
    assert set(found) == {
        "workflow", "phases", "error", "summary", "duration", "success", "stacktrace", "rerun_of",
    }  # fmt: skip
    assert found["phases"] == ["lint", "tests"] and found["duration"] == 1.25
    assert found["summary"] == {"counts": {"failed": 2, "anything": 1}}


@pytest.mark.parametrize(
    "value",
    [0, -1, True, 2**63 - 1, 2**63, -(2**63), 10**400, 1.5, -0.0, 1e300, float("nan"), float("inf"), "", "ok", "x" * 64, "x" * 65,
     "gh" + "p_" + "a1B2" * 9, "ü\n\u2028", Result.SUCCESS, 3 + 0j, b"x", ["a"], [1, None], None],
)  # fmt: skip
@pytest.mark.parametrize("key", ["result", "duration", "error", "attempts"])
def test_values_are_redacted_on_every_path(key: str, value: object) -> None:
    wanted = Redactor().value(key, value)
    for depth in ({key: value}, {"counts": {key: value, "token": 7}}):
        lines = Lines(Redactor())
        first, again = (
            json.loads(lines.record_of(event(1, **depth), "w").split(b"\n", 2)[2])["payload"]
            for _ in range(2)
        )
        assert first == again
        found = first.get("counts", first)
        assert found.get(key) == (list(wanted) if isinstance(wanted, tuple) else wanted)
        assert found.get("token", REDACTED) == REDACTED, "a number beneath a key of a secret"


class Loud(str):
    """A string subclass that is equal to another string."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()


class Size(Enum):
    SMALL = "small"
    LARGE = 7


def rules(
    payload: Mapping[Any, object], redactor: Redactor, depth: int = 3, *, everything: bool = False
) -> dict[str, object]:
    """Apply the rules of redaction one after another, without a cache."""
    found: dict[str, object] = {}
    for key, value in payload.items():
        if not isinstance(key, str) or len(found) >= 32:
            continue
        if not (everything or key in {"rerun_of", "stacktrace"} or redactor.named("", key)[0]):
            continue
        if isinstance(value, Mapping):
            if depth:
                inner = cast("Mapping[Any, object]", value)
                found[key] = rules(inner, redactor, depth - 1, everything=key == "counts")
        elif key == "stacktrace" and isinstance(value, str) and len(value) > 64:
            found[key] = redactor.text(value, 16_384)
        elif (cleaned := redactor.value(key, value)) is not None:
            found[key] = cleaned
    return found


SECRET = "gh" + "p_" + "a1B2" * 9
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["ok", "OK", "lint", f"--token {SECRET}", SECRET, "x" * 64, "x" * 65, "y" * 5_000, "\ud800", '"\\\n'])
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, True, False, 1.0, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1e300]),
    st.floats(),
    st.integers(),
)
LEAVES = st.one_of(
    st.none(),
    TEXTS,
    TEXTS.map(Loud),
    NUMBERS,
    st.sampled_from([*Size, Result.SUCCESS, b"x", 3 + 0j, ValueError("401"), Path("a/b")]),
    st.lists(st.one_of(TEXTS, TEXTS.map(Loud), NUMBERS, st.none()), max_size=4),
    st.lists(TEXTS, max_size=40).map(tuple),
)
KEYS = st.one_of(
    st.sampled_from(["type", "result", "needs", "error", "output_tail", "counts", "summary", "attempt", "token", "stacktrace", "unknown"]),
    st.text(max_size=4),
    st.sampled_from([1, True, None, (1, 2)]),
)  # fmt: skip
PAYLOADS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=6),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner), max_size=6),
    max_leaves=8,
)
KNOWING = Lines(Redactor())
"""One for all examples: what it remembers of one must not show in another."""


@given(PAYLOADS)
def test_cached_redaction_equals_uncached_redaction(payload: dict[Any, Any]) -> None:
    written = json.dumps(rules(payload, Redactor()), ensure_ascii=False, default=str)
    wanted = json.dumps(json.loads(written.encode("utf-8", "replace")))
    for lines in (Lines(Redactor()), KNOWING, KNOWING):
        line = lines.record_of(Event("e", "e-1", 1, MappingProxyType(payload)), "w")
        found = json.loads(line.split(b"\n", 2)[2])["payload"]
        assert json.dumps(found) == wanted


def test_at_most_32_members_of_a_payload() -> None:
    many = {"counts": {f"key {number}": number for number in range(40)}}
    line = Lines(Redactor()).record_of(Event("e", "e-1", 1, many), "w").split(b"\n", 2)[2]
    assert json.loads(line)["payload"]["counts"] == dict(list(many["counts"].items())[:32])


@pytest.mark.parametrize("redactor", [None, Redactor()])
def test_a_key_that_is_not_json_does_not_drop_the_event(redactor: Redactor | None) -> None:
    payload = {"counts": {"a": 2, (1, 2): 3, b"x": 4}, "type": "command"}
    line = Lines(redactor).record_of(Event("e", "e-1", 1, payload), "w").split(b"\n", 2)[2]
    assert json.loads(line)["payload"] == {"counts": {"a": 2}, "type": "command"}


def test_an_attempt_that_is_not_a_number_gives_valid_json() -> None:
    odd: Any = "second"
    line = Lines(None).record_of(Event("e", "e-1", 1, {}, run_id="r", attempt=odd), "w")
    found = event_of(line.split(b"\n", 2)[2], 1, 1)
    assert found is not None and found.run_id == "r" and found.attempt is None


def test_a_line_has_the_shape_of_a_recorded_stream() -> None:
    full = Event(
        'workflow."odd"\n', "e-1", 7, {"type": "x"}, "ci", "r\u2028", "p", 2, "00-a-b-01", "k=v",
        {"telemetry": "here"},
    )  # fmt: skip
    for each in (full, event(1), Event("a", "b", 1)):
        line = Lines(None).record_of(each, "w").split(b"\n", 2)[2]
        assert b"\n" not in line and json.loads(line) == each.as_dict()


def test_an_event_with_surrogates_and_nan_is_written() -> None:
    odd = event(1, "\ud800 run", message="\ud800", nested={"message": float("nan")})
    where, event_id, line = Lines(Redactor()).record_of(odd, "w").split(b"\n", 2)
    assert TOKEN.fullmatch(where.decode().rpartition(".")[2]) and event_id == b"e-1"
    assert json.loads(line)["event_id"] == "e-1"


@pytest.mark.parametrize(
    "servers",
    [
        "",
        " , ",
        "localhost:4222",
        "http://a:4222",
        "nats://",
        "nats://a:99999",
        "nats://a:0",
        "nats://a, what",
    ],
)
def test_an_invalid_nats_url_is_refused(servers: str) -> None:
    with pytest.raises(InputError) as refused:
        servers_of(servers)
    assert "nats://127.0.0.1:4222" in str(refused.value) and "\n" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    assert servers_of("nats://a:4222, tls://b") == ("nats://a:4222", "tls://b")
    assert shown_url("nats://user:hunter2@a:4222/x") == "nats://a:4222/x"
    with pytest.raises(InputError) as refused:
        servers_of("nast://user:hunter2@a:4222")
    assert "hunter2" not in str(refused.value)


def test_differences_of_a_stream_configuration_are_named() -> None:
    wanted = Wanted().config()
    assert differences_of({**wanted, "consumer_limits": {}}, wanted) == ()
    found = differences_of({**wanted, "max_age": 1, "retention": "workqueue"}, wanted)
    assert [(each.name, each.lasting) for each in found] == [
        ("retention", True),
        ("max_age", False),
    ]
