"""The journal of open spans: bounded by the number of open spans, and never at the expense of records."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanbus._delivery.open_journal import (
    SLOT_BYTES,
    UPDATES_BYTES,
    Entry,
    JournalContent,
    OpenJournal,
    parse_journal,
)
from spanbus._delivery.segment import BadSegment
from spanbus._delivery.spool import Spool
from spanbus._delivery.spool_status import left, status
from spanbus._otlp.signals import Signal

T = Signal.TRACES
TOKEN = b"12345678"


def journal_at(path: Path, **options: object) -> OpenJournal:
    options.setdefault("mapped", True)
    return OpenJournal(path / "j.open", TOKEN, ("remote", "local"), **options)  # type: ignore[arg-type]


def found_in(path: Path) -> JournalContent:
    return parse_journal(path / "j.open", (path / "j.open").read_bytes())


@pytest.mark.parametrize("mapped", [True, False])
def test_an_entry_is_its_start_with_its_updates_until_it_is_closed(
    tmp_path: Path, mapped: bool
) -> None:
    journal = journal_at(tmp_path, mapped=mapped)
    journal.introduce(b"resource" * 100)
    journal.opened(1, 10, b"one")
    journal.opened(2, 20, b"two" * 1_000)
    journal.updated(1, b"more")
    journal.updated(2, b"much" * 500)
    journal.updated(3, b"of nothing")
    journal.opened(4, 40, b"four")
    journal.closed(4)
    journal.closed(4)
    journal.alive(123)
    found = found_in(tmp_path)
    assert found == JournalContent(
        TOKEN,
        ("remote", "local"),
        123,
        b"resource" * 100,
        [Entry(1, 10, [b"one", b"more"]), Entry(2, 20, [b"two" * 1_000, b"much" * 500])],
    )
    journal.closed(1)
    journal.closed(2)
    journal.close()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_slots_are_used_again(tmp_path: Path) -> None:
    journal = journal_at(tmp_path)
    for key in range(1, 101):
        journal.opened(key, 0, b"start" * 20)
    size = (tmp_path / "j.open").stat().st_size
    for key in range(101, 20_001):
        journal.opened(key, 0, b"start" * 20)
        journal.updated(key - 100, b"event")
        journal.closed(key - 100)
    assert (tmp_path / "j.open").stat().st_size == size
    assert {entry.key for entry in found_in(tmp_path).entries} == set(range(19_901, 20_001))
    journal.close()
    assert (tmp_path / "j.open").exists(), "what is open is for the next process"


def test_of_many_updates_the_newest_are_kept(tmp_path: Path) -> None:
    journal = journal_at(tmp_path)
    journal.opened(1, 0, b"start")
    for number in range(10_000):
        journal.updated(1, b"%05d" % number * 40)
    [entry] = found_in(tmp_path).entries
    assert entry.pieces[0] == b"start"
    assert entry.pieces[-1] == b"09999" * 40
    assert len(b"".join(entry.pieces)) <= UPDATES_BYTES
    assert (tmp_path / "j.open").stat().st_size < 200_000


def test_at_the_limit_starts_are_preferred_to_updates(tmp_path: Path) -> None:
    journal = journal_at(tmp_path, limit_bytes=2**20)
    for key in range(1, 2_000):
        journal.opened(key, 0, b"start")
    for key in range(1, 2_000):
        journal.updated(key, b"update")
    for key in range(2_000, 5_000):
        journal.opened(key, 0, b"start")
    assert (tmp_path / "j.open").stat().st_size <= 2**20 + mmap.ALLOCATIONGRANULARITY
    found = found_in(tmp_path)
    assert len(found.entries) == len(journal) > 2_000
    assert any(len(entry.pieces) == 2 for entry in found.entries)


def test_a_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    journal = journal_at(tmp_path)
    journal.introduce(b"resource")
    journal.opened(1, 0, b"one")
    (tmp_path / "j.open").unlink()
    journal.opened(2, 0, b"two")
    assert journal.renewed() is not None
    journal.opened(3, 0, b"three")
    found = found_in(tmp_path)
    assert [entry.key for entry in found.entries] == [1, 2, 3]
    assert found.group == b"resource"


@given(st.integers(0, 3_000), st.integers(1, 255))
def test_a_flipped_byte_never_gives_a_wrong_entry(at: int, flip: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = journal_at(Path(folder))
        for key in range(1, 9):
            journal.opened(key, key, b"start of %d" % key)
        data = bytearray((Path(folder) / "j.open").read_bytes())
        journal.close()
    data[mmap.ALLOCATIONGRANULARITY + at] ^= flip
    entries = parse_journal(Path("j.open"), bytes(data)).entries
    assert len(entries) >= 7
    assert all(
        entry == Entry(entry.key, entry.key, [b"start of %d" % entry.key]) for entry in entries
    )


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"x" * 100_000])
def test_a_file_that_is_not_a_journal_is_refused(data: bytes) -> None:
    with pytest.raises(BadSegment):
        parse_journal(Path("j.open"), data)


# --- with the spool ---------------------------------------------------------------------------------------------------


def opened(directory: Path, **options: object) -> Spool:
    return Spool(directory, **options).open()  # type: ignore[arg-type]


def test_the_journal_does_not_count_toward_the_quota(tmp_path: Path) -> None:
    """8 MiB with 3,000 open runs and their heartbeats for a minute, at a healthy collector."""
    spool = opened(tmp_path, quota_bytes=8 * 2**20)
    group = spool.group(b"header")
    for key in range(1, 6_001):
        spool.journal_open(key, b"s" * 300)
        spool.journal_update(key, b"e" * 250)
    dropped = taken = 0
    for second in range(60):
        for tick in range(4):
            spool.journal_alive(second * 4 + tick)
        for number in range(300):
            key = 10_000 + second * 300 + number
            spool.journal_open(key, b"s" * 300)
            spool.put(T, group, b"span" * 150, closes=key)
        while (batch := spool.read("remote", max_bytes=1 << 20, max_records=1024)) is not None:
            taken += len(batch.records)
            spool.acknowledge("remote", batch)
    dropped = sum(spool.statistics().dropped.values())
    assert (taken, dropped) == (60 * 300, 0)


def test_the_bytes_written_for_a_phase_do_not_depend_on_other_open_phases(tmp_path: Path) -> None:
    def written(folder: Path, open_entries: int) -> int:
        spool = opened(folder)
        group = spool.group(b"header")
        for key in range(1, open_entries + 1):
            spool.journal_open(key, b"s" * 300)
        for _ in range(4 * 60 * 60 * 24):  # a day of ticks
            spool.journal_alive(1)
        before = sum(file.stat().st_size for file in (folder / "spool").iterdir())
        for number in range(5_000):
            spool.journal_open(10_000 + number, b"s" * 300)
            spool.put(T, group, b"span" * 150, closes=10_000 + number)
        after = sum(file.stat().st_size for file in (folder / "spool").iterdir())
        spool.close()
        return after - before

    few, many = written(tmp_path / "few", 1), written(tmp_path / "many", 4_000)
    assert abs(many - few) <= 0.1 * few


_CHILD = """
import sys
from pathlib import Path
from spanbus._delivery.spool import Spool
from spanbus._otlp.signals import Signal
spool = Spool(Path(sys.argv[1])).open()
group = spool.group(b"header")
for key in range(1, 5):
    spool.journal_open(key, b"start %d" % key)
