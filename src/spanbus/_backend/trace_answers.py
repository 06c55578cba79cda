"""Answers with traces, written in pieces, because a trace may be arbitrarily large."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, cast

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData

from spanbus._otlp import json as otlp_json
from spanbus._otlp.decode import service_of
from spanbus._runs import jaeger
from spanbus._runs.jaeger import Document

Pieces = Iterable[Sequence[ResourceSpans]]
"""Spans of one trace in pieces."""

_PIECE_CHARS: Final = 256 << 10
_RESULT: Final = '{"result":{"resourceSpans":['
_PROCESSES_CHARS: Final = 4 << 20
"""Limit on the tags of all processes of a trace; further processes get none."""


def gathered(texts: Iterable[str]) -> Iterator[bytes]:
    """Join texts into pieces of about 256 Ki characters."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= _PIECE_CHARS:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting).encode()


def older(
    traces: Iterable[tuple[str, Pieces]], errors: Callable[[], list[Document] | None]
) -> Iterator[str]:
    """Yield an answer of the older API; ``errors`` is called after all traces."""
    yield '{"data":['
    empty = True
    for trace_id, pieces in traces:
        for at, text in enumerate(_trace(trace_id, pieces)):
            yield text if at or empty else f",{text}"
            empty = False
    rest = text_of(
        {name: of for name, of in jaeger.envelope([], errors=errors()).items() if of != []}
    )
    yield f"],{rest[1:]}"


def _trace(trace_id: str, pieces: Pieces) -> Iterator[str]:
    """Yield one trace in the older API's format; nothing without a span."""
    keys: dict[bytes, str] = {}
    processes: list[str] = []
    size = 0
    begun = False
    for groups in pieces:
        for group in groups:
            identity = group.resource.SerializeToString(deterministic=True)
            key = keys.get(identity)
            if key is None:
                key = keys[identity] = f"p{len(keys) + 1}"
                process = text_of(jaeger.process(group.resource))
                size += len(process)
                if size > _PROCESSES_CHARS:
                    process = text_of({"serviceName": service_of(group.resource), "tags": []})
                processes.append(f"{text_of(key)}:{process}")
            for span in jaeger.spans(group, key):
                head = "" if begun else f'{{"traceID":{text_of(jaeger.short(trace_id))},"spans":['
                yield f"{head}{',' if begun else ''}{text_of(span)}"
                begun = True
    if begun:
        yield f'],"processes":{{{",".join(processes)}}},"warnings":null}}'


def newer(traces: Iterable[Pieces], more: Document) -> Iterator[str]:
    """Yield an answer of ``/api/v3``; nothing without a span."""
    begun = False
    for pieces in traces:
        for groups in pieces:
            for group in groups:
                for scope in group.scope_spans:  # Jaeger writes scope and status even when empty
                    scope.scope.SetInParent()
                    for span in scope.spans:
                        span.status.SetInParent()
            written = otlp_json.write(TracesData(resource_spans=groups))
            for group in cast("list[Document]", written.get("resourceSpans", [])):
                yield ("," if begun else _RESULT) + text_of(group)
                begun = True
    if begun:
        rest = text_of(more)
        yield f"]}}{',' if more else ''}{rest[1:]}"


def text_of(document: object) -> str:
    """Compact JSON."""
    return json.dumps(document, separators=(",", ":"))
