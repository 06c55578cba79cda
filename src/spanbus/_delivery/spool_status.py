"""Status of a spool, read from outside: waiting records and live writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from spanbus._delivery.open_journal import JournalContent, journal_files, parse_journal
from spanbus._delivery.recovery import left_open
from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus._delivery.spool_files import APART, FOLDER, is_locked, segment_files
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal

EVENTS_FOLDER = "events"
"""Folder of the outbox of events for NATS, in the state directory."""


class DirectoryStatus(NamedTuple):
    """Content of a spool: waiting records by destination and signal, files, live writers."""

    waiting: Mapping[tuple[str, Signal], int]
    bytes: int
    oldest_at_ns: int | None
    files: int
    alive: int
    left_open: int
    set_aside: int
    records: int
    """Waiting records of the destination with the most; a collection of metrics counts as one."""


def status(state_dir: Path) -> DirectoryStatus:
    """Read the status without blocking writers; a missing directory counts as empty. Includes spools of separate signals."""
    waiting: dict[tuple[str, Signal], int] = {}
    records: dict[str, int] = {}
    dead: dict[tuple[Path, bytes], list[Segment]] = {}
    journals: dict[tuple[Path, bytes], JournalContent] = {}
    used = files = aside = 0
    alive: set[bytes] = set()
    oldest: int | None = None
    for directory in (
        state_dir / FOLDER,
        *(apart / FOLDER for apart in sorted(state_dir.glob(f"{APART}*"))),
    ):
        aside += len(list(directory.glob("*.bad")))
        for journal in _dead_journals(directory):
            journals[directory, journal.token] = journal
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
                        waiting[name, frame.signal] = (
                            waiting.get((name, frame.signal), 0) + frame.count
                        )
                        records[name] = records.get(name, 0) + 1
                        oldest = frame.at_s if oldest is None else min(oldest, frame.at_s)
            used += segment.position - min(segment.cursors.values(), default=HEADER_BYTES)
    unfinished = sum(
        len(left_open(dead.get(process, []), journals.get(process), {}).open)
        for process in {**dead, **journals}
        if process[1] not in alive
    )
    return DirectoryStatus(
        waiting,
        used,
        None if oldest is None else oldest * 10**9,
        files,
        len(alive),
        unfinished,
        aside,
        max(records.values(), default=0),
    )


def left(state_dir: Path, destination: str) -> bool:
    """Whether a dead process left records for this destination; stops at the first file that has some."""
    directory = state_dir / FOLDER
    for path in segment_files(directory):
        try:
            if is_locked(path):
                continue
            segment = Segment.recover(bytearray(path.read_bytes()), path, None)
        except (OSError, BadSegment):
            continue
        if segment.waiting(destination) or (
            segment.destinations == (destination,)
            and not segment.leftovers_done
            and left_open([segment], None, {})[:2] != ([], [])
        ):
            return True
    return any(
        journal.destinations == (destination,) and journal.entries
        for journal in _dead_journals(directory)
    )


def _dead_journals(directory: Path) -> Iterator[JournalContent]:
    for path in journal_files(directory):
        try:
            if not is_locked(path):
                yield parse_journal(path, path.read_bytes())
        except (OSError, BadSegment):
            continue
