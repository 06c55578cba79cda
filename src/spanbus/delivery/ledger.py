"""What became of the records of all programs on a state directory, added up in one small file.

A program knows its own counts and exports them as metrics; what it lets go of after its last collection, and what only
lay in its memory when it ended, would be known to nobody. It is written here: for ``spanbus status``, and for the next
program, which exports what is still untold. The file has its final size from the beginning, so that a disk that fills
later has room for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, cast

LEDGER: Final = "delivery.json"
SIZE_BYTES: Final = 4096
_PATIENCE_S: Final = 0.05

Counts = Mapping[tuple[str, str], int]
"""Records by signal and reason; the reason is empty for what was delivered."""


class Fates(NamedTuple):
    """Records by signal and reason; ``untold`` are those of ``rejected`` and ``dropped`` that no exported metric holds yet."""

    delivered: Counts
    rejected: Counts
    dropped: Counts
    untold_rejected: Counts
    untold_dropped: Counts

    @property
    def untold(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.untold_rejected or self.untold_dropped)


NOTHING: Final = Fates({}, {}, {}, {}, {})


class Ledger:
    """Never raises; where nothing can be written nothing is remembered. Safe from any thread and process."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LEDGER

    def prepare(self) -> None:
        """Make the file while there is room for it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            if os.fstat(descriptor).st_size < SIZE_BYTES:
                os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def read(self) -> Fates:
        """What is written there by now."""
        try:
            with self._path.open("rb") as file:
                return _parsed(file.read(SIZE_BYTES))
        except OSError:
            return NOTHING

    def add(self, fates: Fates) -> bool:
        """Add these; False when they could not be written."""
        if not any(fates):
            return True
        return self._change(lambda known: Fates(*(_sum(old, new) for old, new in zip(known, fates, strict=True)))) is not None

    def take_untold(self) -> Fates:
        """What is still to be told, which is the caller's from now on."""
        found = self.read()
        if not found.untold:
            return NOTHING
        before = self._change(lambda known: known._replace(untold_rejected={}, untold_dropped={}))
        return Fates({}, {}, {}, before.untold_rejected, before.untold_dropped) if before is not None else NOTHING

    def _change(self, change: Callable[[Fates], Fates]) -> Fates | None:
        """What was there before; None when it could not be changed."""
        try:
            with _locked(self._path) as descriptor:
                before = _parsed(os.pread(descriptor, SIZE_BYTES, 0))
                after = change(before)
                text = json.dumps({name: [[*key, count] for key, count in sorted(counts.items())] for name, counts in after._asdict().items()})
                data = text.encode().ljust(SIZE_BYTES)
                if len(data) > SIZE_BYTES or os.pwrite(descriptor, data, 0) != SIZE_BYTES:
                    return None
                return before
        except OSError:
            return None


@contextmanager
def _locked(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:  # held for one read and one write; only somebody who was stopped in between holds it longer
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


def _sum(one: Counts, other: Counts) -> Counts:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _parsed(data: bytes) -> Fates:
    """A file that cannot be read, or that is new, is an empty one."""
    try:
        found = cast("Mapping[str, list[tuple[str, str, int]]]", json.loads(data.strip(b"\0 ") or b"{}"))
        return Fates(*({(signal, reason): int(count) for signal, reason, count in found.get(name, ())} for name in Fates._fields))
    except (ValueError, TypeError, AttributeError):
        return NOTHING
