"""Trace context from and to environment variables; a context is attached in one task only."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from spanbus._telemetry.context import Incoming, attached, current, incoming, outgoing, with_baggage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def context_of(*, sampled: bool = True, state: str | None = None) -> Context:
    span = SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
        True,
        TraceFlags(1 if sampled else 0),
        TraceState.from_header([state]) if state else TraceState(),
    )
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def test_a_valid_traceparent_is_read_with_its_tracestate() -> None:
    assert incoming({"TRACEPARENT": PARENT, "TRACESTATE": "rojo=00f067,congo=t61"}) == Incoming(
        PARENT, "rojo=00f067,congo=t61"
    )


def test_only_the_sampled_bit_of_the_flags_counts() -> None:
    assert incoming({"TRACEPARENT": PARENT[:-2] + "03"}).traceparent == PARENT
    assert incoming({"TRACEPARENT": PARENT[:-2] + "02"}).traceparent == PARENT[:-2] + "00"


def test_a_traceparent_of_a_future_version_is_read() -> None:
    assert (
        incoming({"TRACEPARENT": "cc" + PARENT[2:] + "-what-the-future-brings"}).traceparent
        == PARENT
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        PARENT[:-1],
        PARENT + "-more",
        "ff" + PARENT[2:],
        PARENT.upper(),
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        PARENT.replace("-", "_"),
        "00-" + "g" * 32 + PARENT[35:],
        PARENT + "\n" + PARENT,
        "x" * 10_000,
    ],
)
def test_an_invalid_traceparent_is_ignored_with_its_tracestate(value: str) -> None:
    assert incoming({"TRACEPARENT": value, "TRACESTATE": "a=b"}) == Incoming()


def test_an_invalid_tracestate_is_ignored_without_the_parent() -> None:
    assert incoming({"TRACEPARENT": PARENT, "TRACESTATE": "=,;;nonsense"}) == Incoming(PARENT, None)


@given(
    st.dictionaries(st.sampled_from(["TRACEPARENT", "TRACESTATE", "BAGGAGE"]), st.text(max_size=80))
)
def test_any_environment_is_read_without_an_error(env: dict[str, str]) -> None:
    found = incoming(env)
    assert found.traceparent is None or len(found.traceparent) == 55
    with_baggage(Context(), env)


def test_lower_case_variables_are_ignored() -> None:
    assert incoming({"traceparent": PARENT}) == Incoming()


def test_an_outgoing_context_is_read_as_the_same_context() -> None:
    context = baggage.set_baggage("team", "a b,c", context_of(state="rojo=1"))
    env = outgoing(context)
    assert env == {"TRACEPARENT": PARENT, "TRACESTATE": "rojo=1", "BAGGAGE": env["BAGGAGE"]}
    assert incoming(env) == Incoming(PARENT, "rojo=1")
    assert baggage.get_baggage("team", with_baggage(Context(), env)) == "a b,c"


def test_an_unsampled_context_is_written_as_unsampled() -> None:
    assert outgoing(context_of(sampled=False))["TRACEPARENT"].endswith("-00")


def test_without_a_span_nothing_is_written() -> None:
    assert outgoing(Context()) == {}


def test_baggage_of_the_process_does_not_replace_the_current() -> None:
    context = with_baggage(
        baggage.set_baggage("a", "mine", Context()), {"BAGGAGE": "a=theirs,b=also"}
    )
    assert dict(baggage.get_all(context)) == {"a": "mine", "b": "also"}


def test_baggage_of_the_process_is_read_without_its_parent() -> None:
    context = with_baggage(Context(), {"BAGGAGE": "a=1", "TRACEPARENT": PARENT})
    assert not trace.get_current_span(context).get_span_context().is_valid


def test_the_current_span_is_the_parent() -> None:
    assert current() == Incoming()
    with attached(context_of(state="a=1")):
        assert current() == Incoming(PARENT, "a=1")
    assert current() == Incoming()


def in_process(propagators: str) -> dict[str, object]:
    """Run code in a process with ``OTEL_PROPAGATORS`` set, because the API reads it only once."""
    code = f"""
import json
from opentelemetry.context import Context
from spanbus._telemetry.context import incoming, outgoing, with_baggage
from opentelemetry import baggage, trace
env = {{"TRACEPARENT": "{PARENT}", "BAGGAGE": "a=1"}}
found = incoming(env)
parts = found.traceparent.split("-") if found.traceparent else None
context = baggage.set_baggage("b", "2", Context())
span = trace.SpanContext(1, 2, False, trace.TraceFlags(1))
out = outgoing(trace.set_span_in_context(trace.NonRecordingSpan(span), context))
print(json.dumps([found.traceparent, dict(baggage.get_all(with_baggage(Context(), env))), sorted(out)]))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OTEL_PROPAGATORS": propagators}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    traceparent, carried, out = json.loads(done.stdout)
    return {"traceparent": traceparent, "baggage": carried, "out": out, "stderr": done.stderr}


@pytest.mark.parametrize(
    ("propagators", "traceparent", "carried", "out"),
    [
        ("tracecontext,baggage", PARENT, {"a": "1"}, ["BAGGAGE", "TRACEPARENT"]),
        ("tracecontext", PARENT, {}, ["TRACEPARENT"]),
        ("baggage", None, {"a": "1"}, ["BAGGAGE"]),
        ("none", None, {}, []),
        ("misspelled", PARENT, {"a": "1"}, ["BAGGAGE", "TRACEPARENT"]),
    ],
)
def test_otel_propagators_selects_the_variables(
    propagators: str, traceparent: str | None, carried: dict[str, str], out: list[str]
) -> None:
    assert in_process(propagators) == {
        "traceparent": traceparent,
        "baggage": carried,
        "out": out,
        "stderr": "",
    }


# --- attached ---------------------------------------------------------------------------------------------------------


def test_attached_context_is_detached_at_the_end_of_the_block() -> None:
    before = otel_context.get_current()
    with attached(context_of()):
        assert trace.get_current_span().get_span_context().is_valid
    assert otel_context.get_current() is before


def test_attached_context_is_detached_when_the_block_raises() -> None:
    before = otel_context.get_current()
    with pytest.raises(KeyboardInterrupt), attached(context_of()):
        raise KeyboardInterrupt
    assert otel_context.get_current() is before


def test_blocks_nest() -> None:
    with attached(context_of()):
        outer = otel_context.get_current()
        with attached(context_of(sampled=False)):
            assert otel_context.get_current() is not outer
        assert otel_context.get_current() is outer


def test_a_block_that_ends_in_another_task_does_not_change_its_context(
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = attached(context_of())
    contextvars.copy_context().run(block.__enter__)
    before = otel_context.get_current()
    with caplog.at_level(logging.DEBUG):
        block.__exit__(None, None, None)
    assert otel_context.get_current() is before
    assert caplog.records == []
