"""Spans in the spool of a state directory, of all processes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spanbus._delivery.regular_files import read_regular, regular_files_in
from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus._delivery.spool_files import FOLDER, SUFFIX
from spanbus._otlp.signals import Signal


def spooled_spans(state_dir: Path) -> frozenset[int]:
    """Span ids in all files that are not removed yet, sent or not."""
    found: set[int] = set()
    for path in regular_files_in(state_dir / FOLDER, SUFFIX):
        with suppress(OSError, BadSegment):  # removed meanwhile, or incomplete
            segment = Segment.recover(bytearray(read_regular(path)), path, None)
            found.update(
                frame.key
                for frame in segment.frames(HEADER_BYTES, journal=False)
                if frame.kind is Kind.RECORD and frame.signal is Signal.TRACES
            )
    found.discard(0)
    return frozenset(found)
