"""Database file of the local store: one connection per thread, transactions and upkeep."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, cast

from spanbus._closing import Closing
from spanbus._loggers import Logger
from spanbus._store.opening import check, is_ours
from spanbus._store.read_only import Source, can_be_written, reading
from spanbus._store.retention import Retention, Sweeper, wasted_share
from spanbus._store.schema import VERSION, migrate
from spanbus.errors import StoreError

logger = Logger(__name__)

_HELP_S = 0.05
"""Seconds that a writer spends on deleting old spans."""
_KEEPER_INTERVAL_S = 1.0
_LOG_SHARE = 4
"""The WAL is checkpointed when it exceeds its largest size divided by this."""
_WASTED_SHARE = 1 / 16
"""Free pages are normally reused; above this share of the file they are returned to the system."""

_INHERITED: list[sqlite3.Connection] = []
"""Connections of a parent process; referenced, so that they are never closed here."""


class Database(Closing):
    """Open database file; thread-safe. Use it as a context manager, or call :meth:`close`."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self.path = path
        self._retention = retention or Retention()
        self._sweeper = Sweeper(path.parent, self._retention)
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held by a writing transaction of this process, so that threads wait here instead of in SQLite, which sleeps."""
        self._wake = threading.Event()
        self._has_keeper = False
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._process = os.getpid()
        self._read_only_source: Source | None = None

    @property
    def read_only(self) -> bool:
        """Whether the store cannot be written; it rejects writes then."""
        return self._read_only_source is not None

    @classmethod
    def open_to_read(cls, path: Path, retention: Retention | None = None) -> Self:
        """Open an existing store, read-only if it cannot be written. Raises :class:`~spanbus.errors.StoreError` if it cannot
        be read.
        """
        check(path)
        if not path.exists() or (can_be_written(path) and is_ours(path)):
            return cls.open(path, retention)
        store = cls(path)
        try:
            store._read_only_source = reading(path)
            store._check_version()
        except OSError as error:
            raise StoreError(
                f"{path}: the local store cannot be read: {error.strerror or error}"
            ) from error
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: the local store cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _unreadable(path, error) from error
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, retention: Retention | None = None) -> Self:
        """Open or create a store. Raises :class:`~spanbus.errors.StoreError` for a broken file, or one of a newer version."""
        check(path)
        if not is_ours(path):
            raise StoreError(
                f"{path}: the local store belongs to another user and is not written; set SPANBUS_STATE_DIR to a folder of yours"
            )
        store = cls(path, retention)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close every connection; may be called twice."""
        if self._process != os.getpid():
            self._drop_inherited()
        with self._lock:
            self._closed = True
            for connection in self._connections:
                with suppress(sqlite3.Error):
                    connection.close()
            self._connections.clear()
            self._local = threading.local()
            if self._read_only_source is not None:
                self._read_only_source.done()

    # --- connections --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            folder = self.path.parent
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            if not self.path.exists():
                _create_file(self.path)
        except OSError as error:
            raise StoreError(
                f"{self.path}: the local store cannot be opened: {error.strerror or error}; set SPANBUS_STATE_DIR to a folder of yours"
            ) from error
        if self._check_version() < VERSION or not self._is_marked():
            with self.reading() as connection:
                migrate(connection)

    def _is_marked(self) -> bool:
        with self.reading() as connection:
            return bool(connection.execute("PRAGMA application_id").fetchone()[0])

    def _check_version(self) -> int:
        with self.reading() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise StoreError(
                f"{self.path}: the store has schema {version}, this spanbus knows {VERSION}; update spanbus, or set SPANBUS_STATE_DIR to another folder"
            )
        if version == 0 and self.read_only:
            raise StoreError(
                f"{self.path}: there is no store in it yet, and none can be made: it cannot be written"
            )
        return version

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Yield this thread's connection; SQLite's errors become a :class:`~spanbus.errors.StoreError` with the path."""
        if self._process != os.getpid():
            self._drop_inherited()
        try:
            connection = cast("sqlite3.Connection | None", getattr(self._local, "connection", None))
            if connection is None:
                if self._closed:
                    raise StoreError(f"{self.path}: the store was closed")
                where, is_uri = (
                    (self.path, False)
                    if self._read_only_source is None
                    else (self._read_only_source.uri, True)
                )
                connection = sqlite3.connect(
                    where, timeout=10.0, isolation_level=None, check_same_thread=False, uri=is_uri
                )
                with self._lock:
                    self._connections.append(connection)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA journal_size_limit = {self._retention.log_bytes}")
                at_once = self._retention.log_bytes // 4_096
                pages = at_once if self._has_keeper else min(1_000, at_once // 2)
                connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                connection.execute("PRAGMA trusted_schema = OFF")
                self._local.connection = connection
            yield connection
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _unreadable(self.path, error) from error

    def _drop_inherited(self) -> None:
        """In a forked child: drop the parent's connections, which must be neither used nor closed here."""
        _INHERITED.extend(self._connections)
        self._process, self._lock, self._turn, self._local, self._connections = (
            os.getpid(),
            threading.Lock(),
            threading.Lock(),
            threading.local(),
            [],
        )
        self._wake, self._has_keeper = threading.Event(), False

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Run one writing transaction."""
        if self.read_only:
            raise StoreError(f"{self.path}: the local store cannot be written")
        with self.reading() as connection, self._turn:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # --- upkeep -------------------------------------------------------------------------------------------------------

    @contextmanager
    def kept(self) -> Generator[None]:
        """Run retention in a thread during the block; writers then help only above the hard bound."""
        if self.read_only:
            yield
            return
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                self._wake.wait(_KEEPER_INTERVAL_S)
                self._wake.clear()
                try:
                    while not stop.is_set() and self._step():
                        stop.wait(0.001)  # let writers in
                    self._tidy()
                except StoreError as error:  # retried; writers report the same error
                    logger.debug("upkeep of the store", exc_info=error)
                    stop.wait(_KEEPER_INTERVAL_S)

        thread = threading.Thread(target=work, name="spanbus-upkeep", daemon=True)
        self._has_keeper = True
        thread.start()
        try:
            yield
        finally:
            self._has_keeper = False
            stop.set()
            self._wake.set()
            thread.join()

    def upkeep(self) -> None:
        """Run retention to its end now."""
        while self._step():
            pass
        self._tidy()

    def _wrote(self, size_bytes: int) -> None:
        """Run retention after a write, if it is due: in the thread, if there is one, else for 50 ms here."""
        self._sweeper.wrote(size_bytes)
        if not self._sweeper.is_due():
            return
        if self._has_keeper:
            self._wake.set()
            with self.reading() as connection:
                if not self._sweeper.is_urgent(connection):
                    return
        end_s = time.monotonic() + _HELP_S
        while self._step() and time.monotonic() < end_s:
            pass
        if not self._has_keeper:
            self._tidy()

    def _step(self) -> bool:
        with self._writing() as connection:
            return self._sweeper.step(connection)

    def _tidy(self) -> None:
        """Return free pages to the system, and truncate a large WAL."""
        with self.reading() as connection:
            self._sweeper.forget_output(connection)
            if wasted_share(connection) > _WASTED_SHARE:
                with self._turn:
                    # executescript() runs to the end; execute() would stop after one page
                    connection.executescript("PRAGMA incremental_vacuum(500)")
            if self.log_size_bytes() > self._retention.log_bytes // _LOG_SHARE:
                # PASSIVE blocks nobody, and leaves little for TRUNCATE, which blocks writers.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if self.log_size_bytes() > self._retention.log_bytes:
                connection.execute("PRAGMA busy_timeout = 50")
                try:
                    with self._turn:
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    connection.execute("PRAGMA busy_timeout = 10000")

    def log_size_bytes(self) -> int:
        """Size of SQLite's WAL."""
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except OSError:
            return 0


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(
        f"{path}: this is no store that can be read ({error}); move it away, nothing was changed"
    )


def _create_file(path: Path) -> None:
    """Create an empty file that only the user may read.

    It is never opened under its final name: closing any descriptor of a file drops this process's POSIX locks on it, including
    those of SQLite, and another process could then remove the WAL of a store that is open here
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    import tempfile

    descriptor, made = tempfile.mkstemp(prefix=".store-", dir=path.parent)
    os.close(descriptor)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links: the mode of the folder has to protect the file
        path.touch(0o600, exist_ok=True)
    finally:
        os.unlink(made)
