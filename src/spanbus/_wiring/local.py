"""Export to the local store, and to the console if configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanbus._store.writes import Writes


class LocalExporter:
    """Exporter to the local store and the console; opens the store lazily. Thread-safe.

    ``retention`` is in days and bytes; ``shown`` are the signals for the console.
    """

    def __init__(
        self, path: Path, retention: tuple[int, int], *, writes_store: bool, shown: Collection[str]
    ) -> None:
        self._path, self._retention = path, retention
        self._writes_store, self._shown = writes_store, shown
        self._lock = threading.Lock()
        self._store: Writes | None = None

    def keep(self, signal: str, body: bytes) -> None:
        """Store one export request."""
        if signal in self._shown:
            from spanbus._otlp.json import to_stderr as show

            show(signal, body)
        if not self._writes_store:
            return
        with self._lock:
            if self._store is None:
                from spanbus._store.retention import Retention
                from spanbus._store.writes import Writes  # not the queries, which are not needed

                self._store = Writes.open(self._path, Retention.of_days(*self._retention))
            self._store.ingest(signal, body)

    def close(self, waiting: Callable[[], bool]) -> None:
        """Close the store, unless records still wait for it."""
        with self._lock:
            if self._store is not None and not waiting():
                self._store.close()
                self._store = None
