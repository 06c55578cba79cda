"""Trace context across processes and tasks: inject and extract environment variables and headers, attach and detach.

Environment carriers follow the OpenTelemetry specification: ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE`` in upper case.
``OTEL_PROPAGATORS`` decides which of them are used. Invalid values are ignored, as W3C Trace Context demands.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.baggage import get_all as baggage_of
from opentelemetry.baggage import set_baggage
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator
from opentelemetry.trace import SpanContext

from spanbus._named_tuple import NamedTuple

TRACEPARENT, TRACESTATE, BAGGAGE = "TRACEPARENT", "TRACESTATE", "BAGGAGE"
_PROPAGATORS = "OTEL_PROPAGATORS"
_NOT_A_NAME = re.compile(r"[^A-Z0-9_]")


class Incoming(NamedTuple):
    """A trace context as headers; None if there is none."""

    traceparent: str | None = None
    tracestate: str | None = None


def incoming(env: Mapping[str, str]) -> Incoming:
    """Return the trace context from the environment of the process; None values if it is absent or invalid."""
    return _incoming(trace.get_current_span(_extracted(env)).get_span_context())


def current() -> Incoming:
    """Return the trace context of the current span."""
    return _incoming(trace.get_current_span().get_span_context())


def outgoing(context: Context) -> dict[str, str]:
    """Return the environment variables for a child process, to be added to a copy of the environment."""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier, context, _EnvironmentSetter())
    return carrier


def into_headers(context: Context) -> dict[str, str]:
    """Return the message headers for ``context``: ``traceparent`` and whatever else the propagators write."""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier, context)  # pyright: ignore[reportArgumentType] - its own default
    return carrier


def from_headers(headers: Mapping[str, object]) -> Context:
    """Return the current context extended by that of a message; headers that are not text or invalid are ignored."""
    texts = {key: value for key, value in headers.items() if isinstance(value, str)}
    return _propagator().extract(texts, otel_context.get_current())


def identity_of(context: Context) -> Incoming:
    """Return the trace context of the span that is current in ``context``."""
    return _incoming(trace.get_current_span(context).get_span_context())


def with_baggage(context: Context, env: Mapping[str, str]) -> Context:
    """Return ``context`` with the baggage from the environment; existing entries are kept."""
    if not env.get(BAGGAGE):
        return context
    there = baggage_of(context)
    for name, value in baggage_of(_extracted(env)).items():
        if name not in there:
            context = set_baggage(name, value, context)
    return context


@contextmanager
def attached(context: Context) -> Generator[None]:
    """Context manager that makes ``context`` current in this task.

    If the block ends in another task, as for a generator closed elsewhere, that task's context is left alone.
    """
    mark = _attached_here.set(None)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        try:
            _attached_here.reset(mark)
        except ValueError:  # another task: detaching here would only log an error
            pass
        else:
            otel_context.detach(token)


_attached_here: ContextVar[None] = ContextVar("spanbus_attached_here", default=None)


def _incoming(context: SpanContext) -> Incoming:
    if not context.is_valid:
        return Incoming()
    sampled = "01" if context.trace_flags.sampled else "00"
    state = context.trace_state.to_header() if context.trace_state else None
    return Incoming(f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled}", state or None)


def _extracted(env: Mapping[str, str]) -> Context:
    return _propagator().extract(env, Context(), _EnvironmentGetter())


def _propagator() -> TextMapPropagator:
    """Return the global propagator, or an equal one if it has not been imported or configured.

    Importing ``opentelemetry.propagate`` scans all installed packages, and raises if ``OTEL_PROPAGATORS`` is wrong.
    """
    is_default = "opentelemetry.propagate" not in sys.modules and not os.environ.get(_PROPAGATORS)
    return _default_propagator() if is_default or _is_unusable() else _global_propagator()


@cache
def _is_unusable() -> bool:
    try:
        _global_propagator()
    except Exception:  # ValueError of the API, or anything that a foreign propagator raises
        return True
    return False


def _global_propagator() -> TextMapPropagator:
    from opentelemetry.propagate import get_global_textmap

    return get_global_textmap()


@cache
def _default_propagator() -> TextMapPropagator:
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def _variable(name: str) -> str:
    return _NOT_A_NAME.sub("_", name.upper())


class _EnvironmentGetter(Getter[Mapping[str, str]]):
    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(_variable(key))
        return [value] if value is not None else None

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


class _EnvironmentSetter(Setter[dict[str, str]]):
    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        if "\0" not in value:  # not possible in an environment
            carrier[_variable(key)] = value
