"""A trace as lines of text: each span with its result, indented below its parent."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from spans import attributes

_RESULTS = ("cicd.pipeline.result", "cicd.pipeline.task.run.result", "spanbus.hook.result")


def picture(spans: Iterable[Span]) -> list[str]:
    """Return lines such as ``RUN nightly failure`` and ``  fetch failure ValueError``; siblings are sorted by name."""
    known = {span.span_id: span for span in spans}
    beneath: dict[bytes, list[Span]] = {}
    for span in known.values():
        parent = span.parent_span_id if span.parent_span_id in known else b""
        beneath.setdefault(parent, []).append(span)

    def lines(parent: bytes, depth: int) -> list[str]:
        found = sorted(
            (
                [_line(one, depth), *lines(one.span_id, depth + 1)]
                for one in beneath.get(parent, [])
            ),
        )
        return [line for part in found for line in part]

    return lines(b"", 0)


def _line(span: Span, depth: int) -> str:
    told = attributes(span)
    result = next((str(told[key]) for key in _RESULTS if key in told), "")
    words = [span.name.removesuffix(f" ({result})"), result, str(told.get("error.type") or "")]
    return "  " * depth + " ".join(word for word in words if word)
