"""Batches of records, read from the segments of a spool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from spanbus._delivery.segment import Kind, Segment
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal

_SLICE: Final = 8
_SLICE_S: Final = 0.000_3
_GROUP: Final = Kind.GROUP
_RECORD: Final = Kind.RECORD
"""Module constants, because looking up an enum member for every frame is slow."""


class Stored:
    """One stored record; ``group`` is its resource and scope header."""

    __slots__ = ("count", "data", "group", "signal")

    def __init__(self, signal: Signal, group: bytes, data: bytes, count: int) -> None:
        self.signal, self.group = signal, group
        self.data, self.count = data, count


class Place(NamedTuple):
    """Position up to which a segment was read, and the number of records before it."""

    segment: Segment
    offset: int
    records: int


class Batch(NamedTuple):
    """Records that were read; ``end`` holds the places to acknowledge."""

    records: list[Stored]
    end: list[Place]


class Readable(NamedTuple):
    """A segment with the headers of its process, the start of reading and its end."""

    segment: Segment
    groups: dict[int, bytes]
    cursor: int
    position: int


def gather(found: Sequence[Readable], *, max_bytes: int, max_records: int) -> Batch:
    """Read the oldest records of these segments; yield the GIL every 0.3 ms. Needs no lock: written frames do not change."""
    records: list[Stored] = []
    places: list[Place] = []
    size = 0
    yield_at_s = time.perf_counter() + _SLICE_S
    for segment, groups, cursor, position in found:
        taken, offset, full = 0, cursor, False
        try:
            for frame in segment.frames(offset, journal=False):
                if frame.offset >= position:
                    break
                if frame.kind is _GROUP:
                    groups[frame.key] = frame.data
                elif frame.kind is _RECORD:
                    if records and (
                        size + len(frame.data) > max_bytes or len(records) >= max_records
                    ):
                        full = True
                        break
                    group = groups.get(frame.group, b"")
                    records.append(Stored(frame.signal, group, frame.data, frame.count))
                    size += len(frame.data)
                    taken += 1
                    if not taken % _SLICE and time.perf_counter() > yield_at_s:
                        time.sleep(0)
                        yield_at_s = time.perf_counter() + _SLICE_S
                offset = frame.end
        except ValueError:  # unmapped: dropped at the quota meanwhile, with the records just read
            del records[len(records) - taken :]
            continue
        places.append(Place(segment, offset, taken))
        if full or len(records) >= max_records or size >= max_bytes:
            break
    return Batch(records, places)


def still_held(batch: Batch, holds: Callable[[Segment], bool]) -> Batch:
    """Return the batch without the records of dropped segments."""
    if all(holds(place.segment) for place in batch.end):
        return batch
    each = iter(batch.records)
    by_place = [(place, list(islice(each, place.records))) for place in batch.end]
    kept = [(place, found) for place, found in by_place if holds(place.segment)]
    return Batch([record for _, found in kept for record in found], [place for place, _ in kept])
