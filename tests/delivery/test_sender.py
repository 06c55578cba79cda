"""The sender: it delivers the spool to destinations, and keeps the records that they do not accept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sleeping import slept_s
from thorough import examples

from spanbus._delivery.dead_letters import DeadLetters
from spanbus._delivery.endpoints import Endpoint
from spanbus._delivery.liveness import Liveness
from spanbus._delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge, Unwanted
from spanbus._delivery.sender import Sender, SenderOptions
from spanbus._delivery.spool import Batch, Stored
from spanbus._delivery.transport import HttpTransport
from spanbus._otlp.signals import Signal
from spanbus.testing import Answer, Receiver, black_hole


class ListSpool:
    """A minimal spool: records in a list, with a cursor for each destination."""

    disk_error = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records: list[Stored] = []
        self.cursors: dict[str, int] = {}

    def put(self, *names: str, signal: Signal = Signal.TRACES, count: int = 1) -> None:
        with self._lock:
            self.records.extend(Stored(signal, b"", name.encode(), count) for name in names)

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None:
        with self._lock:
            start = self.cursors.get(destination, 0)
            end, size = start, 0
            while (
                end < len(self.records)
                and end - start < max_records
                and (end == start or size + len(self.records[end].data) <= max_bytes)
            ):
                size += len(self.records[end].data)
                end += 1
            return Batch(list(self.records[start:end]), end) if end > start else None

    def acknowledge(self, destination: str, batch: Batch) -> None:
        with self._lock:
            assert isinstance(batch.end, int)
            self.cursors[destination] = batch.end

    def pending_in_memory(self, destination: str) -> int:
        return 0

    def pending(self, destination: str) -> int:
        with self._lock:
            return len(self.records) - self.cursors.get(destination, 0)


class Scripted:
    """A destination with scripted outcomes: the next ones, then the standing one."""

    def __init__(
        self, *outcomes: Outcome, name: str = "remote", standing: Outcome | None = None
    ) -> None:
        self.name = name
        self.shown = f"the {name} destination"
        self._changed = threading.Condition()
        self._outcomes = list(outcomes)
        self._standing = standing or Delivered()
        self.attempts: list[tuple[Signal, list[str]]] = []
        self.times: list[float] = []
        self.taken: list[str] = []
        self.hanging = threading.Event()
        self.hanging.set()
        self.interrupted = self.closed = False

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        names = [record.data.decode() for record in records]
        with self._changed:
            self.times.append(time.monotonic())
            self.attempts.append((signal, names))
            outcome = self._outcomes.pop(0) if self._outcomes else self._standing
            self._changed.notify_all()
        if not self.hanging.wait(timeout_s):
            return Retry("no answer in time")
        if isinstance(outcome, Delivered):
            self.taken.extend(names)
        return outcome

    def warm_up(self) -> None:
        """Always ready."""

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        return Delivered()

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True

    def become(self, standing: Outcome) -> None:
        with self._changed:
            self._standing = standing

    def wait_for_attempts(self, count: int, timeout_s: float = 10.0) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.attempts) >= count, timeout_s)


class Http:
    """A destination that posts the names as lines to a real socket."""

    def __init__(self, url: str, name: str = "remote") -> None:
        self.name = name
        self.shown = url
        self._transport = HttpTransport(Endpoint(f"{url}/lines"), {})

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        return self._transport.send(
            b"".join(record.data + b"\n" for record in records), min(10.0, timeout_s)
        )

    def warm_up(self) -> None:
        """Always ready."""

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        return self._transport.send(b"", min(10.0, timeout_s))

    def interrupt(self) -> None:
        self._transport.interrupt()

    def close(self) -> None:
        self._transport.close()


def lines(receiver: Receiver) -> list[str]:
    return [line for request in receiver.taken() for line in request.body.decode().splitlines()]


class Told:
    """The lines that are shown to a person."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


