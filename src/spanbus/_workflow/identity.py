"""Deterministic W3C trace context: trace and span ids as hashes of the run id, phase and attempt.

A replay of the same events gives the same trace, and a child process can compute the ids of its parent. The hash is BLAKE2b;
the format is W3C Trace Context level 1 (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re
import struct
from typing import Final

from spanbus._bounded_cache import bounded_cache
from spanbus._hash import blake2b
from spanbus._named_tuple import NamedTuple
from spanbus._patterns import pattern

_TRACEPARENT: Final = pattern(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII
)
_NUMBER: Final = struct.Struct(">Q").unpack
_RUNS_MOST: Final = 1_000


class TraceContext(NamedTuple):
    """A parsed ``traceparent``: 128-bit trace id, 64-bit span id, sampled flag."""

    trace_id: int
    span_id: int
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"


def parse_traceparent(value: str | None) -> TraceContext | None:
    """Parse a ``traceparent`` header; None if it is absent or invalid by the standard."""
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
    return _hash(size_bytes, "\x1f".join([str(part) for part in parts]))


def _hash(size_bytes: int, text: str) -> int:
    value = int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size_bytes).digest(), "big"
    )
    return value or 1  # zero is not a valid id


def trace_id_of(run_id: str, parent: TraceContext | None = None) -> int:
    """Return the trace id of a run: its parent's, else a hash of the run id."""
    return parent.trace_id if parent is not None else _digest(16, "trace", run_id)


def run_span_id(run_id: str) -> int:
    """Return the span id of a run."""
    return _digest(8, "run", run_id)


def child_span_id(parent_span_id: int, *path: object) -> int:
    """Return the span id of a child by its path: ``("phase", name, occurrence)`` in a run, ``("attempt", n)`` in a phase."""
    return _digest(8, f"{parent_span_id:016x}", *path)


def phase_span_id(run_span_id: int, name: str, occurrence: int) -> int:
    """Return ``child_span_id(run_span_id, "phase", name, occurrence)``, computed faster."""
    hashed = _phase_hash(run_span_id).copy()
    hashed.update(f"{name}\x1f{occurrence}".encode("utf-8", "surrogatepass"))
    number: int = _NUMBER(hashed.digest())[0]
    return number or 1  # zero is not a valid id


def _new_phase_hash(run_span_id: int) -> blake2b:
    return blake2b(f"{run_span_id:016x}\x1fphase\x1f".encode(), digest_size=8)


_phase_hash: Final = bounded_cache(_new_phase_hash, _RUNS_MOST)
"""The hash of what the phases of a run have in common, to be copied for each of them."""


def short_hash(*parts: object) -> str:
    """Return a hash of twelve hexadecimal digits."""
    return f"{_digest(6, *parts):012x}"
