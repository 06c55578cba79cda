"""The local store, opened for reading by a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus.errors import RunNotFound

if TYPE_CHECKING:
    from spanbus.local.store import Store
    from spanbus.settings import Settings


@contextmanager
def store(file: Path | None = None) -> Iterator[tuple[Store, Settings]]:
    """The store of the settings' state directory; :class:`~spanbus.errors.RunNotFound` says so when nothing was stored yet."""
    from spanbus.local.store import Store
    from spanbus.runtime import STORE_NAME
    from spanbus.settings import load_settings

    settings = load_settings(file)
    path = settings.state_dir / STORE_NAME
    if not path.exists():
        raise RunNotFound(f"no run is stored in {settings.state_dir}; `spanbus run` or `spanbus exec -- COMMAND` makes the first")
    with Store.open(path) as opened:
        yield opened, settings
