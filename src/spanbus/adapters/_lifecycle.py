"""Lifecycle hooks of Hamilton and Burr: sets of adapters with methods that are called by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from spanbus._attaching.work import Work

if TYPE_CHECKING:
    from spanbus import Handle


class Hooks:
    """Records work between a hook before it and a hook after it. A pickled copy in another process does nothing."""

    def __init__(self, handle: Handle | None) -> None:
        self._handle = handle
        self._open: dict[Hashable, tuple[Work, Callable[[], None]]] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (None,)

    def begin(
        self,
        key: Hashable,
        kind: Literal["run", "phase"],
        name: str,
        run_id: object,
        *,
        doer: str | None = None,
        current: bool = True,
    ) -> None:
        """Start work, with its span ``current`` until the end. Never raises."""
        handle = self._handle
        if handle is None:
            return
        try:
            work = Work(handle, kind, name, {"run_id": run_id}, doer=doer)
            work.begin()
            self._open[key] = work, work.enter() if current else _nothing
        except Exception as problem:
            handle.failed(problem)

    def end(self, key: Hashable, error: BaseException | None) -> None:
        """End work with ``error``, or with the exception that is being handled."""
        found = self._open.pop(key, None)
        if found is not None:
            work, leave = found
            leave()
            work.end(error or sys.exception())

    @property
    def any_open(self) -> bool:
        """Whether any work is open."""
        return bool(self._open)


def join(
    sets: Iterable[Any], hooks: Hooks, before: Iterable[str], after: Iterable[str]
) -> Callable[[], None]:
    """Add ``hooks`` to the sets, closest to the work: last of the ``before`` hooks, first of the ``after`` hooks.

    Returns a function that undoes it.
    """
    joined: list[tuple[dict[str, list[Any]], str]] = []
    for one in {id(one): one for one in sets}.values():
        for name in before:
            one.sync_hooks.setdefault(name, []).append(hooks)
            joined.append((one.sync_hooks, name))
        for name in after:
            one.sync_hooks.setdefault(name, []).insert(0, hooks)
            joined.append((one.sync_hooks, name))

    def undo() -> None:
        for called, name in joined:
            there = called.get(name, [])
            if hooks in there:
                there.remove(hooks)
            if not there:
                called.pop(name, None)

    return undo


def _nothing() -> None: ...
