"""The sign of life of a publisher: a key that expires, renewed while runs of it are open."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Final

from spanbus.integrations._nats_client import Client, Unanswered
from spanbus.integrations.nats_stream import ALIVE, ALIVE_S

RENEW_S: Final = 10.0


class LifeSign:
    """Belongs to the thread that sends. A bucket that is missing, or rights to it, cost the events nothing."""

    def __init__(self, publisher: str) -> None:
        self._subject = f"$KV.{ALIVE}.{publisher}"
        self._where = f"{os.uname().nodename}/{os.getpid()}"
        self._given_s: float | None = None
        self._told = 0
        """The number of open runs when the key was written last."""

    def is_due(self, open_runs: int) -> bool:
        """Whether the key is to be written: now and then while runs are open, and once when none is any more."""
        if not open_runs:
            return self._told > 0
        return self._given_s is None or time.monotonic() - self._given_s >= RENEW_S - 1.0

    async def given(self, client: Client, open_runs: int) -> None:
        """Write the key where that is due."""
        if not self.is_due(open_runs):
            return
        self._given_s, self._told = time.monotonic(), open_runs
        body = json.dumps({"where": self._where, "runs": open_runs}).encode()
        with suppress(Unanswered):  # the next one may be heard
            await client.put_all([(self._subject, body, {"Nats-TTL": f"{ALIVE_S}s"})])
