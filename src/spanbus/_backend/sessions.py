"""Logins of browsers: sessions, one-time codes, and rate limiting of wrong tokens.

A browser sends a cookie to every port of a host. The cookie therefore does not hold the token but a session value, which is
valid only at this server, while it runs, for 12 hours. A code is part of a URL that shows in the arguments of a browser process:
it is valid for one login within a minute.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

SESSION_S: Final = 12 * 3_600.0
CODE_S: Final = 60.0
_MOST: Final = 1_000
_GUESSES: Final = 5
_WINDOW_S: Final = 60.0


class Sessions:
    """Session values and codes of one server, in memory, as digests. Not thread-safe: use it in the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, float] = OrderedDict()
        self._codes: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Open a session and return its value; above 1,000 sessions the oldest ends."""
        return self._new(self._sessions, SESSION_S)

    def is_open(self, value: str) -> bool:
        until_s = self._sessions.get(_digest(value))
        return until_s is not None and self._clock() < until_s

    def code(self) -> str:
        """Create a code for one login."""
        return self._new(self._codes, CODE_S)

    def redeem(self, code: str) -> bool:
        """Whether a code is valid; this invalidates it."""
        until_s = self._codes.pop(_digest(code), None)
        return until_s is not None and self._clock() < until_s

    def _new(self, kept: OrderedDict[bytes, float], life_s: float) -> str:
        value = secrets.token_urlsafe(24)
        kept[_digest(value)] = self._clock() + life_s
        while len(kept) > _MOST:
            kept.popitem(last=False)
        return value


class Guesses:
    """Wrong tokens by client: after five within a minute, further ones must wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wrong(self, client: str) -> None:
        times = self._wrong.setdefault(client, deque(maxlen=_GUESSES))
        self._wrong.move_to_end(client)
        times.append(self._clock())
        while len(self._wrong) > _MOST:
            self._wrong.popitem(last=False)

    def wait_s(self, client: str) -> float:
        """Seconds until this client's next attempt is allowed."""
        times = self._wrong.get(client)
        if times is None or len(times) < _GUESSES:
            return 0.0
        return max(0.0, times[0] + _WINDOW_S - self._clock())


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "replace")).digest()
