"""Lookup of a dialect by name, file, table or class of the bus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spanbus._loaded import is_subclass_of
from spanbus._suggest import did_you_mean
from spanbus.errors import DialectError, InputError

if TYPE_CHECKING:
    from spanbus._reading.dialect import Dialect

    DialectLike = str | Path | Mapping[str, object] | Dialect


def dialect_named(name: DialectLike | None, named: Mapping[str, str | Path]) -> Dialect:
    """Return a dialect by name (built in, or ``named`` in the settings), by file, or from the table of such a file.

    Raises :class:`~spanbus.errors.DialectError`.
    """
    from spanbus._reading.dialect import Dialect
    from spanbus._reading.dialect_file import BUILT_IN, load, parse

    if isinstance(name, Dialect):
        return name
    if isinstance(name, Mapping):
        return parse(name, where="dialect")
    if name is not None and not isinstance(name, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"dialect= takes a name, a path, a mapping or a Dialect, not {type(name).__name__}"
        )
    if name is None:
        return load("spanbus")
    if named and str(name) not in (*BUILT_IN, *named) and not Path(name).exists():
        raise DialectError(
            f"no dialect {str(name)!r}: neither built in ({', '.join(BUILT_IN)}), nor of the settings ({', '.join(named)}), nor a file"
            f"{did_you_mean(str(name), (*BUILT_IN, *named))}"
        )
    path = named.get(str(name))
    if path is not None and not Path(path).is_file():  # reading a pipe would block
        raise DialectError(f"dialect {str(name)!r}: {path} is no file")
    return load(name if path is None else path)


def usual_dialect(kind: type) -> str:
    """Default dialect of a bus class: ``spanbus`` for our own, else ``generic``, which recognizes the described ones."""
    is_ours = is_subclass_of(kind, "spanbus._workflow.bus", "WorkflowEventBus")
    return "spanbus" if is_ours else "generic"
