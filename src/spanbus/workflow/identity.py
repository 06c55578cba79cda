"""Deterministic W3C trace context: the ids of a run's spans as hashes of what the run is.

A replay of the same events gives the same trace, and a child process can compute its parent. The hash is BLAKE2b; the
format is W3C Trace Context level 1 (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


class TraceContext(NamedTuple):
    """One ``traceparent``: 128-bit trace id, 64-bit span id, the sampled bit."""

    trace_id: int
    span_id: int
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"


def parse_traceparent(value: str | None) -> TraceContext | None:
    """The context in a ``traceparent`` header, or None where it is absent or not valid (the rule of the standard)."""
    if not value:
        return None
    match = _TRACEPARENT.fullmatch(value.strip().lower())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(match[4], 16) & 1))


def _digest(size_bytes: int, *parts: object) -> int:
    text = "\x1f".join(str(part) for part in parts)
    value = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size_bytes).digest(), "big")
    return value or 1  # zero is not a valid id


def trace_id_of(run_id: str, parent: TraceContext | None = None) -> int:
    """The trace of a run: its parent's where there is one, else a hash of the run id."""
    return parent.trace_id if parent is not None else _digest(16, "trace", run_id)


def span_id_of(run_id: str, *path: object) -> int:
    """The span id of a place in a run: ``()`` is the run itself, ``("phase", name, occurrence)`` a phase, and so on."""
    return _digest(8, "span", run_id, *path)


def phase_span_id(run_id: str, phase: str, occurrence: int = 1) -> int:
    """The span id of the ``occurrence``-th time (from 1) that a phase of this name stands in the run."""
    return span_id_of(run_id, "phase", phase, occurrence)


def attempt_span_id(run_id: str, phase: str, attempt: int, occurrence: int = 1) -> int:
    """The span id under which the work of one attempt nests: the phase itself for the first, an attempt span after it."""
    if attempt <= 1:
        return phase_span_id(run_id, phase, occurrence)
    return span_id_of(run_id, "phase", phase, occurrence, "attempt", attempt)
