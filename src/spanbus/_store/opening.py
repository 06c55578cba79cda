"""Check of a store before it is opened: a regular file of this user, with our tables."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from spanbus.errors import StoreError

APPLICATION_ID: Final = 0x53504255
"""``SPBU`` in the header of the file (https://www.sqlite.org/pragma.html#pragma_application_id)."""
_SMALLEST_BYTES = 512
_TABLES = frozenset({"sources", "spans", "logs", "series"})
_LOG_SUFFIXES = ("-wal", "-shm", "-journal")


def check(path: Path) -> None:
    """Raise :class:`~spanbus.errors.StoreError` for an existing file that is no store. Never writes, blocks or follows links."""
    for each in (path, *(path.with_name(path.name + ending) for ending in _LOG_SUFFIXES)):
        try:
            status = os.lstat(each)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StoreError(f"{each}: cannot be read: {error.strerror or error}") from None
        if stat.S_ISLNK(status.st_mode):
            raise _unreadable(each, "a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(each, "not a regular file")
        if each != path and status.st_nlink > 1:  # SQLite would write into the other file
            raise _unreadable(each, "a file with another name")
    size = path.stat().st_size if path.exists() else 0
    if 0 < size < _SMALLEST_BYTES:
        raise _unreadable(path, "not a SQLite database")
    if size:  # an empty file is being created by another process
        _check_content(path)


def is_ours(path: Path) -> bool:
    """Whether an existing file belongs to this user; a file of another user is read and never written."""
    try:
        return not hasattr(os, "geteuid") or os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return True


def _check_content(path: Path) -> None:
    """Check that a database has our application id or all our tables, and only tables: a view may never end, a trigger may do
    anything.

    The file is read through SQLite, because closing our own descriptor of it would drop the locks of this process.
    """
    plain = f"file:{quote(str(path))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    still = not log.exists() or not log.stat().st_size
    try:
        try:
            mark, kinds = _content(f"{plain}&immutable=1" if still else plain)
        except sqlite3.Error:  # changed meanwhile, or the index of its WAL cannot be created
            mark, kinds = _content(plain if still else f"{plain}&immutable=1")
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path}: the local store cannot be read: {error}") from error
    except sqlite3.Error as error:
        raise _unreadable(path, str(error)) from error
    if mark not in (0, APPLICATION_ID):
        raise _unreadable(path, "the database of another program")
    if any(kind not in ("table", "index") or virtual for kind, _, virtual in kinds):
        raise _unreadable(path, "it holds more than tables")
    tables = {name for kind, name, _ in kinds if kind == "table"}
    if tables and mark != APPLICATION_ID and not tables >= _TABLES:
        raise _unreadable(path, "the database of another program")


def _content(uri: str) -> tuple[int, list[tuple[str, str, bool]]]:
    connection = sqlite3.connect(uri, uri=True, timeout=10.0)
    try:
        mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
        return mark, connection.execute(
            "SELECT type, name, coalesce(sql LIKE 'CREATE VIRTUAL%', 0) FROM sqlite_master LIMIT 1000"
        ).fetchall()
    finally:
        connection.close()


def _unreadable(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path}: this is no store that can be read ({why}); move it away, or set SPANBUS_STATE_DIR to another folder"
    )
