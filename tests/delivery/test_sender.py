"""The sender empties a spool into destinations, and keeps what they do not take."""

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
    """Records in a list, with a cursor per destination: as little as the sender needs."""

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
    """A destination that answers as it is told: the next outcomes, then the standing one."""

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
    """Names as a body of lines, to a real socket."""

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
    """The lines that a person would see."""

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


def test_each_signal_has_its_own_request_and_is_acknowledged_by_itself() -> None:
    spool, destination = ListSpool(), Scripted(Delivered(), *[Retry("down")] * 1000)
    spool.put("a", "b")
    spool.put("m", signal=Signal.METRICS, count=12)
    spool.put("c")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert not sender.flush(0.2)
        assert destination.attempts[:2] == [(Signal.TRACES, ["a", "b"]), (Signal.METRICS, ["m"])]
        assert spool.pending("remote") == 2
        assert sender.statistics()["remote"].delivered == {Signal.TRACES: 2}


def test_signals_that_take_turns_share_a_batch() -> None:
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


def test_no_thread_before_there_is_something() -> None:
    before = threading.active_count()
    sender = Sender(ListSpool(), [Scripted()], options())
    assert sender.flush(1.0)
    assert threading.active_count() == before
    assert sender.stop(1.0)


def test_retries_until_it_works_and_sends_nothing_twice() -> None:
    spool, destination = ListSpool(), Scripted(Retry("down"), Retry("down"), Retry("down"))
    spool.put("a", "b")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
    assert destination.taken == ["a", "b"]
    assert len(destination.attempts) == 4


def test_pauses_grow_to_a_limit() -> None:
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


def test_flush_does_not_wait_for_the_back_off() -> None:
    spool, destination = ListSpool(), Scripted(Retry("down"))
    spool.put("a")
    with stopped(
        Sender(spool, [destination], options(backoff_s=1000.0, longest_backoff_s=1000.0))
    ) as sender:
        sender.wake()
        assert destination.wait_for_attempts(1)
        eventually(lambda: sender.statistics()["remote"].outage is not None)
        assert sender.flush(5.0)


def test_flush_waits_for_what_the_destination_asked_for() -> None:
    spool, destination = ListSpool(), Scripted(Retry("busy", after_s=0.4))
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
    assert destination.times[1] - destination.times[0] >= 0.4


def test_flush_says_when_it_took_too_long() -> None:
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


def test_more_rejected_than_sent_counts_what_was_sent() -> None:
    spool, destination = ListSpool(), Scripted(Delivered(1 << 60, ""))
    spool.put("a")
    with stopped(Sender(spool, [destination], options())) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].rejected == {Signal.TRACES: 1}


def test_refused_is_set_aside_once_and_the_rest_goes_on(tmp_path: Path) -> None:
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


def test_too_large_is_halved_until_it_fits() -> None:
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


def test_a_request_that_breaks_the_server_is_given_up_and_the_next_is_not_the_victim() -> None:
    breaks = Retry("HTTP 500", attempts=3, body=b"?")
    spool, destination = ListSpool(), Scripted(breaks, breaks, breaks, Delivered())
    spool.put("poison", "good")
    with stopped(Sender(spool, [destination], options(batch_records=1))) as sender:
        assert sender.flush(5.0)
        assert sender.statistics()["remote"].refused == {Signal.TRACES: 1}
    assert destination.taken == ["good"]


def test_a_server_that_fails_at_everything_costs_one_request_at_most() -> None:
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


def test_a_destination_that_raises_is_tried_again() -> None:
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


def test_a_hanging_destination_does_not_hold_up_the_other() -> None:
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


def test_one_line_per_outage_and_no_more_when_it_is_over() -> None:
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


def test_a_short_outage_is_not_told() -> None:
    told = Told()
    spool, destination = ListSpool(), Scripted(Retry("busy"))
    spool.put("a")
    with stopped(Sender(spool, [destination], options(told, quiet_s=60.0))) as sender:
        assert sender.flush(5.0)
    assert told.lines == []


def test_the_end_tells_what_waits() -> None:
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
def test_stop_takes_no_longer_than_it_may_when_no_answer_comes(how: str) -> None:
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


def test_stop_takes_no_longer_than_it_may_at_a_black_hole() -> None:
    with black_hole() as url:
        spool = ListSpool()
        spool.put("a")
        start = slept_s()
        assert not Sender(spool, [Http(url)], options()).stop(0.25)
        assert slept_s() - start < 0.35


def test_stop_interrupts_what_hangs_already() -> None:
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


def test_stop_does_not_wait_for_a_pause_that_the_destination_asked_for() -> None:
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


def test_stop_begins_no_request_that_will_not_be_answered_in_time() -> None:
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


def test_stop_waits_a_little_longer_for_a_collector_that_lives() -> None:
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


def test_stop_waits_only_a_little_longer_for_a_collector_that_lived() -> None:
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


def test_another_program_knows_that_the_collector_lives(tmp_path: Path) -> None:
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


def test_life_signs_grow_old(tmp_path: Path) -> None:
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
def test_a_collector_that_never_answers_is_found_out_before_it_was_given_anything(how: str) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer.hang() if how == "hang" else Answer(how="deaf"))
        spool = ListSpool()
        spool.put("a")
        assert not Sender(spool, [Http(receiver.url)], options()).stop(0.2)
        assert [request.body for request in receiver.requests] == ([b""] if how == "hang" else [])


def test_an_empty_request_that_is_refused_is_an_answer() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer(400))
        spool = ListSpool()
        spool.put("a")
        sender = Sender(spool, [Http(receiver.url)], options())
        assert sender.stop(2.0)
        assert lines(receiver) == ["a"]
        assert sender.statistics()["remote"].refused == {}


def test_a_server_that_dislikes_what_is_empty_gets_something_at_the_second_attempt() -> None:
    with Receiver() as receiver:
        receiver.answer_next(Answer.reset())
        spool = ListSpool()
        spool.put("a")
        with stopped(Sender(spool, [Http(receiver.url)], options())) as sender:
            sender.wake()
            assert receiver.wait_until(lambda seen: lines(seen) == ["a"])
        assert [request.body for request in receiver.requests] == [b"", b"a\n"]


def test_in_a_ci_job_stop_goes_on_while_the_destination_is_taking_records() -> None:
    """A collector that takes 0.1 s for each of 20 requests, and an exit limit of 0.2 s."""
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
def test_in_a_ci_job_stop_waits_no_longer_for_a_destination_that_refuses(outcome: Outcome) -> None:
    destination = Scripted(standing=outcome)
    spool = ListSpool()
    spool.put("a")
    sender = Sender(spool, [destination], options(taking_s=3_600.0))
    sender.start()
    assert not sender.stop(0.5)


def test_in_a_ci_job_stop_tries_again_where_a_destination_that_took_records_asks_for_it() -> None:
    """One that is busy for a moment says 503, also with the time after which it wants to be asked."""
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
def test_stop_tries_no_more_where_it_would_be_in_vain_or_no_ci_job(
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


def test_in_a_ci_job_stop_waits_no_longer_for_a_destination_that_is_silent() -> None:
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


def test_a_collector_that_comes_back_gets_everything_once() -> None:
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
def test_trouble_in_between_loses_nothing(answer: Answer) -> None:
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
    """Remembers what became of each record."""

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
def test_every_record_has_one_fate_and_the_counts_add_up(
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