def options(told: Callable[[str], None] | None = None, **changes: float) -> SenderOptions:
    base = {
        "linger_s": 0.01,
        "backoff_s": 0.05,
        "longest_backoff_s": 0.2,
        "quiet_s": 60.0,
        **changes,
    }
    return SenderOptions(
        "/state/spool",
        "run `spanbus flush`",
        batch_bytes=int(base.get("batch_bytes", 1 << 20)),
        batch_records=int(base.get("batch_records", 1024)),
        linger_s=base["linger_s"],
        backoff_s=base["backoff_s"],
        longest_backoff_s=base["longest_backoff_s"],
        quiet_s=base["quiet_s"],
        prepare_every_s=base.get("prepare_every_s", 30.0),
        tell=told or Told(),
        taking_s=base.get("taking_s", 0.0),
        jitter=lambda: 1.0,
    )


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@contextmanager
def stopped(sender: Sender) -> Generator[Sender]:
    try:
        yield sender
    finally:
        sender.stop(1.0)


def test_everything_arrives_in_order() -> None:
    spool, destination = ListSpool(), Scripted()
    with stopped(Sender(spool, [destination], options(batch_records=7))) as sender:
        names = [str(number) for number in range(100)]
        for name in names:
            spool.put(name)
            sender.wake()
        assert sender.flush(5.0)
        assert destination.taken == names
        assert sender.statistics()["remote"].delivered == {Signal.TRACES: 100}


def test_batches_are_bounded_by_bytes_and_by_records() -> None:
    spool, destination = ListSpool(), Scripted()
    spool.put(*["x" * 100] * 10)
    with stopped(
        Sender(spool, [destination], options(batch_bytes=250, batch_records=1000))
    ) as sender:
        assert sender.flush(5.0)
    assert [len(names) for _, names in destination.attempts] == [2] * 5


def test_each_signal_has_its_own_request_and_acknowledgement() -> None:
    spool, destination = ListSpool(), Scripted(Delivered(), *[Retry("down")] * 1000)
    spool.put("a", "b")
    spool.put("m", signal=Signal.METRICS, count=12)
    spool.put("c")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert not sender.flush(0.2)
        assert destination.attempts[:2] == [(Signal.TRACES, ["a", "b"]), (Signal.METRICS, ["m"])]
        assert spool.pending("remote") == 2
        assert sender.statistics()["remote"].delivered == {Signal.TRACES: 2}


def test_alternating_signals_are_batched_by_signal() -> None:
    spool, destination = ListSpool(), Scripted()
    for number in range(10):
        spool.put(f"t{number}")
        spool.put(f"l{number}", signal=Signal.LOGS, count=2)
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
        assert [(signal, len(names)) for signal, names in destination.attempts] == [
            (Signal.TRACES, 10),
            (Signal.LOGS, 10),
        ]
        assert sender.statistics()["remote"].delivered == {Signal.TRACES: 10, Signal.LOGS: 20}


def test_no_thread_is_started_before_the_first_record() -> None:
    before = threading.active_count()
    sender = Sender(ListSpool(), [Scripted()], options())
    assert sender.flush(1.0)
    assert threading.active_count() == before
    assert sender.stop(1.0)


def test_a_batch_is_retried_until_it_is_delivered_once() -> None:
    spool, destination = ListSpool(), Scripted(Retry("down"), Retry("down"), Retry("down"))
    spool.put("a", "b")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
    assert destination.taken == ["a", "b"]
    assert len(destination.attempts) == 4


def test_backoff_grows_to_a_limit() -> None:
    spool, destination = ListSpool(), Scripted(*[Retry("down")] * 6)
    spool.put("a")
    with stopped(
        Sender(spool, [destination], options(backoff_s=0.05, longest_backoff_s=0.2))
    ) as sender:
        sender.wake()
        assert destination.wait_for_attempts(7)
    pauses = [
        later - sooner
        for sooner, later in zip(destination.times, destination.times[1:], strict=False)
    ]
    for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.2, 0.2, 0.2], strict=True):
        assert least <= pause + 0.01
    assert pauses[-1] < 2.0


