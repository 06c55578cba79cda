"""A spool seen from outside: what waits in it, and whether anybody writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spanbus.delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus.delivery.signals import Signal
from spanbus.delivery.spool_files import APART, FOLDER, is_locked, left_open, segment_files


class DirectoryStatus(NamedTuple):
    """What lies in a spool: records that wait by destination and signal, files, processes that write now."""

    waiting: Mapping[tuple[str, Signal], int]
    bytes: int
    oldest_at_ns: int | None
    files: int
    alive: int
    left_open: int
    set_aside: int
    records: int
    """How many wait for the destination that most wait for, a collection of metrics as one."""


def status(state_dir: Path) -> DirectoryStatus:
    """Look without disturbing anybody; a directory that is not there is empty. What goes to other servers lies apart and is looked at too."""
    waiting: dict[tuple[str, Signal], int] = {}
    records: dict[str, int] = {}
    dead: dict[tuple[Path, bytes], list[Segment]] = {}
    used = files = aside = 0
    alive: set[bytes] = set()
    oldest: int | None = None
    for directory in (state_dir / FOLDER, *(apart / FOLDER for apart in sorted(state_dir.glob(f"{APART}*")))):
        aside += len(list(directory.glob("*.bad")))
        for path in sorted(segment_files(directory)):
            try:
                data = bytearray(path.read_bytes())
                segment = Segment.recover(data, path, None)
                locked = is_locked(path)
            except (OSError, BadSegment):
                continue
            files += 1
            if locked:
                alive.add(segment.token)
            else:
                dead.setdefault((directory, segment.token), []).append(segment)
            for name in segment.destinations:
                for frame in segment.frames(segment.cursors[name]):
                    if frame.kind is Kind.RECORD and frame.count:
                        waiting[name, frame.signal] = waiting.get((name, frame.signal), 0) + frame.count
                        records[name] = records.get(name, 0) + 1
                        oldest = frame.at_s if oldest is None else min(oldest, frame.at_s)
            used += segment.position - min(segment.cursors.values(), default=HEADER_BYTES)
    unfinished = sum(len(left_open(segments, {}).open) for segments in dead.values())
    return DirectoryStatus(waiting, used, None if oldest is None else oldest * 10**9, files, len(alive), unfinished, aside, max(records.values(), default=0))


def left(state_dir: Path, destination: str) -> bool:
    """Whether a dead process left something for this destination; cheap, for it opens no more than it must."""
    for path in segment_files(state_dir / FOLDER):
        try:
            if is_locked(path):
                continue
            segment = Segment.recover(bytearray(path.read_bytes()), path, None)
        except (OSError, BadSegment):
            continue
        if segment.waiting.get(destination) or (segment.destinations == (destination,) and not segment.leftovers_done and left_open([segment], {})[:2] != ([], [])):
            return True
    return False
