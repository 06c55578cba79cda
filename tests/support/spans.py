"""Lookup of received spans by name, and their attributes."""

from __future__ import annotations

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus.testing import Receiver


def by_name(collector: Receiver, name: str) -> Span:
    """Return the one span named ``name``, else the one whose name starts with ``name`` and a space."""
    found = [
        span for span in collector.spans() if span.name == name or span.name.startswith(f"{name} ")
    ]
    exact = [span for span in found if span.name == name] or found
    assert len(exact) == 1, (name, sorted(span.name for span in collector.spans()))
    return exact[0]


def event_names(span: Span) -> list[str]:
    return [event.name for event in span.events]


def attributes(of: Span) -> dict[str, object]:
    return {pair.key: _value(pair) for pair in of.attributes}


def _value(pair: KeyValue) -> object:
    kind = pair.value.WhichOneof("value")
    if kind == "array_value":
        return [each.string_value for each in pair.value.array_value.values]
    return getattr(pair.value, kind) if kind else None
