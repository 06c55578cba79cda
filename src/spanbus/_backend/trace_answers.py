"""Answers that hold traces, written piece by piece: nobody knows how large the trace of a client is."""

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
"""The spans of one trace, some at a time."""

_PIECE_CHARS: Final = 256 << 10
_RESULT: Final = '{"result":{"resourceSpans":['
_PROCESSES_CHARS: Final = 4 << 20
"""Tags of all processes of a trace; the processes above it have none."""


def gathered(texts: Iterable[str]) -> Iterator[bytes]:
    """The same text in pieces that are worth a frame of their own."""
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
    """An answer of the older API; ``errors`` is asked when all traces are written."""
    yield '{"data":['
    empty = True
    for trace_id, pieces in traces:
        for at, text in enumerate(_trace(trace_id, pieces)):
            yield text if at or empty else f",{text}"
            empty = False
    rest = _text(
        {name: of for name, of in jaeger.envelope([], errors=errors()).items() if of != []}
    )
    yield f"],{rest[1:]}"


def _trace(trace_id: str, pieces: Pieces) -> Iterator[str]:
    """One trace as the older API has it; nothing where there is no span."""
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
                process = _text(jaeger.process(group.resource))
                size += len(process)
                if size > _PROCESSES_CHARS:
                    process = _text({"serviceName": service_of(group.resource), "tags": []})
                processes.append(f"{_text(key)}:{process}")
            for span in jaeger.spans(group, key):
                head = "" if begun else f'{{"traceID":{_text(jaeger.short(trace_id))},"spans":['
                yield f"{head}{',' if begun else ''}{_text(span)}"
                begun = True
    if begun:
        yield f'],"processes":{{{",".join(processes)}}},"warnings":null}}'


def newer(traces: Iterable[Pieces], more: Document) -> Iterator[str]:
    """An answer of ``/api/v3``; nothing where there is no span."""
    begun = False
    for pieces in traces:
        for groups in pieces:
            for group in groups:
                for scope in group.scope_spans:  # there, even when empty, as Jaeger has them
                    scope.scope.SetInParent()
                    for span in scope.spans:
                        span.status.SetInParent()
            written = otlp_json.write(TracesData(resource_spans=groups))
            for group in cast("list[Document]", written.get("resourceSpans", [])):
                yield ("," if begun else _RESULT) + _text(group)
                begun = True
    if begun:
        rest = _text(more)
        yield f"]}}{',' if more else ''}{rest[1:]}"


def _text(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))
