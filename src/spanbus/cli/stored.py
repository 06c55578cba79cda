"""The local store, opened for reading by a command."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus.errors import RunNotFound

if TYPE_CHECKING:
    from spanbus.local.store import Store
    from spanbus.settings import Settings

_TAKE_OVER_S = 5.0


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
    with Store.open(path) as opened:
        yield opened, settings


def take_over(settings: Settings) -> None:
    """First comes in what programs left in the spool that were cut off, or had no time to store it."""
    from spanbus.delivery.spool import left

    if not left(settings.state_dir, "local"):
        return
    from spanbus.runtime import open_runtime_sync

    with open_runtime_sync(replace(settings, endpoint_configured=False, local="on"), lifetime="run", command_line=True) as runtime:
        runtime.flush(_TAKE_OVER_S)
