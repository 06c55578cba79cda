"""Sleep time of the calling thread: it neither ran nor waited for a processor, so it is independent of the load."""

from __future__ import annotations

import time
from pathlib import Path

_MINE = Path("/proc/thread-self/schedstat")


def slept_s() -> float:
    """A clock of this thread's sleep, in seconds; where the system does not provide it, of elapsed time."""
    try:
        ran_ns, waited_ns, _ = map(int, _MINE.read_text().split())
    except OSError:
        ran_ns = waited_ns = 0
    return time.monotonic() - (ran_ns + waited_ns) / 1e9
