"""Reading of a store that cannot be written: on a read-only mount, in another user's folder, in a CI artifact.

SQLite's WAL needs files beside the store. If they exist, ``mode=ro`` reads everything (https://www.sqlite.org/wal.html,
"Read-Only Databases"). Without a WAL, the file is opened as immutable. A WAL without its index is copied with the store to a
temporary folder, and merged there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from spanbus._named_tuple import NamedTuple


class Source(NamedTuple):
    """URI to connect to; call ``done`` after the last connection is closed."""

    uri: str
    done: Callable[[], None]


def can_be_written(path: Path) -> bool:
    """Whether this process may write to a file and its folder."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def takes_files(folder: Path) -> bool:
    """Whether this process may write files into a folder, or create it."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:  # not even readable
        return False


def reading(path: Path) -> Source:
    """Find a way to read the store at ``path`` without changing its folder. Raises ``OSError`` or ``sqlite3.Error``."""
    plain = f"file:{quote(str(path))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    try:
        _try(plain)
        return Source(plain, _no_cleanup)
    except sqlite3.OperationalError:
        if not (log.exists() and log.stat().st_size):
            still = f"{plain}&immutable=1"
            _try(still)
            return Source(still, _no_cleanup)
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="spanbus-store-"))
    try:
        copy = folder / path.name
        for each in (path, log):
            shutil.copyfile(each, folder / each.name)
        uri = f"file:{quote(str(copy))}"
        _try(uri)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Source(uri, lambda: shutil.rmtree(folder, ignore_errors=True))


def _try(uri: str) -> None:
    connection = sqlite3.connect(uri, uri=True, timeout=10.0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()


def _no_cleanup() -> None:
    pass