def test_flush_does_not_wait_for_the_backoff() -> None:
    spool, destination = ListSpool(), Scripted(Retry("down"))
    spool.put("a")
    with stopped(
        Sender(spool, [destination], options(backoff_s=1000.0, longest_backoff_s=1000.0))
    ) as sender:
        sender.wake()
        assert destination.wait_for_attempts(1)
        eventually(lambda: sender.statistics()["remote"].outage is not None)
        assert sender.flush(5.0)


def test_flush_waits_as_long_as_retry_after_says() -> None:
    spool, destination = ListSpool(), Scripted(Retry("busy", after_s=0.4))
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
    assert destination.times[1] - destination.times[0] >= 0.4


def test_flush_returns_false_after_its_timeout() -> None:
    spool, destination = ListSpool(), Scripted(standing=Retry("down"))
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        start, slept = time.monotonic(), slept_s()
        assert not sender.flush(0.3)
        assert slept_s() - slept < 2
        assert time.monotonic() - start >= 0.3
    assert spool.pending("remote") == 1


def test_rejected_records_are_counted_and_not_sent_again() -> None:
    spool, destination = ListSpool(), Scripted(Delivered(2, "too old"))
    spool.put("a", "b", "c")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
        counts = sender.statistics()["remote"]
    assert (counts.delivered, counts.rejected) == ({Signal.TRACES: 1}, {Signal.TRACES: 2})
    assert len(destination.attempts) == 1


def test_at_most_the_sent_records_count_as_rejected() -> None:
    spool, destination = ListSpool(), Scripted(Delivered(1 << 60, ""))
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].rejected == {Signal.TRACES: 1}


def test_a_refused_batch_is_set_aside_once_and_the_rest_is_sent(tmp_path: Path) -> None:
    told = Told()
    spool, destination = (
        ListSpool(),
        Scripted(Refused("HTTP 400: no", b"the body"), Refused("HTTP 400: no", b"another")),
    )
    spool.put("a", "b", "c")
    folder = DeadLetters(tmp_path / "refused")
    with stopped(
        Sender(spool, [destination], options(told, batch_records=1), refused=folder)
    ) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].refused == {Signal.TRACES: 2}
    assert destination.taken == ["c"]
    files = sorted(folder.directory.iterdir())
    assert [file.read_bytes() for file in files] == [b"the body", b"another"]
    assert all(file.name.endswith(".traces.otlp") for file in files)
    assert len(told.lines) == 1
    assert "HTTP 400" in told.lines[0]
    assert str(folder.directory) in told.lines[0]


def test_a_batch_that_is_too_large_is_halved_until_it_fits() -> None:
    class Small(Scripted):
        def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
            if len(records) > 3:
                self.attempts.append((signal, []))
                return TooLarge("HTTP 413", b"?")
            return super().send(signal, records, timeout_s)

    spool, destination = ListSpool(), Small()
    names = [str(number) for number in range(20)]
    spool.put(*names)
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
    assert destination.taken == names


def test_one_record_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    spool, destination = ListSpool(), Scripted(standing=TooLarge("HTTP 413", b"huge"))
    spool.put("a")
    with stopped(
        Sender(spool, [destination], options(), refused=DeadLetters(tmp_path / "refused"))
    ) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].refused == {Signal.TRACES: 1}
    assert [file.read_bytes() for file in (tmp_path / "refused").iterdir()] == [b"huge"]


def test_a_request_that_breaks_the_server_is_given_up_and_the_next_one_is_sent() -> None:
    breaks = Retry("HTTP 500", attempts=3, body=b"?")
    spool, destination = ListSpool(), Scripted(breaks, breaks, breaks, Delivered())
    spool.put("poison", "good")
    with stopped(Sender(spool, [destination], options(batch_records=1))) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].refused == {Signal.TRACES: 1}
    assert destination.taken == ["good"]


def test_a_server_that_fails_always_loses_at_most_one_request() -> None:
    spool, destination = ListSpool(), Scripted(standing=Retry("HTTP 500", attempts=2, body=b"?"))
    spool.put("a", "b", "c")
    with stopped(
        Sender(spool, [destination], options(batch_records=1, longest_backoff_s=0.01))
    ) as sender:
        sender.wake()
        assert destination.wait_for_attempts(10)
        destination.become(Delivered())
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].refused == {Signal.TRACES: 1}
    assert destination.taken == ["b", "c"]


