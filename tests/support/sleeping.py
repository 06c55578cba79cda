"""Sleep of the calling thread: time in which it neither ran nor waited for a processor. Independent of the machine's load."""

from __future__ import annotations

import time
from pathlib import Path

_MINE = Path("/proc/thread-self/schedstat")


def slept_s() -> float:
    """Return a clock of this thread's sleep, in seconds. On systems without schedstat it is the monotonic clock."""
    try:
        ran_ns, waited_ns, _ = map(int, _MINE.read_text().split())
    except OSError:
        ran_ns = waited_ns = 0
    return time.monotonic() - (ran_ns + waited_ns) / 1e9
