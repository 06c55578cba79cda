"""Memory of the spool: waiting records are on disk and not in the memory of the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spanbus._delivery.spool import Spool
from spanbus._otlp.signals import Signal

MIB = 2**20


def mapped_bytes() -> int:
    """Return the size of the resident pages of mapped files of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_full_spool_takes_little_memory_and_is_read_completely(tmp_path: Path) -> None:
    spool = Spool(tmp_path, destinations=("remote",)).open()
    group, record, count = spool.group(b"header"), bytes(range(256)) * 32, 64 * MIB // 8_192
    before = mapped_bytes()
    for number in range(count):
        assert spool.put(Signal.TRACES, group, b"%06d" % number + record)
    assert mapped_bytes() - before < 16 * MIB
    seen = 0
    while (batch := spool.read("remote", max_bytes=MIB, max_records=1_000)) is not None:
        for one in batch.records:
            assert one.data == b"%06d" % seen + record
            seen += 1
        spool.acknowledge("remote", batch)
    assert seen == count
    spool.close()