def test_a_destination_that_raises_is_retried() -> None:
    class Broken(Scripted):
        def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
            if not self.attempts:
                self.attempts.append((signal, []))
                raise RuntimeError("a bug")
            return super().send(signal, records, timeout_s)

    spool, destination = ListSpool(), Broken()
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        sender.wake()
        eventually(lambda: sender.statistics()["remote"].outage is not None)
        assert sender.statistics()["remote"].outage == "RuntimeError: a bug"


# --- two destinations -------------------------------------------------------------------------------------------------


def test_a_hanging_destination_does_not_delay_another() -> None:
    spool, remote, local = ListSpool(), Scripted(), Scripted(name="local")
    remote.hanging.clear()
    spool.put("a")
    with stopped(Sender(spool, [local, remote], options())) as sender:
        sender.wake()
        assert remote.wait_for_attempts(1)
        spool.put("b")
        sender.wake()
        assert local.wait_for_attempts(1)
        eventually(lambda: len(local.taken) == 2)
        assert remote.taken == []
        remote.hanging.set()
        assert sender.flush(5.0)
    assert remote.taken == local.taken == ["a", "b"]


# --- what a person sees -----------------------------------------------------------------------------------------------


def test_an_outage_is_reported_by_one_line() -> None:
    told = Told()
    spool, destination = ListSpool(), Scripted(standing=Retry("Connection refused"))
    spool.put("a")
    with stopped(Sender(spool, [destination], options(told, quiet_s=0.0))) as sender:
        sender.wake()
        assert destination.wait_for_attempts(4)
        destination.become(Delivered())
        assert sender.flush(5.0)
    assert told.lines == [
        (
            "spanbus: the remote destination does not take telemetry (Connection refused); 1 record waits in /state/spool so far and is sent when it does; "
            "after this program run `spanbus flush`"
        )
    ]


def test_a_short_outage_is_not_reported() -> None:
    told = Told()
    spool, destination = ListSpool(), Scripted(Retry("busy"))
    spool.put("a")
    with stopped(Sender(spool, [destination], options(told, quiet_s=60.0))) as sender:
        assert sender.flush(5.0)
    assert told.lines == []


def test_stop_reports_the_number_of_waiting_records() -> None:
    told = Told()
    spool, destination = ListSpool(), Scripted(standing=Retry("Connection refused"))
    spool.put("a", "b")
    assert not Sender(spool, [destination], options(told)).stop(1.0)
    assert told.lines == [
        "spanbus: the remote destination does not take telemetry (Connection refused); 2 records wait in /state/spool; run `spanbus flush`"
    ]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_stop_delivers_what_it_can() -> None:
    with Receiver() as receiver:
        spool = ListSpool()
        spool.put(*[str(number) for number in range(5000)])
        assert Sender(spool, [Http(receiver.url)], options()).stop(2.0)
        assert lines(receiver) == [str(number) for number in range(5000)]


def test_stop_at_a_closed_port_is_quick() -> None:
    with Receiver(listening=False) as receiver:
        spool, told = ListSpool(), Told()
        spool.put("a")
        start = slept_s()
        assert not Sender(spool, [Http(receiver.url)], options(told)).stop(5.0)
        assert slept_s() - start < 1.0
        assert len(told.lines) == 1


@pytest.mark.parametrize("how", ["hang", "deaf", "slow"])
def test_stop_keeps_its_timeout_without_an_answer(how: str) -> None:
    with Receiver() as receiver:
        receiver.answer(
            {"hang": Answer.hang(), "deaf": Answer(how="deaf"), "slow": Answer(delay_s=5.0)}[how]
        )
        spool, told = ListSpool(), Told()
        spool.put("a")
        start = slept_s()
        assert not Sender(spool, [Http(receiver.url)], options(told)).stop(0.25)
        assert slept_s() - start < 0.35
        assert spool.pending("remote") == 1
        assert len(told.lines) == 1
        assert "(no answer in time)" in told.lines[0]


