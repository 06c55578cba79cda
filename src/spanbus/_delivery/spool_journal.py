"""The journal of one spool: an entry that a record closes stays until that record is on disk."""

from __future__ import annotations

from spanbus._delivery.open_journal import OpenJournal
from spanbus._delivery.segment import Segment


class SpoolJournal:
    """Passes on to the :class:`OpenJournal`, where there is one: a spool in memory has none."""

    __slots__ = ("_closed_in_memory", "journal")

    def __init__(self) -> None:
        self.journal: OpenJournal | None = None
        self._closed_in_memory: list[int] = []
        """Keys of entries whose closing records are only in memory."""

    def introduce(self, data: bytes) -> None:
        """Write the header that a recovering process reads first."""
        if self.journal is not None:
            self.journal.introduce(data)

    def closed_by(self, key: int, segment: Segment | None) -> None:
        """A record in ``segment`` closes an entry; None for a record that was dropped."""
        if self.journal is None:
            return
        if segment is not None and segment.path is None:
            self._closed_in_memory.append(key)
        else:
            self.journal.closed(key)

    @property
    def waits(self) -> bool:
        """Whether entries stay only because the records that close them are in memory."""
        return bool(self._closed_in_memory)

    def settle(self) -> None:
        """Close those entries: no record is in memory any more."""
        if self.journal is not None:
            for key in self._closed_in_memory:
                self.journal.closed(key)
        self._closed_in_memory.clear()

    def renewed(self) -> int | None:
        """The descriptor to be synced to the disk, as :meth:`OpenJournal.renewed` says."""
        return self.journal.renewed() if self.journal is not None else None

    def close(self) -> None:
        """Settle and close."""
        if self.journal is not None:
            self.settle()
            self.journal.close()

    def forked(self) -> None:
        """In a child process."""
        if self.journal is not None:
            self.journal.forked()
