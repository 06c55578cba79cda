"""Heartbeat of a publisher: a key with a TTL, renewed while the publisher has open runs."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Final

from spanbus.integrations._nats_client import Client, RequestFailed
from spanbus.integrations.nats_stream import ALIVE, ALIVE_S

RENEW_S: Final = 10.0


class Heartbeat:
    """Writes the heartbeat, in the sending thread. A missing bucket or missing permissions do not affect the events."""

    def __init__(self, publisher: str) -> None:
        self._subject = f"$KV.{ALIVE}.{publisher}"
        self._where = f"{os.uname().nodename}/{os.getpid()}"
        self._written_s: float | None = None
        self._written_runs = 0
        """Number of open runs when the key was last written."""

    def is_due(self, open_runs: int) -> bool:
        """Whether to write the key: about every ten seconds while runs are open, and once after the last one ended."""
        if not open_runs:
            return self._written_runs > 0
        return self._written_s is None or time.monotonic() - self._written_s >= RENEW_S - 1.0

    async def write_if_due(self, client: Client, open_runs: int) -> None:
        if not self.is_due(open_runs):
            return
        self._written_s, self._written_runs = time.monotonic(), open_runs
        body = json.dumps({"where": self._where, "runs": open_runs}).encode()
        with suppress(RequestFailed):  # the next heartbeat may succeed
            await client.publish_all([(self._subject, body, {"Nats-TTL": f"{ALIVE_S}s"})])
