"""The file of the local store: its connections, one for each thread, and its transactions."""

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
"""Seconds for which a writer helps to let go of old spans."""
_KEEPER_LOOKS_S = 1.0
_LOG_SHARE = 4
"""Part of the log's largest size that is left to grow before it is brought into the file."""
_WASTED_SHARE = 1 / 16
"""Pages that are not used are written again; of a file that shrank they are given back."""

_PARENTS: list[sqlite3.Connection] = []
"""Connections that a parent process made; kept so that nothing closes them."""


class Database(Closing):
    """An open file of a store; thread-safe. Use it as a context manager, or call :meth:`close`."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self.path = path
        self._retention = retention or Retention()
        self._sweeper = Sweeper(path.parent, self._retention)
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held while a transaction of this process writes: threads wait here for each other, not in SQLite, which sleeps."""
        self._wake = threading.Event()
        self._is_kept = False
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._process = os.getpid()
        self._still: Source | None = None

    @property
    def read_only(self) -> bool:
        """Whether it lies where it cannot be written; nothing is taken in then."""
        return self._still is not None

    @classmethod
    def open_to_read(cls, path: Path, retention: Retention | None = None) -> Self:
        """Open one that is there, also where nothing may be written; where it may, it takes in too. Raises
        :class:`~spanbus.errors.StoreError` for one that cannot be read.
        """
        check(path)
        if not path.exists() or (can_be_written(path) and is_ours(path)):
            return cls.open(path, retention)
        store = cls(path)
        try:
            store._still = reading(path)
            store._check_version()
        except OSError as error:
            raise StoreError(
                f"{path}: the local store cannot be read: {error.strerror or error}"
            ) from error
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: the local store cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _no_store(path, error) from error
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, retention: Retention | None = None) -> Self:
        """Open or create; raises :class:`~spanbus.errors.StoreError` for a file that is broken or newer than this program."""
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
            self._leave_the_parents()
        with self._lock:
            self._closed = True
            for connection in self._connections:
                with suppress(sqlite3.Error):
                    connection.close()
            self._connections.clear()
            self._local = threading.local()
            if self._still is not None:
                self._still.done()

    # --- connections --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            folder = self.path.parent
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            if not self.path.exists():
                _make(self.path)
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
        """This thread's connection; SQLite's errors become one that says which file."""
        if self._process != os.getpid():
            self._leave_the_parents()
        try:
            connection = cast("sqlite3.Connection | None", getattr(self._local, "connection", None))
            if connection is None:
                if self._closed:
                    raise StoreError(f"{self.path}: the store was closed")
                where, is_uri = (
                    (self.path, False) if self._still is None else (self._still.uri, True)
                )
                connection = sqlite3.connect(
                    where, timeout=10.0, isolation_level=None, check_same_thread=False, uri=is_uri
                )
                with self._lock:
                    self._connections.append(connection)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA journal_size_limit = {self._retention.log_bytes}")
                at_once = self._retention.log_bytes // 4_096
                pages = at_once if self._is_kept else min(1_000, at_once // 2)
                connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                connection.execute("PRAGMA trusted_schema = OFF")
                self._local.connection = connection
            yield connection
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise _no_store(self.path, error) from error

    def _leave_the_parents(self) -> None:
        """In a forked child: a connection must not be used, nor closed, on this side of a fork."""
        _PARENTS.extend(self._connections)
        self._process, self._lock, self._turn, self._local, self._connections = (
            os.getpid(),
            threading.Lock(),
            threading.Lock(),
            threading.local(),
            [],
        )
        self._wake, self._is_kept = threading.Event(), False

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """One transaction."""
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
        """While it lasts a thread lets go of what is too old or too much, and writers do so only when the bound is passed."""
        if self.read_only:
            yield
            return
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                self._wake.wait(_KEEPER_LOOKS_S)
                self._wake.clear()
                try:
                    while not stop.is_set() and self._step():
                        stop.wait(0.001)  # writers come in between
                    self._tidy()
                except StoreError as error:  # a wall: it is tried again, and writers say so too
                    logger.debug("upkeep of the store", exc_info=error)
                    stop.wait(_KEEPER_LOOKS_S)

        thread = threading.Thread(target=work, name="spanbus-upkeep", daemon=True)
        self._is_kept = True
        thread.start()
        try:
            yield
        finally:
            self._is_kept = False
            stop.set()
            self._wake.set()
            thread.join()

    def upkeep(self) -> None:
        """Let go of all that is too old or too much now."""
        while self._step():
            pass
        self._tidy()

    def _wrote(self, size_bytes: int) -> None:
        """Look after the file once something was written: by a thread, where there is one, or some of it now."""
        self._sweeper.wrote(size_bytes)
        if not self._sweeper.is_due():
            return
        if self._is_kept:
            self._wake.set()
            with self.reading() as connection:
                if not self._sweeper.is_urgent(connection):
                    return
        end_s = time.monotonic() + _HELP_S
        while self._step() and time.monotonic() < end_s:
            pass
        if not self._is_kept:
            self._tidy()

    def _step(self) -> bool:
        with self._writing() as connection:
            return self._sweeper.step(connection)

    def _tidy(self) -> None:
        """Give pages that are not used back, and cut a log that grew."""
        with self.reading() as connection:
            self._sweeper.forget_output(connection)
            if wasted_share(connection) > _WASTED_SHARE:
                with self._turn:
                    # a script is gone through to its end; execute() would stop after one page
                    connection.executescript("PRAGMA incremental_vacuum(500)")
            if self.log_size_bytes() > self._retention.log_bytes // _LOG_SHARE:
                # nobody waits while it is brought into the file and that is synced; what is written meanwhile is little
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if self.log_size_bytes() > self._retention.log_bytes:
                connection.execute("PRAGMA busy_timeout = 50")
                try:
                    with self._turn:
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    connection.execute("PRAGMA busy_timeout = 10000")

    def log_size_bytes(self) -> int:
        """The size of SQLite's log beside the file."""
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except OSError:
            return 0


def _no_store(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(
        f"{path}: this is no store that can be read ({error}); move it away, nothing was changed"
    )


def _make(path: Path) -> None:
    """An empty file of the user's own.

    It is never opened under its name: closing any descriptor of a file ends this process's POSIX locks on it, those of SQLite
    too, and another process would take the log away from under a store that is open here
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    import tempfile

    descriptor, made = tempfile.mkstemp(prefix=".store-", dir=path.parent)
    os.close(descriptor)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here: the mode is then what the folder protects
        path.touch(0o600, exist_ok=True)
    finally:
        os.unlink(made)
