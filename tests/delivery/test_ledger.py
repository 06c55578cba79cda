"""The ledger: counts of delivered and lost records, summed over programs and exported once."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from sleeping import slept_s

import spanbus
from spanbus._delivery.ledger import LEDGER, NOTHING, SIZE_BYTES, DeliveryCounts, Ledger
from spanbus.testing import Receiver

LOST = DeliveryCounts(
    {("traces", ""): 5}, {}, {("traces", "disk_full"): 2}, {}, {("traces", "disk_full"): 2}
)


def test_added_counts_are_read_by_other_processes(tmp_path: Path) -> None:
    assert Ledger(tmp_path).add(LOST)
    assert Ledger(tmp_path).add(LOST)
    found = Ledger(tmp_path).read()
    assert (found.delivered, found.dropped, found.unexported_dropped) == (
        {("traces", ""): 10},
        {("traces", "disk_full"): 4},
        {("traces", "disk_full"): 4},
    )


def test_unexported_counts_are_taken_once(tmp_path: Path) -> None:
    Ledger(tmp_path).add(LOST)
    assert Ledger(tmp_path).take_unexported() == DeliveryCounts(
        {}, {}, {}, {}, {("traces", "disk_full"): 2}
    )
    assert Ledger(tmp_path).take_unexported() == NOTHING
    assert Ledger(tmp_path).read().dropped == {("traces", "disk_full"): 2}


def test_concurrent_additions_are_not_lost(tmp_path: Path) -> None:
    body = "import sys; from pathlib import Path; from spanbus._delivery.ledger import DeliveryCounts, Ledger\nfor _ in range(200):\n while not Ledger(Path(sys.argv[1])).add(DeliveryCounts({('logs', ''): 1}, {}, {}, {}, {})): pass"
    programs = [subprocess.Popen([sys.executable, "-c", body, str(tmp_path)]) for _ in range(4)]
    assert [program.wait(60) for program in programs] == [0] * 4
    assert Ledger(tmp_path).read().delivered == {("logs", ""): 800}


def test_the_file_is_allocated_before_the_first_write(tmp_path: Path) -> None:
    Ledger(tmp_path).prepare()
    assert (tmp_path / LEDGER).stat().st_size == SIZE_BYTES
    assert (tmp_path / LEDGER).stat().st_mode & 0o777 == 0o600
    assert Ledger(tmp_path).read() == NOTHING
    Ledger(tmp_path).add(LOST)
    Ledger(tmp_path).prepare()
    assert (tmp_path / LEDGER).stat().st_size == SIZE_BYTES
    assert Ledger(tmp_path).read() == LOST


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 10, b"[]", b"{", b'{"dropped": [[1]]}', b'{"dropped": 7}', b"\xff" * SIZE_BYTES],
)
def test_a_file_with_another_format_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEDGER).write_bytes(content)
    assert Ledger(tmp_path).read() == NOTHING
    assert Ledger(tmp_path).add(LOST)
    assert Ledger(tmp_path).read() == LOST


def test_where_nothing_can_be_written_nothing_is_raised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "missing")
    ledger.prepare()
    assert not ledger.add(LOST)
    assert (ledger.read(), ledger.take_unexported()) == (NOTHING, NOTHING)


def test_a_lock_held_by_a_stopped_process_is_not_waited_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.prepare()
    with (tmp_path / LEDGER).open("r+b") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        began = slept_s()
        assert not ledger.add(LOST)
        assert slept_s() - began < 5
    assert ledger.add(LOST)


def test_a_flush_exports_the_losses_of_other_processes(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    with spanbus.open_runtime_sync(state_dir=tmp_path) as runtime:
        runtime.wiring()
        Ledger(tmp_path).add(LOST)  # after the first look around
        assert runtime.flush(60)
        assert receiver.sum_of("spanbus.delivery.dropped") == 2
