"""Trace context across processes and tasks: environment carriers in and out, attached with its detaching.

Environment carriers follow the OpenTelemetry specification: ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE``, upper-case.
What comes in that is not valid is ignored, as W3C Trace Context demands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context

from spanbus.workflow.identity import parse_traceparent

TRACEPARENT, TRACESTATE, BAGGAGE = "TRACEPARENT", "TRACESTATE", "BAGGAGE"


class Incoming(NamedTuple):
    """The caller's trace context; None where there is none."""

    traceparent: str | None = None
    tracestate: str | None = None


def incoming(env: Mapping[str, str]) -> Incoming:
    """The context that the process was started in: from its environment, None where it is absent or not valid."""
    traceparent = env.get(TRACEPARENT)
    if parse_traceparent(traceparent) is None:
        return Incoming()
    return Incoming(traceparent, env.get(TRACESTATE) or None)


def current() -> Incoming:
    """The context of the caller's current span, where one is recording or was passed on."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return Incoming()
    sampled = "01" if context.trace_flags.sampled else "00"
    state = context.trace_state.to_header() if context.trace_state else None
    return Incoming(f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled}", state or None)


def outgoing(context: Context) -> dict[str, str]:
    """The environment for a child process, by the propagators that ``OTEL_PROPAGATORS`` names; to be put on a copy."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return {name.upper().replace("-", "_"): value for name, value in carrier.items() if "\x00" not in value}


def with_baggage(context: Context, env: Mapping[str, str]) -> Context:
    """``context`` with the baggage that the process was started with."""
    header = env.get(BAGGAGE)
    if not header:
        return context
    return propagate.extract({"baggage": header}, context)


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Make ``context`` current in this task until the block ends, in this task too."""
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
