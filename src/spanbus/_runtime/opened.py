"""Open runtimes of this process: closed at exit, notified of forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanbus._runtime.runtime import Runtime

opened: list[Runtime] = []
"""Open runtimes in the order of opening."""


def close_with_multiprocessing(runtime: Runtime) -> None:
    """Close the runtime in a ``multiprocessing`` finalizer: its children exit by ``os._exit``, without ``atexit``."""
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


def _forked_in_child() -> None:
    for runtime in opened:
        runtime.forked()


def _forked_in_parent() -> None:
    for runtime in opened:
        runtime.parent_forked()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked_in_child, after_in_parent=_forked_in_parent)
