"""Trace context across processes and tasks: environment carriers in and out, attached with its detaching.

Environment carriers follow the OpenTelemetry specification: ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE``, upper-case;
which of them are read and written is for ``OTEL_PROPAGATORS`` to say. What comes in that is not valid is ignored, as W3C
Trace Context demands.
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
_CHOICE = "OTEL_PROPAGATORS"
_NOT_A_NAME = re.compile(r"[^A-Z0-9_]")


class Incoming(NamedTuple):
    """The caller's trace context; None where there is none."""

    traceparent: str | None = None
    tracestate: str | None = None


def incoming(env: Mapping[str, str]) -> Incoming:
    """The context that the process was started in: from its environment, None where it is absent or not valid."""
    return _incoming(trace.get_current_span(_extracted(env)).get_span_context())


def current() -> Incoming:
    """The context of the caller's current span, where one is recording or was passed on."""
    return _incoming(trace.get_current_span().get_span_context())


def outgoing(context: Context) -> dict[str, str]:
    """The environment for a child process, by the propagators that ``OTEL_PROPAGATORS`` names; to be put on a copy."""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier, context, _EnvironmentSetter())
    return carrier


def into_headers(context: Context) -> dict[str, str]:
    """The headers of a message by which ``context`` goes with it: ``traceparent`` and what else the propagators write."""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier, context, _HeaderSetter())
    return carrier


def from_headers(headers: Mapping[str, object]) -> Context:
    """The context that came with a message, on top of the caller's; what is not text or not valid is ignored."""
    texts = {key: value for key, value in headers.items() if isinstance(value, str)}
    return _propagator().extract(texts, otel_context.get_current())


def identity_of(context: Context) -> Incoming:
    """The span that is current in ``context``, where there is one."""
    return _incoming(trace.get_current_span(context).get_span_context())


def with_baggage(context: Context, env: Mapping[str, str]) -> Context:
    """``context`` with the baggage that the process was started with; what is there already stays."""
    if not env.get(BAGGAGE):
        return context
    there = baggage_of(context)
    for name, value in baggage_of(_extracted(env)).items():
        if name not in there:
            context = set_baggage(name, value, context)
    return context


@contextmanager
def attached(context: Context) -> Generator[None]:
    """Make ``context`` current in this task until the block ends.

    A block that ends in another task, as that of a generator which somebody else closes, leaves that task's context alone.
    """
    mark = _attached_here.set(None)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        try:
            _attached_here.reset(mark)
        except (
            ValueError
        ):  # not the task that attached; detaching here would log an error and mend nothing
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
    """The global one. Importing its module looks through all that is installed, and raises where ``OTEL_PROPAGATORS``
    names one that is not; where neither that says one nor anybody has imported it, it is the usual one.
    """
    nobody_chose = "opentelemetry.propagate" not in sys.modules and not os.environ.get(_CHOICE)
    return _usual_propagator() if nobody_chose or _is_unusable() else _global_propagator()


@cache
def _is_unusable() -> bool:
    try:
        _global_propagator()
    except (
        Exception
    ):  # ValueError of the API, or whatever a foreign propagator raises when it is made
        return True
    return False


def _global_propagator() -> TextMapPropagator:
    from opentelemetry.propagate import get_global_textmap

    return get_global_textmap()


@cache
def _usual_propagator() -> TextMapPropagator:
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


class _HeaderSetter(Setter[dict[str, str]]):
    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


class _EnvironmentSetter(Setter[dict[str, str]]):
    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        if "\0" not in value:  # which no environment can hold
            carrier[_variable(key)] = value