def test_stop_keeps_its_timeout_at_a_black_hole() -> None:
    with black_hole() as url:
        spool = ListSpool()
        spool.put("a")
        start = slept_s()
        assert not Sender(spool, [Http(url)], options()).stop(0.25)
        assert slept_s() - start < 0.35


def test_stop_interrupts_a_hanging_request() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer.hang())
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options())
        sender.wake()
        assert receiver.wait_for(requests=1)
        before = [thread for thread in threading.enumerate() if thread.name == "spanbus-remote"]
        assert not sender.stop(0.2)
        for thread in before:
            thread.join(5)
            assert not thread.is_alive()
        assert spool.pending("remote") == 1


def test_stop_does_not_wait_for_retry_after() -> None:
    spool, destination = ListSpool(), Scripted(Retry("busy", after_s=60.0))
    spool.put("a")
    sender = Sender(spool, [destination], options())
    sender.wake()
    assert destination.wait_for_attempts(1)
    eventually(lambda: sender.statistics()["remote"].outage is not None)
    start = slept_s()
    assert not sender.stop(5.0)
    assert slept_s() - start < 1.0
    assert len(destination.attempts) == 1


def test_stop_sends_no_request_that_cannot_be_answered_in_time() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.15))
        spool = ListSpool()
        spool.put(*[str(number) for number in range(10)])
        sender = Sender(spool, [Http(receiver.url)], options(batch_records=1))
        sender.stop(0.5)
        assert receiver.wait_until(
            lambda seen: len(lines(seen)) == 10 - spool.pending("remote"), 2.0
        )
        assert spool.pending("remote") > 0


def test_stop_waits_longer_for_a_responsive_collector() -> None:
    with Receiver() as receiver:
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options())
        assert sender.flush(5.0)
        receiver.answer(Answer(delay_s=0.4))
        spool.put("b")
        sender.wake()
        assert receiver.wait_until(lambda seen: seen.connections_seen == 1)
        assert sender.stop(0.2)
        assert lines(receiver) == ["a", "b"]


def test_stop_waits_only_a_little_longer_for_a_collector_that_stopped_responding() -> None:
    with Receiver() as receiver:
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options())
        assert sender.flush(5.0)
        receiver.answer(Answer.hang())
        spool.put("b")
        start = slept_s()
        assert not sender.stop(0.2)
        assert slept_s() - start < 2.0


def test_other_programs_share_the_life_signs_of_the_collector(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.4))
        Liveness(tmp_path).note(receiver.url)
        spool = ListSpool()
        spool.put("a")
        assert Sender(
            spool, [Http(receiver.url)], options()._replace(life_signs=Liveness(tmp_path))
        ).stop(0.2)
        spool.put("b")
        assert not Sender(
            spool,
            [Http(receiver.url)],
            options()._replace(life_signs=Liveness(tmp_path / "other")),
        ).stop(0.2)


def test_life_signs_expire(tmp_path: Path) -> None:
    signs = Liveness(tmp_path)
    assert not signs.fresh("somewhere")
    signs.note("somewhere")
    assert signs.fresh("somewhere")
    assert not signs.fresh("elsewhere")
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time_ns() / 1e9 - 60, time.time_ns() / 1e9 - 60))
    assert not signs.fresh("somewhere")


def test_life_signs_need_no_directory(tmp_path: Path) -> None:
    signs = Liveness(tmp_path / "none")
    signs.note("somewhere")
    assert not signs.fresh("somewhere")


@pytest.mark.parametrize("how", ["hang", "deaf"])
def test_an_empty_request_is_sent_first_to_probe_the_collector(how: str) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer.hang() if how == "hang" else Answer(how="deaf"))
        spool = ListSpool()
        spool.put("a")
        assert not Sender(spool, [Http(receiver.url)], options()).stop(0.2)
        assert [request.body for request in receiver.requests] == ([b""] if how == "hang" else [])


def test_a_refused_empty_request_counts_as_responsive() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(400))
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options())
        assert sender.stop(2.0)
        assert lines(receiver) == ["a"]
        assert sender.statistics()["remote"].refused == {}


