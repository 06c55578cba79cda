"""The spool: no record is lost or read twice, however its processes end."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule
from thorough import examples

from spanbus._delivery.recovery import Leftover
from spanbus._delivery.spool import MemorySpool, Spool
from spanbus._delivery.spool_files import SpoolUnavailable
from spanbus._delivery.spool_status import status
from spanbus._otlp.signals import Signal

T = Signal.TRACES


def drained(spool: Spool, destination: str = "remote", *, max_records: int = 100) -> list[bytes]:
    found: list[bytes] = []
    while (
        batch := spool.read(destination, max_bytes=1 << 20, max_records=max_records)
    ) is not None:
        found += [record.data for record in batch.records]
        spool.acknowledge(destination, batch)
    return found


def opened(directory: Path, **options: object) -> Spool:
    return Spool(directory, **options).open()  # type: ignore[arg-type]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "spool").glob("*.seg"))


@pytest.mark.parametrize("mapped", [True, False])
def test_records_are_read_in_order_and_empty_files_are_deleted(
    tmp_path: Path, mapped: bool
) -> None:
    spool = opened(tmp_path, mapped=mapped, segment_bytes=20_000, destinations=("remote", "local"))
    one, two = spool.group(b"header one"), spool.group(b"header two")
    for number in range(500):
        assert spool.put(T, one if number % 2 else two, b"%04d" % number + b"x" * 100)
    assert spool.pending("remote") == spool.pending("local") == 500
    assert len(files(tmp_path)) > 3
    batch = spool.read("remote", max_bytes=10_000, max_records=30)
    assert batch is not None
    assert [(record.group, record.data[:4]) for record in batch.records[:2]] == [
        (b"header two", b"0000"),
        (b"header one", b"0001"),
    ]
    again = spool.read("remote", max_bytes=10_000, max_records=30)
    assert again is not None and again.end == batch.end
    assert [(one.group, one.data) for one in again.records] == [
        (one.group, one.data) for one in batch.records
    ]
    assert [data[:4] for data in drained(spool)] == [b"%04d" % number for number in range(500)]
    assert len(drained(spool, "local")) == 500
    assert spool.pending("remote") == spool.pending("local") == 0
    spool.close()
    assert files(tmp_path) == []


def test_waiting_records_are_read_once_by_the_next_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    group = first.group(b"h")
    for number in range(10):
        first.put(T, group, b"%d" % number)
    first.close()
    second, third = opened(tmp_path), opened(tmp_path)
    assert second.adopt() == []
    assert third.adopt() == []
    assert (second.pending("remote"), third.pending("remote")) == (10, 0)
    assert drained(second) == [b"%d" % number for number in range(10)]
    assert files(tmp_path) == []


def test_segments_of_a_running_process_are_not_adopted(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    first.put(T, first.group(b"h"), b"mine")
    assert second.adopt() == []
    assert second.pending("remote") == 0
    assert drained(first) == [b"mine"]


_CHILD = """
import os, sys
from pathlib import Path
from spanbus._delivery.spool import Spool
from spanbus._otlp.signals import Signal
spool = Spool(Path(sys.argv[1]), segment_bytes=30_000).open()
group = spool.group(b"header")
spool.journal_open(7, b"closed in time")
spool.journal_open(8, b"open")
spool.journal_update(8, b"and more")
for number in range(1000):
    spool.put(Signal.TRACES, group, b"%d" % number, measured=True, closes=7 if number == 900 else None)
    if number == 500:
        spool.put(Signal.METRICS, group, b"metrics", measured_upto=spool.sequence)
