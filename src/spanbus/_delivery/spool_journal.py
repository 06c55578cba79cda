"""Journal of one spool: an entry is closed when its closing record is on disk, or dropped."""

from __future__ import annotations

from spanbus._delivery.open_journal import OpenJournal
from spanbus._delivery.segment import Segment


class SpoolJournal:
    """Wrapper of the :class:`OpenJournal`; a spool in memory has none."""

    __slots__ = ("_closed_in_memory", "journal")

    def __init__(self) -> None:
        self.journal: OpenJournal | None = None
        self._closed_in_memory: list[int] = []
        """Keys of entries whose closing records are only in memory."""

    def introduce(self, data: bytes) -> None:
        """Set the header of our resource, which a recovering process reads first."""
        if self.journal is not None:
            self.journal.introduce(data)

    def closed_by(self, key: int, segment: Segment | None) -> None:
        """Close an entry by a record in ``segment``; None for a dropped record."""
        if self.journal is None:
            return
        if segment is not None and segment.path is None:
            self._closed_in_memory.append(key)
        else:
            self.journal.closed(key)

    @property
    def waits(self) -> bool:
        """Whether entries are open only because their closing records are in memory."""
        return bool(self._closed_in_memory)

    def settle(self) -> None:
        """Close those entries: no record is in memory any more."""
        if self.journal is not None:
            for key in self._closed_in_memory:
                self.journal.closed(key)
        self._closed_in_memory.clear()

    def renewed(self) -> int | None:
        """Return the descriptor to sync, as :meth:`OpenJournal.renewed` does."""
        return self.journal.renewed() if self.journal is not None else None

    def close(self) -> None:
        """Settle and close."""
        if self.journal is not None:
            self.settle()
            self.journal.close()

    def forked(self) -> None:
        """In a child process: close the parent's file."""
        if self.journal is not None:
            self.journal.forked()