def test_after_a_failed_empty_request_records_are_sent() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer.reset())
        spool = ListSpool()
        spool.put("a")
        with stopped(Sender(spool, [Http(receiver.url)], options())) as sender:
            sender.wake()
            assert receiver.wait_until(lambda seen: lines(seen) == ["a"])
        assert [request.body for request in receiver.requests] == [b"", b"a\n"]


def test_in_a_ci_job_stop_continues_while_records_are_accepted() -> None:
    """The collector takes 0.1 s for each of 20 requests, and the exit limit is 0.2 s."""
    with Receiver() as receiver:
        spool = ListSpool()
        spool.put("00")
        sender = Sender(spool, [Http(receiver.url)], options(taking_s=60.0, batch_records=1))
        assert sender.flush(30.0)
        receiver.answer(Answer(delay_s=0.1))
        spool.put(*[f"{number:02d}" for number in range(1, 20)])
        sender.wake()
        assert sender.stop(0.2)
        assert lines(receiver) == [f"{number:02d}" for number in range(20)]


@pytest.mark.parametrize("outcome", [Retry("refused"), Retry("HTTP 503", heard=True)])
def test_in_a_ci_job_stop_does_not_wait_for_a_destination_that_refuses(outcome: Outcome) -> None:
    destination = Scripted(standing=outcome)
    spool = ListSpool()
    spool.put("a")
    sender = Sender(spool, [destination], options(taking_s=3_600.0))
    sender.start()
    assert not sender.stop(0.5)


def test_in_a_ci_job_stop_retries_a_busy_destination_that_accepted_records() -> None:
    """A briefly busy destination answers 503, with or without Retry-After."""
    busy = (Retry("HTTP 503", heard=True), Retry("HTTP 503", after_s=0.1, heard=True))
    destination = Scripted(Delivered(), *busy, *busy)
    spool = ListSpool()
    spool.put("a")
    sender = Sender(spool, [destination], options(taking_s=60.0))
    assert sender.flush(30.0)
    spool.put("b")
    assert sender.stop(0.05)
    assert (destination.taken, len(destination.attempts)) == (["a", "b"], 6)


@pytest.mark.parametrize(
    ("outcome", "taking_s"),
    [
        (Retry("refused"), 3_600.0),
        (Retry("HTTP 503", heard=True), 0.0),
        (Retry("HTTP 503", heard=True, after_s=300.0), 60.0),
    ],
)
def test_stop_does_not_retry_if_it_is_pointless_or_not_in_ci(
    outcome: Outcome, taking_s: float
) -> None:
    destination = Scripted(Delivered(), standing=outcome)
    spool = ListSpool()
    spool.put("a")
    sender = Sender(spool, [destination], options(taking_s=taking_s))
    assert sender.flush(30.0)
    spool.put("b")
    assert not sender.stop(0.05)
    assert len(destination.attempts) == 2


def test_in_a_ci_job_stop_does_not_wait_for_a_silent_destination() -> None:
    with Receiver() as receiver:
        receiver.answer(Answer.hang())
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options(taking_s=3_600.0))
        sender.start()
        assert not sender.stop(0.5)


def test_nothing_is_sent_after_stop() -> None:
    spool, destination = ListSpool(), Scripted()
    sender = Sender(spool, [destination], options())
    assert sender.stop(1.0)
    assert sender.stop(1.0)
    spool.put("a")
    sender.wake()
    assert not sender.flush(0.1)
    assert destination.attempts == []
    assert destination.closed


def test_prepare_runs_in_the_thread_before_reading() -> None:
    spool, destination = ListSpool(), Scripted()
    prepared: list[str] = []

    def prepare() -> None:
        prepared.append(threading.current_thread().name)
        spool.put("left over")

    with stopped(Sender(spool, [destination], options(), prepare=prepare)) as sender:
        sender.wake()
        assert destination.wait_for_attempts(1)
    assert prepared == ["spanbus-remote"]


