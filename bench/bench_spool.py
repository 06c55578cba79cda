"""A durable write against the simplest alternative that survives kill -9: one write() for each span."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.rounds import Row, in_turns, seconds_of
from spanbus._delivery.spool import Spool
from spanbus._otlp.signals import Signal

_RECORDS = 5_000


def measure() -> list[Row]:
    data = os.urandom(600)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), quota_bytes=2**30).open()
        group = spool.group(b"header")

        def ours() -> float:
            put = spool.put

            def work() -> None:
                for _ in range(_RECORDS):
                    put(Signal.TRACES, group, data)

            taken = seconds_of(work) / _RECORDS * 1e6
            while (
                batch := spool.read("remote", max_bytes=1 << 24, max_records=100_000)
            ) is not None:
                spool.acknowledge("remote", batch)
            return taken

        descriptor = os.open(Path(folder) / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def plain() -> float:
            def work() -> None:
                for _ in range(_RECORDS):
                    os.write(descriptor, data)

            return seconds_of(work) / _RECORDS * 1e6

        mine, yard = in_turns(ours, plain)
        os.close(descriptor)
        spool.close()
    return [
        Row(
            "a durable write of 600 bytes (os.write)",
            mine,
            yard,
            "µs",
            mine / yard,
            "<= 0.5 µs",
            mine <= 0.5,
        )
    ]
