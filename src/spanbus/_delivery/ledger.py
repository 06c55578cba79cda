"""Ledger: delivery counts of all programs on a state directory, added up in one small file.

A program exports its own counts as metrics, but not those of records dropped after its last collection or lost from memory at
its end. The ledger holds the latter as unexported: for ``spanbus status``, and for the next program, which exports them. The
file has its final size from the beginning, so that it can be written when the disk is full.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from spanbus._delivery.regular_files import open_own, read_regular
from spanbus._delivery.spool_files import allocate
from spanbus._delivery.statistics import DeliveryStatistics, added
from spanbus._named_tuple import NamedTuple

LEDGER: Final = "delivery.json"
SIZE_BYTES: Final = 4096
_PATIENCE_S: Final = 0.05
_OLD_NAMES: Final = {
    "unexported_rejected": "untold_rejected",
    "unexported_dropped": "untold_dropped",
}
"""Names in the files of version 0.1."""

Counts = Mapping[tuple[str, str], int]
"""Records by signal and reason; the reason of delivered records is empty."""


class DeliveryCounts(NamedTuple):
    """Records by signal and reason; ``unexported`` are those of ``rejected`` and ``dropped`` that no exported metric
    holds yet.
    """

    delivered: Counts
    rejected: Counts
    dropped: Counts
    unexported_rejected: Counts
    unexported_dropped: Counts

    @property
    def unexported(self) -> bool:
        """Whether any count is unexported."""
        return bool(self.unexported_rejected or self.unexported_dropped)

    @classmethod
    def of(cls, found: DeliveryStatistics) -> DeliveryCounts:
        """Create from statistics; nothing counts as unexported."""
        delivered = {(signal, ""): count for signal, count in found.delivered.items()}
        return cls(delivered, found.rejected, found.dropped, {}, {})

    def plus(self, other: DeliveryCounts) -> DeliveryCounts:
        return DeliveryCounts(
            *(added(counts, more) for counts, more in zip(self, other, strict=True))
        )


NOTHING: Final = DeliveryCounts({}, {}, {}, {}, {})


class Ledger:
    """Persistent counts. Never raises; counts that cannot be written are lost. Safe from any thread and process."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LEDGER

    def prepare(self) -> None:
        """Create the file while the disk has room for it."""
        try:
            descriptor = open_own(self._path, os.O_RDWR)
        except OSError:
            return
        try:
            if os.fstat(descriptor).st_size < SIZE_BYTES:
                allocate(descriptor, 0, SIZE_BYTES)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def read(self) -> DeliveryCounts:
        """Return the current counts."""
        try:
            return _parsed(read_regular(self._path, SIZE_BYTES))
        except OSError:
            return NOTHING

    def add(self, counts: DeliveryCounts) -> bool:
        """Add counts; False when they could not be written."""
        if not any(counts):
            return True
        return self._change(lambda known: known.plus(counts)) is not None

    def take_unexported(self) -> DeliveryCounts:
        """Remove and return the unexported counts; the caller must export them."""
        found = self.read()
        if not found.unexported:
            return NOTHING
        before = self._change(
            lambda known: known._replace(unexported_rejected={}, unexported_dropped={})
        )
        return (
            DeliveryCounts({}, {}, {}, before.unexported_rejected, before.unexported_dropped)
            if before is not None
            else NOTHING
        )

    def _change(self, change: Callable[[DeliveryCounts], DeliveryCounts]) -> DeliveryCounts | None:
        """Apply a change and return the state before it; None when it could not be written."""
        try:
            with _locked(self._path) as descriptor:
                before = _parsed(os.pread(descriptor, SIZE_BYTES, 0))
                after = change(before)
                text = json.dumps(
                    {
                        name: [[*key, count] for key, count in sorted(counts.items())]
                        for name, counts in after._asdict().items()
                    }
                )
                data = text.encode().ljust(SIZE_BYTES)
                if len(data) > SIZE_BYTES or os.pwrite(descriptor, data, 0) != SIZE_BYTES:
                    return None
                return before
        except OSError:
            return None


@contextmanager
def _locked(path: Path) -> Generator[int]:
    descriptor = open_own(path, os.O_RDWR)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while (
            True
        ):  # held for one read and one write; longer only by a process that was stopped meanwhile
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.001)
        yield descriptor
    finally:
        os.close(descriptor)


def minus(counts: Counts, before: Counts) -> Counts:
    """Increase of each count since ``before``."""
    return {
        key: count - before.get(key, 0)
        for key, count in counts.items()
        if count > before.get(key, 0)
    }


def _parsed(data: bytes) -> DeliveryCounts:
    """Parse the file; a new or damaged one counts as empty."""
    try:
        found = cast(
            "Mapping[str, list[tuple[str, str, int]]]", json.loads(data.strip(b"\0 ") or b"{}")
        )
        return DeliveryCounts(
            *(
                {
                    (signal, reason): int(count)
                    for signal, reason, count in found.get(
                        name, found.get(_OLD_NAMES.get(name, ""), ())
                    )
                }
                for name in DeliveryCounts._fields
            )
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return NOTHING