spool.journal_update(2, b"update")
spool.put(Signal.TRACES, group, b"first life", closes=3)
spool.journal_open(3, b"second life")
spool.put(Signal.TRACES, group, b"span", closes=1)
spool.journal_alive(77)
while (batch := spool.read("remote", max_bytes=1 << 20, max_records=10)) is not None:
    spool.acknowledge("remote", batch)
print("ready", flush=True)
sys.stdin.read()
"""


def test_open_work_is_known_after_sigkill_though_all_records_were_delivered(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    looker = opened(tmp_path)
    assert looker.adopt() == [], "it lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    for segment in (tmp_path / "spool").glob("*.seg"):
        segment.unlink()  # as the sender does when all is delivered
    assert status(tmp_path).left_open == 3
    assert left(tmp_path, "remote") and not left(tmp_path, "local")
    [leftover] = looker.adopt()
    assert sorted(leftover.open) == [
        (2, [b"start 2", b"update"]),
        (3, [b"second life"]),
        (4, [b"start 4"]),
    ]
    assert (leftover.alive_ns, leftover.group) == (77, b"header")
    assert opened(tmp_path).adopt() == [], "another process has it"
    looker.adopted(leftover)
    assert status(tmp_path).left_open == 0
    looker.close()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["adopt.lock"]


def test_a_record_closes_only_earlier_entries(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    group = spool.group(b"h")
    spool.journal_open(1, b"first")
    spool.put(T, group, b"ends the first", closes=1)
    spool.journal_open(1, b"second")
    spool.close()
    [leftover] = opened(tmp_path).adopt()
    assert leftover.open == [(1, [b"second"])]


def test_a_forked_child_keeps_a_journal_of_its_own(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.journal_open(1, b"of the parent")
    child = os.fork()
    if not child:
        try:
            spool.forked()
            spool.journal_open(2, b"of the child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    [leftover] = opened(tmp_path).adopt()
    assert leftover.open == [(2, [b"of the child"])]
    spool.close()


def test_an_unreadable_journal_is_set_aside(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    (tmp_path / "spool" / f"{'ab' * 8}.open").write_bytes(b"garbage" * SLOT_BYTES)
    assert spool.adopt() == []
    assert status(tmp_path).set_aside == 1
    shutil.rmtree(tmp_path / "spool")
