"""Fork guard: a fork waits until an import in one of our threads is complete.

A child forked while another thread imports keeps a half-imported module, because that thread does not exist in the child.
Our threads import when they start, so the wait is short and happens at most once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

_PATIENCE_S: Final = 1.0

_lock = threading.Lock()
_waited = False


@contextmanager
def fork_guard() -> Generator[None]:
    """Delay forks during the block, by at most 1 s; for work that may import and does not wait for a network."""
    with _lock:
        yield


def _before() -> None:
    global _waited
    _waited = _lock.acquire(timeout=_PATIENCE_S)


def _in_parent() -> None:
    if _waited:
        _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
