"""Span ids of a command and the trace context for its environment, computed without the SDK.

The ids are the hashes of :mod:`spanbus._workflow.identity`, so the spans recorded later have the same ids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._workflow import identity

TRACEPARENT, TRACESTATE = "TRACEPARENT", "TRACESTATE"
_PLAIN = {"tracecontext", "baggage"}


class Trace:
    """A run's identity. ``changes`` are the changes to the command's environment; None removes a variable."""

    __slots__ = ("changes", "run_id", "traceparent", "tracestate")

    def __init__(
        self,
        run_id: str,
        traceparent: str | None,
        tracestate: str | None,
        changes: dict[str, str | None],
    ) -> None:
        self.run_id = run_id
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.changes = changes


def disabled(env: Mapping[str, str]) -> bool:
    """Whether ``OTEL_SDK_DISABLED`` is ``true``, the only true value in the OpenTelemetry specification."""
    return env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def new_run_id() -> str:
    """Return a short, unique id that sorts by time: ``20260101-120000-1a2b3c4d``."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


def trace_of(env: Mapping[str, str], phase: str, command: str) -> Trace:
    """Return identity and environment of a run with one phase, the command.

    If the caller's trace context is missing or invalid, ``TRACESTATE`` is removed too.
    """
    run_id = new_run_id()
    wanted = _propagators(env)
    if not wanted <= _PLAIN:
        return _by_propagators(env, run_id, phase, command)
    if "tracecontext" not in wanted:
        return Trace(run_id, None, None, {})
    parent = identity.parse_traceparent(env.get(TRACEPARENT))
    own = _context(env, run_id, parent, phase, command)
    changes: dict[str, str | None] = {TRACEPARENT: own.traceparent}
    if parent is None and TRACESTATE in env:
        changes[TRACESTATE] = None
    return Trace(
        run_id,
        parent.traceparent if parent is not None else None,
        env.get(TRACESTATE) if parent is not None else None,
        changes,
    )


def _context(
    env: Mapping[str, str],
    run_id: str,
    parent: identity.TraceContext | None,
    phase: str,
    command: str,
) -> identity.TraceContext:
    trace_id = identity.trace_id_of(run_id, parent)
    phase_id = identity.phase_span_id(identity.run_span_id(run_id), phase, 1)
    span_id = identity.child_span_id(phase_id, "command", command, 1)
    return identity.TraceContext(
        trace_id, span_id, EnvironmentSampler.of(env).keeps(trace_id, parent)
    )


def _propagators(env: Mapping[str, str]) -> set[str]:
    text = env.get("OTEL_PROPAGATORS", "").strip() or "tracecontext,baggage"
    return {word for part in text.split(",") if (word := part.strip().lower()) not in ("", "none")}


def _by_propagators(env: Mapping[str, str], run_id: str, phase: str, command: str) -> Trace:
    """Use the propagators of the OpenTelemetry API, which is only imported for formats other than W3C."""
    from spanbus._exec.messages import log_to_stderr
    from spanbus._loggers import load

    log_to_stderr()
    load()
    from opentelemetry import trace as api
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

    from spanbus._telemetry.context import incoming, outgoing

    caller = incoming(env)
    own = _context(env, run_id, identity.parse_traceparent(caller.traceparent), phase, command)
    state = TraceState.from_header([caller.tracestate]) if caller.tracestate else TraceState()
    span = NonRecordingSpan(
        SpanContext(own.trace_id, own.span_id, False, TraceFlags(int(own.sampled)), state)
    )
    changes: dict[str, str | None] = dict(outgoing(api.set_span_in_context(span, Context())))
    if TRACEPARENT in changes and TRACESTATE in env and caller.tracestate is None:
        changes[TRACESTATE] = None
    return Trace(run_id, caller.traceparent, caller.tracestate, changes)
