"""The spans that lie in the spool of a state directory, whichever process put them there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spanbus._delivery.regular_files import files_of, read_regular
from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus._delivery.spool_files import FOLDER, SUFFIX
from spanbus._otlp.signals import Signal


def spooled_spans(state_dir: Path) -> frozenset[int]:
    """Their ids, sent or not, as far as the files have not been removed yet."""
    found: set[int] = set()
    for path in files_of(state_dir / FOLDER, SUFFIX):
        with suppress(OSError, BadSegment):  # removed meanwhile, or not whole
            segment = Segment.recover(bytearray(read_regular(path)), path, None)
            found.update(
                frame.key
                for frame in segment.frames(HEADER_BYTES, journal=False)
                if frame.kind is Kind.RECORD and frame.signal is Signal.TRACES
            )
    found.discard(0)
    return frozenset(found)
