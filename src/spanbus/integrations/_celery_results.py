"""Task results that phases wait for. Each app has one thread that polls all of them, and one that revokes.

``AsyncResult.get`` is not used: with Redis it subscribes, which is not thread-safe. While no task ends, the polling
interval grows to a twentieth of the age of the youngest task, at most one second.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, cast

from spanbus._named_tuple import NamedTuple
from spanbus.integrations._celery_outcome import READY, Meta

logger = logging.getLogger("spanbus")

_AT_ONCE = 500
_IDLE_S = 5.0
_LONGEST_S = 1.0
_SHARE = 20
_GROWTH = 1.5
_REVOKE_S = 1.0


class ResultStatistics(NamedTuple):
    """Awaited task ids, and counts of reads and revocations with their errors."""

    awaited: tuple[str, ...]
    reads: int
    read_errors: int
    revoked: int
    revoke_errors: int


class _Awaited(NamedTuple):
    since_s: float
    poll_s: float
    done: Callable[[Meta], None]


class Results:
    """Awaited tasks of one app. Threads start on demand; the reader ends after five idle seconds."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._awaited: dict[str, _Awaited] = {}
        self._reader: threading.Thread | None = None
        self._revoker: threading.Thread | None = None
        self._to_revoke: SimpleQueue[str] = SimpleQueue()
        self.pid = os.getpid()
        self._reads = self._read_errors = self._revoked = self._revoke_errors = 0

    def wait_for(self, task_id: str, poll_s: float, done: Callable[[Meta], None]) -> None:
        """Call ``done`` with the task's state when it has ended, in the reading thread."""
        with self._changed:
            self._awaited[task_id] = _Awaited(time.monotonic(), poll_s, done)
            if self._reader is None:
                self._reader = threading.Thread(
                    target=self._read, name="spanbus-celery-results", daemon=True
                )
                self._reader.start()
            self._changed.notify()

    def forget(self, task_id: str) -> None:
        """Stop waiting for this task."""
        with self._changed:
            self._awaited.pop(task_id, None)

    def revoke(self, task_id: str) -> None:
        """Revoke a task in the background. Best effort; failures are counted."""
        with self._changed:
            self._to_revoke.put(task_id)
            if self._revoker is None:
                self._revoker = threading.Thread(
                    target=self._revoke, name="spanbus-celery-revoke", daemon=True
                )
                self._revoker.start()

    def statistics(self) -> ResultStatistics:
        """A frozen snapshot of the counts."""
        with self._changed:
            awaited = tuple(self._awaited)
        return ResultStatistics(
            awaited, self._reads, self._read_errors, self._revoked, self._revoke_errors
        )

    def close(self, timeout_s: float = _REVOKE_S) -> None:
        """Wait up to ``timeout_s`` for pending revocations."""
        revoker = self._revoker
        if revoker is not None and os.getpid() == self.pid:
            revoker.join(timeout_s)

    # --- reading ----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        pause_s, failing = 0.0, False
        while True:
            with self._changed:
                if not self._awaited and not self._changed.wait_for(
                    lambda: bool(self._awaited), _IDLE_S
                ):
                    self._reader = None
                    return
                awaited = dict(self._awaited)
            try:
                ended = list(self._ended(list(awaited)))
                failing = False
            except Exception as error:  # the backend may come back
                self._read_errors += 1
                ended = []
                if not failing:
                    logger.warning("results of Celery cannot be read: %s; phases wait", error)
                failing = True
            for task_id, meta in ended:
                with self._changed:
                    waiting = self._awaited.pop(task_id, None)
                if waiting is not None:
                    waiting.done(meta)
            shortest_s = min(one.poll_s for one in awaited.values())
            youngest_s = time.monotonic() - max(one.since_s for one in awaited.values())
            longest_s = max(shortest_s, min(_LONGEST_S, youngest_s / _SHARE))
            pause_s = shortest_s if ended else min(max(pause_s, shortest_s) * _GROWTH, longest_s)
            time.sleep(pause_s)

    def _ended(self, task_ids: Sequence[str]) -> Iterator[tuple[str, Meta]]:
        """Yield those of these tasks that have ended, with their states."""
        backend: Any = self._app.backend
        if not hasattr(backend, "mget"):
            for task_id in task_ids:
                self._reads += 1
                meta = cast("Meta", backend.get_task_meta(task_id, cache=False))
                if meta["status"] in READY:
                    yield task_id, meta
            return
        for first in range(0, len(task_ids), _AT_ONCE):
            part = task_ids[first : first + _AT_ONCE]
            keys = [backend.get_key_for_task(task_id) for task_id in part]
            self._reads += 1
            values = backend.mget(keys)
            if isinstance(values, Mapping):
                by_key = cast("Mapping[object, object]", values)
                values = [by_key.get(key) for key in keys]
            for task_id, value in zip(part, values, strict=True):
                if value is None:
                    continue
                meta = cast("Meta", backend.decode(value))
                if meta["status"] in READY:
                    yield task_id, meta

    # --- revoking ---------------------------------------------------------------------------------------------------------

    def _revoke(self) -> None:
        while True:
            with self._changed:
                try:
                    task_id = self._to_revoke.get_nowait()
                except Empty:
                    self._revoker = None
                    return
            try:
                with self._app.connection_for_write(connect_timeout=_REVOKE_S) as connection:
                    connection.ensure_connection(max_retries=1, interval_start=0, timeout=_REVOKE_S)
                    self._app.control.revoke(
                        task_id, terminate=True, signal="SIGTERM", connection=connection
                    )
                self._revoked += 1
            except Exception as error:
                self._revoke_errors += 1  # harmless: the message expires with its phase
                logger.debug("revoking %s", task_id, exc_info=error)


_known: weakref.WeakKeyDictionary[Any, Results] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def results_of(app: Any) -> Results:
    """Return the results of an app in this process."""
    with _lock:
        found = _known.get(app)
        if found is None or found.pid != os.getpid():
            found = _known[app] = Results(app)
        return found


@atexit.register
def _close() -> None:
    for results in list(_known.values()):
        results.close()