def test_prepare_runs_again_after_a_while() -> None:
    spool, destination, twice = ListSpool(), Scripted(), threading.Event()
    calls: list[int] = []

    def prepare() -> None:
        calls.append(1)
        if len(calls) == 3:
            twice.set()

    with stopped(
        Sender(spool, [destination], options(prepare_every_s=0.02), prepare=prepare)
    ) as sender:
        sender.wake()
        assert twice.wait(5.0)


# --- a real collector -------------------------------------------------------------------------------------------------


def test_a_collector_that_recovers_gets_everything_once() -> None:
    with Receiver(listening=False) as receiver:
        spool = ListSpool()
        names = [str(number) for number in range(3000)]
        with stopped(Sender(spool, [Http(receiver.url)], options())) as sender:
            for name in names[:1500]:
                spool.put(name)
            sender.wake()
            eventually(lambda: sender.statistics()["remote"].outage is not None)
            receiver.up()
            for name in names[1500:]:
                spool.put(name)
            assert sender.flush(10.0)
        assert lines(receiver) == names


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503),
        Answer(429, retry_after_s=0.05),
        Answer.reset(),
        Answer(how="half", message="x" * 100),
    ],
)
def test_errors_in_between_lose_no_records(answer: Answer) -> None:
    with Receiver() as receiver:
        spool = ListSpool()
        names = [str(number) for number in range(50)]
        spool.put(*names)
        receiver.answer_next(Answer(), answer, Answer(), answer, answer)
        with stopped(Sender(spool, [Http(receiver.url)], options(batch_records=10))) as sender:
            assert sender.flush(10.0)
        assert lines(receiver) == names


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sends_its_own() -> None:
    with Receiver() as receiver:
        spool = ListSpool()
        spool.put("parent")
        sender = Sender(spool, [Http(receiver.url)], options())
        assert sender.flush(5.0)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sender.forked()
                spool.put("child")
                code = (
                    0
                    if sender.flush(5.0)
                    and sender.statistics()["remote"].delivered == {Signal.TRACES: 1}
                    else 2
                )
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        spool.put("parent again")
        assert sender.flush(5.0)
        sender.stop(1.0)
        assert lines(receiver) == ["parent", "child", "parent again"]


# --- any trouble in any order -----------------------------------------------------------------------------------------

outcomes = st.one_of(
    st.just(Delivered()),
    st.just(Retry("down")),
    st.just(Refused("HTTP 400", b"?")),
    st.just(TooLarge("HTTP 413", b"?")),
    st.just(Retry("HTTP 500", attempts=2, body=b"?")),
    st.just(Unwanted("switched_off")),
)


class Noted(Scripted):
    """A destination that records the outcome of each record."""

    def __init__(self, script: list[Outcome]) -> None:
        super().__init__(*script)
        self.fates: list[tuple[str, Outcome]] = []

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        outcome = super().send(signal, records, timeout_s)
        self.fates.extend((record.data.decode(), outcome) for record in records)
        return outcome


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(outcomes, max_size=12),
    st.lists(st.sampled_from(list(Signal)), min_size=1, max_size=20),
    st.integers(1, 8),
)
def test_every_record_has_one_outcome_and_the_counts_add_up(
    script: list[Outcome], signals: list[Signal], batch_records: int
) -> None:
    spool, destination = ListSpool(), Noted(script)
    for number, signal in enumerate(signals):
        spool.put(str(number), signal=signal)
    with stopped(
        Sender(
            spool,
            [destination],
            options(batch_records=batch_records, backoff_s=0.001, longest_backoff_s=0.002),
        )
    ) as sender:
        assert sender.flush(20.0)
        counts = sender.statistics()["remote"]
    delivered = [name for name, outcome in destination.fates if isinstance(outcome, Delivered)]
    unwanted = [name for name, outcome in destination.fates if isinstance(outcome, Unwanted)]
    assert len(set(delivered)) == len(delivered)
    assert sum(counts.delivered.values()) == len(delivered)
    assert sum(counts.unwanted.values()) == len(unwanted)
    assert len(delivered) + len(unwanted) + sum(counts.refused.values()) == len(signals)
    for signal in Signal:
        numbers = [int(name) for name in delivered if signals[int(name)] is signal]
        assert numbers == sorted(numbers)
