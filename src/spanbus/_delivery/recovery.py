"""Recovery of the files of dead processes in a spool's folder; each dead process is adopted by one living process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from spanbus._delivery.open_journal import Entry, JournalContent, journal_files, parse_journal
from spanbus._delivery.segment import HEADER_BYTES, BadSegment, Kind, Segment
from spanbus._delivery.spool_files import (
    adopting,
    locked,
    modified_at,
    recovered,
    remove,
    segment_files,
)
from spanbus._loggers import Logger
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal

logger = Logger(__name__)

_TOKEN_BYTES: Final = 8


class Leftover(NamedTuple):
    """Leftovers of a dead process: open journal entries with their updates, and measured records that no metric holds."""

    open: list[tuple[int, list[bytes]]]
    measurements: list[bytes]
    token: bytes = b""
    group: bytes = b""
    """Resource header of the dead process."""
    alive_ns: int = 0
    """Last heartbeat in Unix nanoseconds; 0 if unknown."""


class DeadJournal:
    """The journal of a dead process, locked by us."""

    def __init__(self, path: Path, descriptor: int, found: JournalContent) -> None:
        self._path, self._descriptor, self.content = path, descriptor, found

    @classmethod
    def take(cls, path: Path) -> DeadJournal | None:
        """Lock and read a journal; None when its writer lives or it is gone. Raises :class:`BadSegment`."""
        found = locked(path)
        if found is None:
            return None
        descriptor, size = found
        try:
            return cls(path, descriptor, parse_journal(path, os.pread(descriptor, size, 0)))
        except BadSegment:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.close()


class Adopted:
    """Segments and journal of one dead process, locked by us."""

    def __init__(
        self, token: bytes, segments: list[Segment], journal: DeadJournal | None, *, whole: bool
    ) -> None:
        self.token, self.segments, self.journal = token, segments, journal
        self.whole = whole
        """This spool has all destinations of the dead process, so its open entries can be finished here."""
        self.groups: dict[int, bytes] = {}
        found = journal.content if journal is not None else None
        leftover = left_open(segments, found, self.groups)
        self.leftover = leftover if whole and (leftover.open or leftover.measurements) else None

    def waits(self, destinations: tuple[str, ...]) -> bool:
        """Whether anything remains to be sent or finished here."""
        return self.leftover is not None or any(
            segment.waiting(name) for segment in self.segments for name in destinations
        )

    def finished(self) -> None:
        """Mark the leftovers as finished: what they come to is in our own segments."""
        for segment in self.segments:
            segment.finish_leftovers()
        if self.journal is not None:
            self.journal.remove()
            self.journal = None
        self.leftover = None

    def release(self) -> None:
        """Remove finished files and unlock the others."""
        for segment in self.segments:
            if self.whole and self.leftover is None and segment.finished():
                remove(segment)
            else:
                with suppress(OSError):
                    segment.close()
        if self.journal is not None:
            if self.whole and self.leftover is None:
                self.journal.remove()
            else:
                self.journal.close()


class Recovery:
    """Adopted dead processes. Only :meth:`take_over` is thread-safe; for the rest the owner has the lock."""

    def __init__(self, directory: Path | None, destinations: tuple[str, ...]) -> None:
        self._directory = directory
        self._destinations = destinations
        self._held: dict[bytes, Adopted] = {}

    def take_over(self, own: bytes) -> list[Adopted]:
        """Lock and read the files of dead processes; exactly one process gets each. Register the result with :meth:`add`."""
        if self._directory is None:
            return []
        taken: list[Adopted] = []
        with adopting(self._directory, wait=False) as alone:
            if not alone:
                return []
            found: dict[str, list[Path]] = {}
            for path in segment_files(self._directory):
                found.setdefault(path.name.partition("-")[0], []).append(path)
            journals = {path.stem: path for path in journal_files(self._directory)}
            for name in journals:
                found.setdefault(name, [])
            ages = {
                name: min(
                    modified_at(path) for path in (*paths, *filter(None, [journals.get(name)]))
                )
                for name, paths in found.items()
            }
            for name in sorted(found, key=ages.__getitem__):
                if not is_token(name) or bytes.fromhex(name) in {own, *self._held}:
                    continue
                adopted = self._take_process(
                    bytes.fromhex(name), sorted(found[name]), journals.get(name)
                )
                if adopted is not None:
                    taken.append(adopted)
        return taken

    def _take_process(
        self, token: bytes, paths: list[Path], journal_path: Path | None
    ) -> Adopted | None:
        segments: list[Segment] = []
        journal: DeadJournal | None = None
        lives = False
        if journal_path is not None:
            try:
                journal = DeadJournal.take(journal_path)
                lives = journal is None and journal_path.exists()
            except BadSegment as error:
                _set_aside(journal_path, error)
        for path in paths if not lives else ():
            try:
                segment = recovered(path)
            except BadSegment as error:
                _set_aside(path, error)
                continue
            if segment is None:  # a locked segment: the process is not dead yet
                lives = True
                break
            if segment.token != token:
                segment.close()
                _set_aside(path, BadSegment(path, "is a copy of another file"))
                continue
            segments.append(segment)
        if lives or not (segments or journal):
            for each in (*segments, *([journal] if journal is not None else [])):
                each.close()
            return None
        theirs = (
            segments[0].destinations
            if segments
            else journal.content.destinations
            if journal is not None
            else ()
        )
        whole = set(theirs) <= set(self._destinations)
        adopted = Adopted(token, segments, journal, whole=whole)
        if not adopted.waits(self._destinations):
            adopted.release()
            return None
        return adopted

    def add(self, adopted: Adopted) -> None:
        """Add an adopted process; its segments are read from now on."""
        self._held[adopted.token] = adopted

    def finish(self, token: bytes) -> None:
        """Mark the leftovers of this dead process as finished."""
        adopted = self._held.get(token)
        if adopted is not None:
            adopted.finished()
            self.collect()

    def collect(self) -> None:
        """Release adopted processes with nothing left to send or finish."""
        for token, adopted in list(self._held.items()):
            if not adopted.waits(self._destinations):
                del self._held[token]
                adopted.release()

    def segments(self) -> Iterator[tuple[Segment, dict[int, bytes]]]:
        """Yield the adopted segments with the headers of their processes."""
        for adopted in self._held.values():
            for segment in adopted.segments:
                yield segment, adopted.groups

    def pop_oldest(self) -> Segment | None:
        """Remove and return the oldest adopted segment."""
        for token, adopted in list(self._held.items()):
            if adopted.segments:
                segment = adopted.segments.pop(0)
                if not adopted.segments and adopted.leftover is None:
                    del self._held[token]
                    adopted.release()
                return segment
        return None

    def close(self) -> None:
        """Unlock everything; the files stay for another process."""
        for adopted in self._held.values():
            for segment in adopted.segments:
                with suppress(OSError, ValueError, BufferError):
                    segment.close()
            if adopted.journal is not None:
                adopted.journal.close()
        self._held.clear()


def left_open(
    segments: list[Segment], journal: JournalContent | None, groups: dict[int, bytes]
) -> Leftover:
    """Find journal entries that no record closes, and measured records that were not exported.

    Fills ``groups`` with the headers of the segments. Segments of version 0.1 hold the journal frames themselves.
    """
    opened: dict[int, Entry] = {}
    measured: dict[int, bytes] = {}
    closed: dict[int, int] = {}
    token = segments[0].token if segments else journal.token if journal is not None else b""
    for segment in segments:
        for frame in segment.frames(HEADER_BYTES):
            place = segment.place_of(frame.offset)
            match frame.kind:
                case Kind.GROUP:
                    groups[frame.key] = frame.data
                case Kind.OPEN:
                    opened[frame.key] = Entry(frame.key, place, [frame.data])
                case Kind.UPDATE if frame.key in opened:
                    opened[frame.key].pieces.append(frame.data)
                case Kind.CLOSE:
                    opened.pop(frame.key, None)
                case Kind.RECORD:
                    if frame.key:
                        opened.pop(frame.key, None)
                        closed[frame.key] = place
                    if frame.sequence and frame.signal is Signal.TRACES:
                        measured[frame.sequence] = frame.data
                    elif frame.sequence:
                        for sequence in [each for each in measured if each <= frame.sequence]:
                            del measured[sequence]
                case _:
                    continue
    if any(segment.leftovers_done for segment in segments):
        return Leftover([], [], token)
    group = groups.get(0, b"")
    if journal is not None:
        group = journal.group or group
        opened.update(
            {
                entry.key: entry
                for entry in journal.entries
                if closed.get(entry.key, -1) < entry.place
            }
        )
    return Leftover(
        [(entry.key, entry.pieces) for entry in opened.values()],
        list(measured.values()),
        token,
        group,
        journal.alive_ns if journal is not None else 0,
    )


def is_token(text: str) -> bool:
    """Whether a text is a token, which begins the file names of a process."""
    try:
        return len(bytes.fromhex(text)) == _TOKEN_BYTES
    except ValueError:
        return False


def _set_aside(path: Path, error: BadSegment) -> None:
    if error.newer:
        return
    logger.warning("%s; it is set aside", error)
    with suppress(OSError):
        path.rename(path.with_suffix(".bad"))
