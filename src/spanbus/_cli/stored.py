"""Access of commands to the local store."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus.errors import InputError, RunNotFound

if TYPE_CHECKING:
    from spanbus._settings import Settings
    from spanbus._store.store import Store

_TAKE_OVER_S = 30.0
_SLICE_S = 1.0
_PAUSE_S = 0.05


@contextmanager
def store(file: Path | None = None) -> Generator[tuple[Store, Settings]]:
    """Open the local store for reading. Raises :class:`~spanbus.errors.RunNotFound` if nothing is stored yet."""
    from spanbus._settings import STORE_NAME, load_settings
    from spanbus._store.store import Store

    settings = load_settings(file, workflows=False)
    import_leftovers(settings)
    path = settings.state_dir / STORE_NAME
    if not path.exists():
        raise RunNotFound(
            f"no run is stored in {settings.state_dir}; `spanbus run` or `spanbus exec -- COMMAND` makes the first"
        )
    gc.disable()  # collecting would take a third of the time to read a large run, and free nothing
    with Store.open_to_read(path) as opened:
        yield opened, settings


def import_leftovers(settings: Settings) -> None:
    """Store the records that killed programs, or programs without time to store them, left in the spool."""
    from spanbus._delivery import FOLDER, JOURNALS, SEGMENTS

    spool = settings.state_dir / FOLDER
    with suppress(OSError):
        if not any(name.endswith((SEGMENTS, JOURNALS)) for name in os.listdir(spool)):
            return
    from spanbus._cli import console
    from spanbus._delivery.spool_status import left

    if not left(settings.state_dir, "local"):
        return
    waiting = f"spanbus: some runs still wait in {spool} and are missing here"
    if not os.access(settings.state_dir, os.W_OK | os.X_OK):
        console.note(f"{waiting}; {settings.state_dir} cannot be written")
        return
    from spanbus._runtime import open_runtime_sync

    with open_runtime_sync(
        settings._replace(endpoint_configured=False, local="on"), lifetime="run", command_line=True
    ) as runtime:
        # long enough for a busy machine: an incomplete answer would be wrong
        deadline = time.monotonic() + _TAKE_OVER_S
        whole = False
        while not whole and time.monotonic() < deadline:
            whole = runtime.flush(_SLICE_S) and not left(settings.state_dir, "local")
            if (
                not whole
                and (found := runtime.statistics()) is not None
                and found.outage is not None
            ):
                break  # the store is unusable; opening it reports the error
            time.sleep(0 if whole else _PAUSE_S)
    if not whole:
        console.note(f"{waiting}; ask again, or see `spanbus status`")


def log_paths(state_dir: Path, run_id: str) -> Mapping[str, str]:
    """Return the output files of a run by span id; empty if no output is kept."""
    from spanbus._store import LOGS

    if not os.path.isdir(state_dir / LOGS):
        return {}
    from spanbus._store import output_reading

    return output_reading.log_paths(state_dir, run_id)


def project(everything: bool) -> str | None:
    """Return the project of the working directory, or None for all projects."""
    from spanbus._project import service_name

    return None if everything else service_name()


_SINCE = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?")


def since_ns(text: str) -> int:
    """Parse ``--since``: an age (``2h``, ``1d12h``) or a date with or without time, to Unix nanoseconds."""
    match = _SINCE.fullmatch(text.replace(" ", ""))
    if match is not None and any(match.groups()):
        weeks, days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
        ago = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        return time.time_ns() - int(ago.total_seconds()) * 1_000_000_000
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"--since {text!r}: must be how long ago, such as 2h or 1d12h, or a date such as 2026-01-31"
        ) from None
