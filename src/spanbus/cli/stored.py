"""The local store, opened for reading by a command."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus.errors import RunNotFound

if TYPE_CHECKING:
    from spanbus.local.store import Store
    from spanbus.settings import Settings

_TAKE_OVER_S = 30.0
_SLICE_S = 1.0
_PAUSE_S = 0.05


@contextmanager
def store(file: Path | None = None) -> Generator[tuple[Store, Settings]]:
    """The store of the settings' state directory; :class:`~spanbus.errors.RunNotFound` says so when nothing was stored yet."""
    from spanbus.local.store import Store
    from spanbus.runtime import STORE_NAME
    from spanbus.settings import load_settings

    settings = load_settings(file)
    take_over(settings)
    path = settings.state_dir / STORE_NAME
    if not path.exists():
        raise RunNotFound(f"no run is stored in {settings.state_dir}; `spanbus run` or `spanbus exec -- COMMAND` makes the first")
    with Store.open_to_read(path) as opened:
        yield opened, settings


def take_over(settings: Settings) -> None:
    """First comes in what programs left in the spool that were cut off, or had no time to store it."""
    from spanbus.cli import console
    from spanbus.delivery.spool_files import FOLDER
    from spanbus.delivery.spool_status import left

    if not left(settings.state_dir, "local"):
        return
    waiting = f"spanbus: some runs still wait in {settings.state_dir / FOLDER} and are missing here"
    if not os.access(settings.state_dir, os.W_OK | os.X_OK):
        console.note(f"{waiting}; {settings.state_dir} cannot be written")
        return
    from spanbus.runtime import open_runtime_sync

    with open_runtime_sync(replace(settings, endpoint_configured=False, local="on"), lifetime="run", command_line=True) as runtime:
        deadline = time.monotonic() + _TAKE_OVER_S  # on a busy machine it takes a while; half of the answer is a wrong one
        whole = False
        while not whole and time.monotonic() < deadline:
            whole = runtime.flush(_SLICE_S) and not left(settings.state_dir, "local")
            if not whole and (found := runtime.statistics()) is not None and found.outage is not None:
                break  # the store does not take it; who opens it says why
            time.sleep(0 if whole else _PAUSE_S)
    if not whole:
        console.note(f"{waiting}; ask again, or see `spanbus status`")
