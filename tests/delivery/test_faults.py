"""Fault injection with ten thousand phases: each arrives once, or is counted as dropped.

The programs are real instrumented processes, and the collector listens on a real socket.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from programs import Programs, all_of, arrived

from spanbus.testing import Answer, Receiver

pytestmark = pytest.mark.slow

PHASES = 10_000


def assert_complete(receiver: Receiver, expected: Counter[str]) -> None:
    """Assert that every phase arrived once, and that the counter of failures equals the number of failed phases."""
    found = arrived(receiver)
    assert sum((expected - found).values()) == 0, "some did not arrive"
    assert sum((found - expected).values()) == 0, "some arrived twice"
    assert_failures_match(receiver)


def assert_failures_match(receiver: Receiver) -> None:
    failed = sum(
        span.status.code == Status.STATUS_CODE_ERROR
        for span in receiver.spans()
        if not span.name.startswith("RUN ")
    )
    assert failed > 0
    assert receiver.sum_of("spanbus.phase.failures") == failed


# --- the collector ----------------------------------------------------------------------------------------------------


def test_a_burst_to_a_healthy_collector(programs: Programs, receiver: Receiver) -> None:
    output, errors = programs.run_well(
        receiver.url, f"begin(); phases({PHASES}); end(); print('done')"
    )
    assert (output, errors) == ("done\n", "")
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(PHASES))


def test_down_all_the_time_then_flushed(programs: Programs) -> None:
    with Receiver(listening=False) as receiver:
        output, errors = programs.run_well(
            receiver.url, f"begin(); phases({PHASES}); end(); print('done')"
        )
        assert output == "done\n"
        assert len(errors.splitlines()) == 1
        receiver.up()
        programs.next_one(receiver.url)
        assert_complete(receiver, all_of(PHASES))


def test_a_collector_that_accepts_and_never_answers(programs: Programs, receiver: Receiver) -> None:
    with Receiver() as deaf:
        deaf.answer(Answer.hang())
        output, errors = programs.run_well(
            deaf.url, f"begin(); phases({PHASES}); end(); print('done')"
        )
        assert output == "done\n"
        assert len(errors.splitlines()) == 1
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(PHASES))


def test_a_collector_that_comes_up_later(programs: Programs) -> None:
    with Receiver(listening=False) as receiver:
        process = programs.start(
            receiver.url, f"begin(); phases({PHASES}, every=say); end(); assert spanbus.flush(60)"
        )
        assert process.stdout is not None
        while int(process.stdout.readline()) < PHASES // 2:
            pass
        receiver.up()
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        programs.next_one(receiver.url)
        assert_complete(receiver, all_of(PHASES))


@pytest.mark.parametrize(
    "trouble",
    [Answer(503), Answer(429, retry_after_s=0.2), Answer.reset(), Answer(500)],
    ids=["503", "429", "reset", "500"],
)
def test_a_collector_with_errors_at_first(
    programs: Programs, receiver: Receiver, trouble: Answer
) -> None:
    receiver.answer_next(*[trouble] * 3)
    _, errors = programs.run_well(
        receiver.url, f"begin(); phases({PHASES}); end(); assert spanbus.flush(60)"
    )
    assert errors == ""
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(PHASES))


def test_a_collector_that_resets_every_third_answer(programs: Programs, receiver: Receiver) -> None:
    half = Answer(how="half", message="x" * 1000)
    receiver.answer_next(*[Answer(), Answer(), half] * 20)
    _, errors = programs.run_well(
        receiver.url, f"begin(); phases({PHASES}); end(); assert spanbus.flush(60)"
    )
    assert len(errors.splitlines()) <= 1
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(PHASES))


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
@pytest.mark.parametrize("up", [True, False], ids=["collector up", "collector down"])
def test_a_program_killed_half_way(programs: Programs, how: signal.Signals, up: bool) -> None:
    with Receiver(listening=up) as receiver:
        process = programs.start(receiver.url, f"begin(); phases({PHASES}, every=say); end()")
        assert process.stdout is not None
        while (said := int(process.stdout.readline())) < PHASES // 2:
            pass
        process.send_signal(how)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == -how
        said = max([said, *map(int, rest.split())])
        receiver.up()
        programs.next_one(receiver.url)
        found = arrived(receiver)
        last = max(int(name[1:]) for name in found)
        assert last >= said
        assert set(found) == set(all_of(last + 1))
        twice = sum(count - 1 for count in found.values())
        assert twice <= 1024, "more than one batch arrived twice"
        if not twice:
            assert_failures_match(receiver)
        before = len(receiver.spans())
        programs.next_one(receiver.url)
        assert len(receiver.spans()) == before


def test_four_forked_children(programs: Programs, receiver: Receiver) -> None:
    each = PHASES // 4
    programs.run_well(
        receiver.url,
        f"""
        begin()
        children = []
        for child in "abcd":
            pid = os.fork()
            if pid == 0:
                begin(child); phases({each}, child, child); end(child)
                sys.exit(0)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
        end()
    """,
    )
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(each, *"abcd"))


def test_four_children_of_multiprocessing(
    programs: Programs, receiver: Receiver, tmp_path: Path
) -> None:
    each = PHASES // 4
    errors = programs.run_file(
        receiver.url,
        tmp_path / "program.py",
        f"""
        import multiprocessing

        def work(child):
            begin(child); phases({each}, child, child); end(child)

        if __name__ == "__main__":
            begin()
            children = [multiprocessing.Process(target=work, args=(child,)) for child in "abcd"]
            for child in children:
                child.start()
            for child in children:
                child.join()
                assert child.exitcode == 0
            end()
    """,
    )
    assert errors == ""
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(each, *"abcd"))


def test_sixteen_programs_at_once(programs: Programs, receiver: Receiver) -> None:
    each = PHASES // 16
    names = [f"n{number}-" for number in range(16)]
    running = [
        programs.start(
            receiver.url, f"begin({name!r}); phases({each}, {name!r}, {name!r}); end({name!r})"
        )
        for name in names
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    programs.next_one(receiver.url)
    assert_complete(receiver, all_of(each, *names))


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "disk"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


def test_a_full_disk_with_a_healthy_collector(small_disk: Path, receiver: Receiver) -> None:
    programs = Programs(small_disk / "state")
    (small_disk / "ballast").write_bytes(bytes(1_500_000))
    output, errors = programs.run_well(
        receiver.url, f"begin(); phases({PHASES}); end(); assert spanbus.flush(60); print('done')"
    )
    assert output == "done\n"
    assert len(errors.splitlines()) <= 1
    assert_complete(receiver, all_of(PHASES))


def test_a_full_disk_with_a_dead_collector_counts_what_it_cannot_keep(small_disk: Path) -> None:
    programs = Programs(small_disk / "state")
    (small_disk / "ballast").write_bytes(bytes(1_500_000))
    with Receiver(listening=False) as receiver:
        output, errors = programs.run_well(
            receiver.url,
            f"begin(); phases({PHASES}, 'x' * 600 + '-'); end(); counts(); print('done')",
        )
        counted, done = output.splitlines()
        found = json.loads(counted)
        assert done == "done"
        assert found["dropped"] > 0
        assert found["reasons"] == ["disk_full"]
        assert found["waiting"] + found["dropped"] >= PHASES
        assert len(errors.splitlines()) <= 2, errors
        assert any("disk" in line for line in errors.splitlines()), errors


def test_the_next_program_reports_what_a_full_disk_lost(small_disk: Path) -> None:
    programs = Programs(small_disk / "state")
    with Receiver(listening=False) as receiver:
        _, errors = programs.run_well(receiver.url, f"begin(); phases({PHASES}); end()")
        assert "in memory" in errors.splitlines()[-1]
        receiver.up()
        programs.next_one(receiver.url)
        kept = arrived(receiver)
        assert set(kept.values()) == {1}
        runs = sum(span.name.startswith("RUN ") for span in receiver.spans())
        dropped = [
            point.as_int
            for metric in receiver.metrics()
            if metric.name == "spanbus.delivery.dropped"
            for point in metric.sum.data_points
            if {attribute.value.string_value for attribute in point.attributes}
            == {"traces", "disk_full"}
        ]
        assert len(kept) + runs + sum(dropped) == PHASES + 1
        failed = sum(span.status.code == Status.STATUS_CODE_ERROR for span in receiver.spans())
        assert receiver.sum_of("spanbus.phase.failures") == failed == 0, (
            "nothing counts as killed that ended in memory"
        )


@pytest.mark.parametrize("up", [True, False], ids=["collector up", "collector down"])
def test_a_state_directory_that_cannot_be_used(tmp_path: Path, up: bool) -> None:
    (tmp_path / "state").write_text("a file is in the way")
    programs = Programs(tmp_path / "state")
    with Receiver(listening=up) as receiver:
        output, errors = programs.run_well(
            receiver.url,
            f"begin(); phases({PHASES}); end(); spanbus.flush({20 if up else 0.1}); counts(); print('done')",
        )
        counted, done = output.splitlines()
        assert done == "done"
        found = json.loads(counted)
        assert "memory" in errors.splitlines()[0]
        assert len(errors.splitlines()) == (1 if up else 2)
        if up:
            assert (found["waiting"], found["dropped"]) == (0, 0)
            assert_complete(receiver, all_of(PHASES))
        else:
            assert found["waiting"] + found["dropped"] >= PHASES
            assert "lost" in errors.splitlines()[1]


def test_above_the_quota_the_oldest_records_are_dropped_and_counted(programs: Programs) -> None:
    with Receiver(listening=False) as receiver:
        output, _ = programs.run_well(
            receiver.url,
            f"begin(); phases({PHASES}); end(); counts()",
            SPANBUS_SPOOL_QUOTA_BYTES="2000000",
        )
        found = json.loads(output)
        assert found["reasons"] == ["quota"]
        assert found["dropped"] > 0
        receiver.up()
        programs.next_one(receiver.url)
        kept = arrived(receiver)
        assert set(kept.values()) == {1}
        assert f"p{PHASES - 2}" in kept, "the newest stay"
        assert len(kept) + found["dropped"] >= PHASES
        run = next(span for span in receiver.spans() if span.name.startswith("RUN "))
        told = next(
            attribute.value.int_value
            for attribute in run.attributes
            if attribute.key == "spanbus.delivery.dropped"
        )
        assert 0.8 * found["dropped"] < told <= found["dropped"], (
            "the run's span tells what of it was missing when it ended"
        )


def test_a_run_is_not_slowed_by_a_collector_that_is_slow(
    programs: Programs, receiver: Receiver
) -> None:
    receiver.answer(Answer(delay_s=1.0))
    process = programs.start(
        receiver.url,
        f"begin(); start = time.monotonic(); phases({PHASES}); print(time.monotonic() - start); end()",
    )
    output, _ = process.communicate(timeout=120)
    healthy = Programs(programs.state.parent / "other")
    receiver.answer(Answer())
    reference, _ = healthy.run_well(
        receiver.url,
        f"begin(); start = time.monotonic(); phases({PHASES}); print(time.monotonic() - start); end()",
    )
    assert float(output) < 2 * float(reference) + 1