print("ready", flush=True)
sys.stdin.read()
"""


def killed(directory: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_after_sigkill_records_open_work_and_measurements_are_recovered_once(
    tmp_path: Path,
) -> None:
    killed(tmp_path)
    looked = status(tmp_path)
    assert (looked.waiting[("remote", T)], looked.alive) == (1000, 0)
    spool = opened(tmp_path)
    [leftover] = spool.adopt()
    assert leftover.open == [(8, [b"open", b"and more"])]
    assert leftover.measurements == [b"%d" % number for number in range(501, 1000)]
    found = drained(spool)
    assert found == [b"%d" % number for number in range(501)] + [b"metrics"] + [
        b"%d" % number for number in range(501, 1000)
    ]
    assert files(tmp_path) != []
    other = opened(tmp_path)
    assert other.adopt() == []
    spool.close()  # without having finished the leftover: the next one gets it, without the records
    [again] = other.adopt()
    assert (again.open, again.measurements) == (leftover.open, leftover.measurements)
    assert drained(other) == []
    other.adopted(again)
    assert files(tmp_path) == []


def test_a_process_with_one_destination_leaves_the_records_of_others(
    tmp_path: Path,
) -> None:
    first = opened(tmp_path, destinations=("remote", "local"))
    first.journal_open(1, b"open")
    first.put(T, first.group(b"h"), b"data")
    first.close()
    local = opened(tmp_path, destinations=("local",))
    assert local.adopt() == []
    assert drained(local, "local") == [b"data"]
    assert len(files(tmp_path)) == 1
    both = opened(tmp_path, destinations=("remote", "local"))
    [leftover] = both.adopt()
    assert leftover.open == [(1, [b"open"])]
    assert (drained(both), drained(both, "local")) == ([b"data"], [])


def test_open_entries_survive_the_deletion_of_read_segments(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=8_192)
    group = spool.group(b"h")
    spool.journal_open(1, b"long running")
    for _ in range(400):
        spool.put(T, group, b"y" * 100)
    drained(spool)
    assert len(files(tmp_path)) == 1
    spool.journal_update(1, b"alive")
    spool.close()
    [leftover] = opened(tmp_path).adopt()
    assert leftover.open == [(1, [b"long running", b"alive"])]


def test_above_the_quota_the_oldest_segment_is_dropped_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path, quota_bytes=200_000, segment_bytes=40_000)
    group = spool.group(b"h")
    for number in range(1_000):
        assert spool.put(T, group, b"%04d" % number + b"z" * 500)
    found = drained(spool)
    dropped = spool.statistics().dropped[(T, "quota")]
    assert len(found) + dropped == 1_000
    assert dropped > 0
    assert found[-1][:4] == b"0999"
    assert found == sorted(found)


def test_records_in_flight_when_dropped_are_not_counted_if_delivered(
    tmp_path: Path,
) -> None:
    spool = opened(tmp_path, quota_bytes=200_000, segment_bytes=40_000)
    group = spool.group(b"h")
    for number in range(60):
        spool.put(T, group, b"%04d" % number + b"z" * 500)
    batch = spool.read("remote", max_bytes=1 << 20, max_records=50)
    assert batch is not None
    for number in range(60, 1_000):
        spool.put(T, group, b"%04d" % number + b"z" * 500)
    before = spool.statistics().dropped[(T, "quota")]
    spool.acknowledge("remote", batch)
    assert spool.statistics().dropped[(T, "quota")] == before
    assert len(batch.records) + len(drained(spool)) + before == 1_000
    assert spool.pending("remote") == 0


def test_records_in_flight_when_dropped_are_counted_if_not_delivered(tmp_path: Path) -> None:
    spool = opened(
        tmp_path, quota_bytes=200_000, segment_bytes=40_000, destinations=("remote", "local")
    )
    group = spool.group(b"h")
    for number in range(60):
        spool.put(T, group, b"%04d" % number + b"z" * 500)
    assert spool.read("remote", max_bytes=1 << 20, max_records=50) is not None
    for number in range(60, 1_000):
        spool.put(T, group, b"%04d" % number + b"z" * 500)
    before = spool.statistics().dropped[(T, "quota")]
    spool.give_up_memory()
    waiting = spool.pending("remote")
    spool.close()
    assert spool.statistics().dropped[(T, "quota")] + waiting == 1_000
    assert before + waiting in (950, 1_000), "what one destination was sent the other had not"


def test_records_in_memory_at_exit_are_counted_as_lost(tmp_path: Path) -> None:
    spool = MemorySpool(destinations=("remote",))
    group = spool.group(b"h")
    for number in range(100):
        spool.put(T, group, b"%d" % number)
    batch = spool.read("remote", max_bytes=1 << 20, max_records=30)
    assert batch is not None
    spool.acknowledge("remote", batch)
    assert spool.pending_in_memory("remote") == 70
    assert spool.give_up_memory() == {T: 70}
    assert spool.statistics().dropped == {(T, "no_spool"): 70}
    assert spool.pending("remote") == 0
    del tmp_path


def test_an_entry_closed_while_the_disk_was_full_is_not_reported_as_killed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        spool = opened(disk, segment_bytes=300_000)
        group = spool.group(b"h")
        for key in range(1, 4):
            spool.journal_open(key, b"opened")
        while spool.on_disk or not spool.pending("remote"):
            spool.put(T, group, b"z" * 500)
        for key in range(1, 3):
            spool.put(T, group, b"closed", closes=key)
        spool.give_up_memory()
        spool.close()
        [leftover] = opened(disk).adopt()
        assert [key for key, _ in leftover.open] == [3]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_deleted_folder_is_made_again_and_its_records_are_counted(
    tmp_path: Path,
) -> None:
    spool = opened(tmp_path / "state", segment_bytes=40_000)
    group = spool.group(b"h")
    for number in range(100):
        assert spool.put(T, group, b"%03d" % number + b"z" * 500)
    shutil.rmtree(tmp_path / "state")
    spool.sync()
    for number in range(100, 150):
        assert spool.put(T, group, b"%03d" % number + b"z" * 500)
    assert (spool.pending("remote"), spool.pending_in_memory("remote")) == (150, 100)
    assert spool.give_up_memory() == {T: 100}
    spool.close()
    following = opened(tmp_path / "state")
    following.adopt()
    assert [data[:3] for data in drained(following)] == [
        b"%03d" % number for number in range(100, 150)
    ]


def test_a_file_that_cannot_be_deleted_is_ignored(tmp_path: Path) -> None:
    spool = opened(tmp_path / "state", segment_bytes=40_000)
    group = spool.group(b"h")
    for number in range(200):
        assert spool.put(T, group, b"%03d" % number + b"z" * 500)
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "state").write_text("a file is in the way")
    assert len(drained(spool)) == 200
    assert spool.put(T, group, b"more" * 10_000)
    assert drained(spool) == [b"more" * 10_000]
    spool.close()


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.put(T, spool.group(b"h"), b"kept")
    spool.close()
    [name] = files(tmp_path)
    folder = tmp_path / "spool"
    shutil.copy(folder / name, folder / "00112233aabbccdd-00000000.seg")
    os.mkfifo(folder / "00112233aabbccee-00000000.seg")
    (folder / "00112233aabbccff-00000000.seg").mkdir()
    (folder / "00112233aabbcc00-00000000.seg").symlink_to(folder / name)
    assert status(tmp_path).files == 2
    following = opened(tmp_path)
    following.adopt()
    assert drained(following) == [b"kept"]
    assert status(tmp_path).set_aside == 1


def test_a_program_that_closes_all_descriptors_exits_cleanly(tmp_path: Path) -> None:
    body = "import os, sys; from pathlib import Path; from spanbus._otlp.signals import Signal; from spanbus._delivery.spool import Spool\nspool = Spool(Path(sys.argv[1])).open()\nspool.put(Signal.TRACES, spool.group(b'h'), b'kept')\nos.closerange(3, 100)\nspool.close()"
    done = subprocess.run(
        [sys.executable, "-c", body, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    spool = opened(tmp_path)
    spool.adopt()
    assert drained(spool) == [b"kept"]


def test_a_record_larger_than_a_segment_gets_its_own(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=4_096)
    group = spool.group(b"h")
    assert spool.put(T, group, b"big" * 100_000)
    assert spool.put(T, group, b"small")
    assert [len(data) for data in drained(spool)] == [300_000, 5]


def test_in_memory_the_oldest_records_are_dropped_too(tmp_path: Path) -> None:
    del tmp_path
    spool = MemorySpool(quota_bytes=3 * 2**20)
    group = spool.group(b"h")
    for number in range(10_000):
        spool.put(T, group, b"%05d" % number + b"z" * 995)
    found = drained(spool)
    assert len(found) + spool.statistics().dropped[(T, "quota")] == 10_000
    assert found[-1][:5] == b"09999"


def test_a_full_disk_is_reported_once_and_memory_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        if "TESTS_IN_CI" in os.environ:
            pytest.skip("this container may not mount; the quota tests cover the same path")
        pytest.skip("mounting a small disk needs root")
    try:
        spool = opened(disk, segment_bytes=300_000)
        group = spool.group(b"h")
        for number in range(3_000):
            assert spool.put(T, group, b"%04d" % number + b"z" * 500)
        assert [data[:4] for data in drained(spool)] == [
            b"%04d" % number for number in range(3_000)
        ]
        assert (
            len([record for record in caplog.records if "cannot be kept on disk" in record.message])
            == 1
        )
        spool.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    spool = opened(tmp_path / "new" / "state")
    spool.put(T, spool.group(b"h"), b"x")
    folder = tmp_path / "new" / "state" / "spool"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    os.chown(tmp_path / "spool", 12345, 12345)
    with pytest.raises(SpoolUnavailable, match="belongs to another user"):
        opened(tmp_path)


def test_a_path_that_cannot_be_a_folder_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="SPANBUS_STATE_DIR"):
        opened(tmp_path / "file")


def test_a_file_that_is_not_a_segment_is_set_aside(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    (tmp_path / "spool" / f"{'ab' * 8}-00000000.seg").write_bytes(b"garbage" * 100)
    assert spool.adopt() == []
    assert status(tmp_path).set_aside == 1


def test_a_forked_child_writes_files_of_its_own(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    group = spool.group(b"h")
    spool.put(T, group, b"parent")
    child = os.fork()
    if not child:
        try:
            spool.forked()
            spool.put(T, spool.group(b"h"), b"child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert spool.adopt() == []
    assert sorted(drained(spool)) == [b"child", b"parent"]


class Processes(RuleBasedStateMachine):
    """A state machine of two processes on one directory that put, take, crash and restart."""

    spools = Bundle("spools")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name)
        self.put: set[bytes] = set()
        self.taken: list[bytes] = []
        self.number = 0
        self.alive: list[Spool] = []

    @rule(target=spools)
    def start(self) -> Spool:
        spool = opened(self.directory, segment_bytes=4_096)
        self.alive.append(spool)
        return spool

    @rule(spool=spools, size=st.integers(0, 2_000))
    def put_one(self, spool: Spool, size: int) -> None:
        data = b"%d:" % self.number + b"d" * size
        self.number += 1
        assert spool.put(T, spool.group(b"header"), data)
        self.put.add(data)

    @rule(spool=spools, records=st.integers(1, 5))
    def take(self, spool: Spool, records: int) -> None:
        batch = spool.read("remote", max_bytes=3_000, max_records=records)
        if batch is not None:
            assert all(record.group == b"header" for record in batch.records)
            self.taken += [record.data for record in batch.records]
            spool.acknowledge("remote", batch)

    @rule(spool=spools)
    def take_over(self, spool: Spool) -> None:
        for leftover in spool.adopt():
            spool.adopted(leftover)

    @rule(spool=consumes(spools))
    def leave(self, spool: Spool) -> None:
        spool.close()
        self.alive.remove(spool)

    @rule(spool=consumes(spools))
    def crash(self, spool: Spool) -> None:
        self.alive.remove(spool)
        spool.forked()  # lets go of every file as the kernel does for a dead process

    def teardown(self) -> None:
        for spool in self.alive:
            spool.close()
        last = opened(self.directory)
        for leftover in last.adopt():
            last.adopted(leftover)
        self.taken += drained(last)
        last.close()
        left = files(self.directory)
        self.folder.cleanup()
        assert sorted(self.taken) == sorted(self.put)
        assert left == []


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


def test_a_leftover_is_removed_only_by_its_token(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.adopted(Leftover([], [], b"unknown!"))
    assert spool.pending("remote") == 0


def test_records_are_read_during_writes_and_drops(tmp_path: Path) -> None:
    spool = Spool(tmp_path, quota_bytes=2**20, segment_bytes=2**17).open()
    group = spool.group(b"header")
    count = 20_000
    taken: list[bytes] = []
    finished = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                done = finished.is_set()
                batch = spool.read("remote", max_bytes=1 << 16, max_records=100)
                if batch is not None:
                    taken.extend(record.data for record in batch.records)
                    spool.acknowledge("remote", batch)
                elif done:
                    return
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(count):
        spool.put(Signal.TRACES, group, b"%08d" % number + bytes(200))
    finished.set()
    reader.join(60)
    assert errors == []
    assert taken == sorted(set(taken)), "in order, each once"
    dropped = sum(spool.statistics().dropped.values())
    assert count - dropped <= len(taken) <= count
    assert spool.pending("remote") == 0
    spool.close()
