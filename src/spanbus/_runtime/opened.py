"""Runtimes that are open in this process: closed at its exit, told when it forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanbus._runtime.runtime import Runtime

opened: list[Runtime] = []
"""In the order of their opening."""


def close_with_multiprocessing(runtime: Runtime) -> None:
    """Children of ``multiprocessing`` leave by ``os._exit`` and run no ``atexit``, but its own finalizers."""
    from multiprocessing import util

    weakly = weakref.ref(runtime)

    def close() -> None:
        known = weakly()
        if known is not None:
            known.close()

    util.Finalize(None, close, exitpriority=0)


def close_all() -> None:
    """Close every runtime of this process, each within its exit limit."""
    for runtime in reversed(list(opened)):
        runtime.close()


def _forked() -> None:
    for runtime in opened:
        runtime.forked()


def _has_forked() -> None:
    for runtime in opened:
        runtime.has_forked()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked, after_in_parent=_has_forked)
