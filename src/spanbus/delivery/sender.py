"""Empties the spool: oldest first, one daemon thread per destination.

A destination has its own cursor in the spool and its own back-off, so that a collector that hangs does not hold up the
local store. What is sent is acknowledged when the destination has all of a batch: after a crash at most that batch is sent
again. So that no batch is in doubt when a short-lived program ends, its first request carries nothing: a collector that
accepts connections and never answers is found out before it was given anything. Nothing here is called by the program whose telemetry it is, but :meth:`Sender.wake`, which costs a comparison.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from spanbus.counted import counted
from spanbus.delivery.forking import undivided
from spanbus.delivery.lifesign import FRESH_S
from spanbus.delivery.outcomes import Delivered, Outcome, Refused, Retry, TooLarge, Unwanted
from spanbus.delivery.signals import Signal

if TYPE_CHECKING:
    from spanbus.delivery.lifesign import LifeSigns
    from spanbus.delivery.refusals import RefusedFolder
    from spanbus.delivery.spool import Batch, Stored

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE_S = 0.05
_LONGEST_WISH_S = 600.0  # a Retry-After of a day is a mistake
_JOIN_S = 0.02
_YOUNG_S = 2.0
_FEW_CHANGES = 4
_NO_ANSWER = "no answer in time"
_BROKEN_PAUSE_S = 5.0
_NOTHING_READ_PAUSE_S = 0.5


class Source(Protocol):
    """The part of a spool that is read."""

    def read(self, destination: str, *, max_bytes: int, max_records: int) -> Batch | None: ...

    def acknowledge(self, destination: str, batch: Batch) -> None: ...

    def pending(self, destination: str) -> int: ...

    def pending_in_memory(self, destination: str) -> int: ...


class Destination(Protocol):
    """Where records go. ``send`` is called by one thread, ``interrupt`` by others."""

    @property
    def name(self) -> str:
        """The name of its cursor in the spool."""
        ...

    @property
    def shown(self) -> str:
        """What a person calls it, such as its URL."""
        ...

    def warm_up(self) -> None:
        """Called once in the sending thread, before there is something to send: the time for slow imports."""
        ...

    def meet(self, signal: Signal, timeout_s: float) -> Outcome:
        """See whether it answers, with a request that carries nothing."""
        ...

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome: ...

    def interrupt(self) -> None:
        """End the attempt that is under way, if it can be ended."""
        ...

    def close(self) -> None: ...


_told_on_stderr: set[tuple[str, str]] = set()
"""Outages that this process has told, by destination and place of the records: the next runtime meets the same one."""


def to_stderr(line: str) -> None:
    """One line for the person who started the program, if there is somewhere to write it."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # no stderr, or a closed one


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How it sends. ``kept_in`` completes the sentence "… records wait in", ``remedy`` says what to do."""

    kept_in: str = "memory"
    remedy: str = "they are lost when the program ends"
    batch_bytes: int = 1 << 20
    batch_records: int = 1024
    linger_s: float = 0.2
    """How long the first record of a batch waits for others."""
    attempt_s: float = 30.0
    """The longest that one attempt may take; a destination may have a shorter limit of its own."""
    backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    quiet_s: float = 5.0
    """How long an outage lasts before it is told."""
    prepare_every_s: float = 30.0
    life_signs: LifeSigns | None = None
    """What other programs know of the destinations."""
    shortest_grace_s: float = 1.0
    longest_grace_s: float = 2.0
    """How much longer than its limit :meth:`Sender.stop` waits for an answer that is under way from a destination that lives."""
    tell: Callable[[str], None] = to_stderr
    jitter: Callable[[], float] = random.random


class LaneStatistics(NamedTuple):
    """Of one destination: records by signal (``unwanted`` by reason too), and since when it fails (Unix time), None while it answers."""

    delivered: Mapping[Signal, int]
    rejected: Mapping[Signal, int]
    refused: Mapping[Signal, int]
    unwanted: Mapping[tuple[Signal, str], int]
    outage: str | None
    outage_since_ns: int | None


class Sender:
    """Threads start when there is something to do. All methods may be called from any thread.

    ``prepare`` runs in the first destination's thread before it reads, and every ``prepare_every_s``: the place to take over
    what dead processes left.
    """

    def __init__(
        self, source: Source, destinations: Sequence[Destination], options: SenderOptions | None = None, *,
        refused: RefusedFolder | None = None, prepare: Callable[[], None] | None = None,
    ) -> None:
        options = options or SenderOptions()
        self._refused = refused
        self._lanes = [
            _Lane(source, destination, options, refused, self._prepared(prepare) if position == 0 and prepare is not None else None)
            for position, destination in enumerate(destinations)
        ]

    def _prepared(self, prepare: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            prepare()
            for lane in self._lanes[1:]:
                lane.wake()

        return run

    def start(self) -> None:
        """Prepare, and send what waits."""
        for lane in self._lanes:
            lane.wake()

    def wake(self) -> None:
        """Something was put."""
        for lane in self._lanes:
            if lane.sleeping:
                lane.wake()

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when nothing waits any more, False when it took longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes:
            lane.hurry()
        return all([lane.wait_empty(deadline) for lane in self._lanes])

    def stop(self, deadline_s: float) -> bool:
        """Send what can be sent within ``deadline_s``, then let go: True when nothing is left. May be called twice.

        No request is begun that is not likely to be answered by then. One that is under way is waited for a little longer
        where the destination is known to answer, for the next program would send the same again.
        """
        return self.stop_all([self], deadline_s)

    @staticmethod
    def stop_all(senders: Sequence[Sender], deadline_s: float) -> bool:
        """Stop several at once within one limit."""
        deadline = time.monotonic() + deadline_s
        lanes = [lane for sender in senders for lane in sender._lanes]
        for lane in lanes:
            lane.last_call(deadline)
        return all([lane.end(deadline) for lane in lanes])

    def forked(self) -> None:
        """In a child process: threads, locks and connections are the parent's."""
        if self._refused is not None:
            self._refused.forked()
        for lane in self._lanes:
            lane.reset()

    def statistics(self) -> Mapping[str, LaneStatistics]:
        """By destination."""
        return {lane.destination.name: lane.statistics() for lane in self._lanes}


@dataclass(slots=True)
class _Chunk:
    """Records of one signal that go in one request."""

    signal: Signal
    records: Sequence[Stored]
    failures: int = 0


@dataclass(slots=True)
class _Outage:
    reason: str
    since_ns: int
    since: float
    told: bool = False


@dataclass(slots=True)
class _Work:
    """A batch that was read, and what of it is still to be sent."""

    batch: Batch
    chunks: deque[_Chunk] = field(default_factory=deque[_Chunk])


class _Lane:
    """One destination's thread with its cursor, back-off and counts."""

    def __init__(
        self, source: Source, destination: Destination, options: SenderOptions, refused: RefusedFolder | None, prepare: Callable[[], None] | None
    ) -> None:
        self.destination = destination
        self._source = source
        self._options = options
        self._refused = refused
        self._prepare = prepare
        self.reset()

    def reset(self) -> None:
        self.sleeping = True
        self._changed = threading.Condition(threading.Lock())
        self._spool_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hurried = False
        self._deadline: float | None = None
        self._let_go = False
        self._gave_up = False
        self._interrupted = False
        self._ended = False
        self._work: _Work | None = None
        self._failures = 0
        self._due = 0.0
        self._not_before = 0.0
        self._prepare_due = 0.0
        self._answer_s = 0.0
        self._answered = False
        self._answered_at = 0.0
        self._met = False
        self._born = time.monotonic()
        self._under_way_since: float | None = None
        self._in_doubt = False
        """The destination may have something that is not acknowledged yet."""
        self._outage: _Outage | None = None
        self._told_refusal = False
        self._told_rejection = False
        self._told_bug = False
        self._gave_one_up = False
        self._delivered: dict[Signal, int] = {}
        self._rejected: dict[Signal, int] = {}
        self._refused_records: dict[Signal, int] = {}
        self._unwanted: dict[tuple[Signal, str], int] = {}

    # --- called from outside ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        with self._changed:
            self.sleeping = False
            if self._thread is None and not self._ended:
                self._start()
                self.sleeping = self._thread is None
            self._changed.notify_all()

    def hurry(self) -> None:
        """No lingering, and no back-off but the one that the destination asked for."""
        with self._changed:
            if self._ended or (self._thread is None and self._empty()):
                return
            self.sleeping = False
            self._hurried = True
            self._due = self._not_before
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def wait_empty(self, deadline: float) -> bool:
        with self._changed:
            while not self._empty():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._ended or self._thread is None:
                    return False
                self._changed.wait(left_s)
            return True

    def last_call(self, deadline: float) -> None:
        with self._changed:
            if self._ended or self._deadline is not None:
                return
            self._deadline = deadline
            self.sleeping = False
            self._due = self._not_before
            if self._thread is None and not self._empty():
                self._start()
            self._changed.notify_all()

    def end(self, deadline: float) -> bool:
        with self._changed:
            if self._ended:
                return self._empty()
            extended = False
            limit_s = deadline - time.monotonic()
            while self._thread is not None and not self._gave_up:
                left_s = deadline - _JOIN_S - time.monotonic()
                if left_s <= 0 or self._meets_in_vain(limit_s):
                    if extended or not self._in_doubt or not self._lives():
                        break
                    extended = True
                    deadline += self._grace_s()
                    continue
                self._changed.wait(left_s)
            thread = self._thread
            hung = self._under_way_since is not None
        if thread is not None and thread is not threading.current_thread():
            self._interrupted = True
            self.destination.interrupt()
            thread.join(max(0.0, deadline - time.monotonic()))  # an answer that just came is still acknowledged
        taken = self._spool_lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        self._let_go = True
        if taken:
            self._spool_lock.release()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            empty = self._empty()
        if not empty:
            if self._outage is None and hung and not self._answered:
                self._outage = _Outage(_NO_ANSWER, time.time_ns(), time.monotonic())
            self._tell_outage(at_the_end=True)
        if thread is None or not thread.is_alive():
            self.destination.close()
        return empty

    def _meets_in_vain(self, limit_s: float) -> bool:
        """It was asked whether it lives longer ago than is left to wait."""
        since = self._under_way_since
        return since is not None and not self._in_doubt and not self._lives() and time.monotonic() - since > limit_s

    def _lives(self) -> bool:
        if self._answered and time.monotonic() - self._answered_at < FRESH_S:
            return True
        signs = self._options.life_signs
        return signs is not None and signs.fresh(self.destination.shown)

    def _grace_s(self) -> float:
        return min(self._options.longest_grace_s, max(self._options.shortest_grace_s, 3 * self._answer_s))

    def statistics(self) -> LaneStatistics:
        with self._changed:
            outage = self._outage
            return LaneStatistics(
                dict(self._delivered), dict(self._rejected), dict(self._refused_records), dict(self._unwanted),
                None if outage is None else outage.reason, None if outage is None else outage.since_ns,
            )

    def _empty(self) -> bool:
        return self._work is None and self._source.pending(self.destination.name) == 0

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"spanbus-{self.destination.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter ends: the records stay where they are
            return
        self._thread = thread

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._warm_up()
            while self._wait():
                self._prepare_if_due()
                try:
                    self._step()
                except Exception as error:  # the wall around an export
                    logger.log(
                        logging.DEBUG if self._told_bug else logging.WARNING, "sending to %s failed", self.destination.shown, exc_info=True
                    )
                    self._told_bug = True
                    self._failed(Retry(f"{type(error).__name__}: {error}", _BROKEN_PAUSE_S))
        finally:
            with self._changed:
                self._thread = None
                self.sleeping = True
                self._changed.notify_all()

    def _warm_up(self) -> None:
        try:
            with undivided():
                self.destination.warm_up()
        except Exception:  # the wall around an export; the first attempt will say what is wrong
            logger.debug("%s cannot be prepared", self.destination.shown, exc_info=True)

    def _wait(self) -> bool:
        """Until there is something to do; False when the thread shall end."""
        lingering_until: float | None = None
        with self._changed:
            while True:
                now = time.monotonic()
                if self._let_go or self._ended:
                    return False
                if self._deadline is not None and (self._gave_up or self._empty() or not (self._in_doubt or self._worth_starting(now))):
                    self._gave_up = True
                    return False
                due = self._due
                if self._work is None and self._source.pending(self.destination.name) == 0:
                    if self._prepare is not None and now >= self._prepare_due:
                        return True
                    self.sleeping = True
                    self._hurried = False
                    if self._source.pending(self.destination.name) == 0:  # again: whoever put in between saw us awake
                        self._changed.notify_all()
                        self._changed.wait(None if self._prepare is None else self._prepare_due - now)
                    self.sleeping = False
                    lingering_until = None
                    continue
                if self._lingers():
                    if lingering_until is None:
                        lingering_until = now + self._options.linger_s
                    due = max(due, lingering_until)
                if now >= due:
                    return True
                self._changed.wait(due - now)

    def _lingers(self) -> bool:
        if self._work is not None or self._hurried or self._deadline is not None or self._failures:
            return False
        return self._source.pending(self.destination.name) < self._options.batch_records

    def _worth_starting(self, now: float) -> bool:
        """A request that will not be answered before the end would be sent a second time by the next process."""
        return self._deadline is not None and now + 1.2 * self._answer_s < self._deadline - _JOIN_S and now >= self._not_before

    def _prepare_if_due(self) -> None:
        if self._prepare is None or time.monotonic() < self._prepare_due or self._deadline is not None:
            return
        try:
            with undivided():
                self._prepare()
        except Exception:  # the same wall
            logger.log(logging.DEBUG if self._told_bug else logging.WARNING, "taking over what other processes left failed", exc_info=True)
            self._told_bug = True
        self._prepare_due = time.monotonic() + self._options.prepare_every_s

    def _step(self) -> None:
        """One request."""
        work = self._work or self._read()
        if work is None:
            if self._source.pending(self.destination.name):
                self._due = time.monotonic() + _NOTHING_READ_PAUSE_S
            return
        chunk = work.chunks[0]
        if not self._met:
            self._met = True
            may_end_soon = self._deadline is not None or (not self._hurried and time.monotonic() - self._born < _YOUNG_S)
            if may_end_soon and not self._lives() and not self._meet(chunk.signal):
                return
        now = time.monotonic()
        self._in_doubt = True
        with self._under_way():
            outcome = self.destination.send(chunk.signal, chunk.records, self._limit_s(now))
        match outcome:
            case Delivered():
                self._heard(time.monotonic() - now)
                self._gave_one_up = False
                self._taken(work, chunk, outcome)
            case Retry():
                chunk.failures += 1
                if outcome.attempts is not None and chunk.failures >= outcome.attempts and not self._gave_one_up:
                    self._gave_one_up = True  # only the first: when the next fails like it, it was not the fault of what was sent
                    self._never(work, chunk, outcome.reason, outcome.body)
                else:
                    self._failed(outcome)
            case Refused():
                self._heard(time.monotonic() - now)
                self._works_again()
                self._never(work, chunk, outcome.reason, outcome.body)
            case TooLarge():
                self._split(work, chunk, outcome)
            case Unwanted():
                with self._changed:
                    key = chunk.signal, outcome.reason
                    if count := _count(chunk.records):
                        self._unwanted[key] = self._unwanted.get(key, 0) + count
                self._done(work, chunk)

    def _meet(self, signal: Signal) -> bool:
        """Whether to go on. When this fails the next attempt carries something: some servers dislike what is empty."""
        now = time.monotonic()
        with self._under_way():
            outcome = self.destination.meet(signal, self._limit_s(now))
        if isinstance(outcome, Retry):
            self._failed(outcome)
            return False
        self._heard(time.monotonic() - now)
        return self._deadline is None or self._worth_starting(time.monotonic())

    @contextmanager
    def _under_way(self) -> Generator[None]:
        self._under_way_since = time.monotonic()
        try:
            yield
        finally:
            self._under_way_since = None

    def _limit_s(self, now: float) -> float:
        if self._deadline is None:
            return self._options.attempt_s
        return min(self._options.attempt_s, max(0.01, self._deadline + self._options.longest_grace_s - now))

    def _heard(self, after_s: float) -> None:
        self._answer_s = max(after_s, self._answer_s * 0.7)
        self._answered = True
        self._answered_at = time.monotonic()
        if self._options.life_signs is not None:
            self._options.life_signs.note(self.destination.shown)

    def _read(self) -> _Work | None:
        with self._spool_lock:
            if self._let_go:
                return None
            batch = self._source.read(self.destination.name, max_bytes=self._options.batch_bytes, max_records=self._options.batch_records)
            if batch is not None and (first := _first_run(batch.records)) < len(batch.records):
                batch = self._source.read(self.destination.name, max_bytes=self._options.batch_bytes, max_records=first)
        if batch is None:
            return None
        by_signal: dict[Signal, list[Stored]] = {}
        for record in batch.records:
            by_signal.setdefault(record.signal, []).append(record)
        work = _Work(batch, deque(_Chunk(signal, records) for signal, records in by_signal.items()))
        if not work.chunks:
            self._acknowledge(batch)
            return None
        with self._changed:
            self._work = work
        return work

    def _taken(self, work: _Work, chunk: _Chunk, outcome: Delivered) -> None:
        count = _count(chunk.records)
        rejected = min(count, outcome.rejected)
        with self._changed:
            _add(self._delivered, chunk.signal, count - rejected)
            _add(self._rejected, chunk.signal, rejected)
        if outcome.rejected or outcome.message:
            level = logging.DEBUG if self._told_rejection else logging.WARNING
            self._told_rejection = True
            logger.log(level, "%s rejected %d of %d %s: %s", self.destination.shown, rejected, count, chunk.signal, outcome.message)
        self._works_again()
        self._done(work, chunk)

    def _never(self, work: _Work, chunk: _Chunk, reason: str, body: bytes) -> None:
        """Set aside: sending it again cannot help."""
        count = _count(chunk.records)
        with self._changed:
            _add(self._refused_records, chunk.signal, count)
        path = self._refused.keep(chunk.signal, body) if self._refused is not None else None
        logger.debug("%s refused %d %s for good: %s", self.destination.shown, count, chunk.signal, reason)
        if not self._told_refusal:
            self._told_refusal = True
            kept = f"is kept in {path.parent}" if path is not None else "is dropped and counted"
            self._options.tell(f"spanbus: {self.destination.shown} refuses telemetry ({reason}); what it refuses {kept}, see `spanbus status`")
        self._done(work, chunk)

    def _split(self, work: _Work, chunk: _Chunk, outcome: TooLarge) -> None:
        middle = len(chunk.records) // 2
        self._heard(0.0)
        self._works_again()
        if middle == 0:
            self._never(work, chunk, outcome.reason, outcome.body)
            return
        work.chunks.popleft()
        work.chunks.extendleft((_Chunk(chunk.signal, chunk.records[middle:]), _Chunk(chunk.signal, chunk.records[:middle])))

    def _done(self, work: _Work, chunk: _Chunk) -> None:
        work.chunks.remove(chunk)
        if not work.chunks:
            self._acknowledge(work.batch)
            with self._changed:
                self._work = None
                self._changed.notify_all()

    def _acknowledge(self, batch: Batch) -> None:
        with self._spool_lock:
            if not self._let_go:
                self._source.acknowledge(self.destination.name, batch)
        self._in_doubt = False

    def _failed(self, outcome: Retry) -> None:
        """Not now: the longer it lasts, the longer the pauses (exponential with full jitter)."""
        options = self._options
        now = time.monotonic()
        pause_s = min(options.longest_backoff_s, options.backoff_s * 2 ** min(self._failures, 16)) * options.jitter()
        wish_s = min(outcome.after_s or 0.0, _LONGEST_WISH_S)
        with self._changed:
            self._in_doubt = False
            self._failures += 1
            self._answered = outcome.heard
            if outcome.heard:
                self._answered_at = now
            self._not_before = now + wish_s
            self._due = now + max(_SHORTEST_PAUSE_S, pause_s, wish_s)
            reason = _NO_ANSWER if self._interrupted else outcome.reason
            if self._outage is None:
                self._outage = _Outage(reason, time.time_ns(), now)
            self._outage.reason = reason
            if self._deadline is not None:
                self._gave_up = True
            self._changed.notify_all()
        logger.debug("%s: %s", self.destination.shown, outcome.reason)
        if now - self._outage.since >= options.quiet_s and self._deadline is None:
            self._tell_outage()

    def _works_again(self) -> None:
        with self._changed:
            self._failures = 0
            self._due = 0.0
            outage, self._outage = self._outage, None
        _told_on_stderr.discard((self.destination.shown, self._options.kept_in))
        if outage is not None and outage.told:
            logger.info("%s takes telemetry again", self.destination.shown)

    def _tell_outage(self, *, at_the_end: bool = False) -> None:
        outage = self._outage
        if outage is None or outage.told:
            return
        outage.told = True
        if self._options.tell is to_stderr:
            key = self.destination.shown, self._options.kept_in
            if key in _told_on_stderr:
                return
            _told_on_stderr.add(key)
        waiting, in_memory = self._source.pending(self.destination.name), self._source.pending_in_memory(self.destination.name)
        said: list[str] = []
        if waiting > in_memory or not waiting:
            are = "is" if waiting - in_memory == 1 else "are"
            until = ";" if at_the_end else f" so far and {are} sent when it does; after this program"
            said.append(f"{counted(waiting - in_memory, 'record waits', 'records wait')} in {self._options.kept_in}{until} {self._options.remedy}")
        if in_memory:
            lost = counted(in_memory, "record that was only in memory is lost", "records that were only in memory are lost")
            said.append(lost if at_the_end else counted(in_memory, "record waits in memory alone; it is", "records wait in memory alone; they are") + " lost when the program ends")
        self._options.tell(f"spanbus: {self.destination.shown} does not take telemetry ({outage.reason}); {'; '.join(said)}")


def _first_run(records: Sequence[Stored]) -> int:
    """How many records to take at once: those of the first signal, acknowledged by themselves, unless signals change all the time."""
    changes = [at for at in range(1, len(records)) if records[at].signal is not records[at - 1].signal]
    return changes[0] if 0 < len(changes) <= _FEW_CHANGES else len(records)


def _count(records: Sequence[Stored]) -> int:
    return sum(record.count for record in records)


def _add(counts: dict[Signal, int], signal: Signal, count: int) -> None:
    if count:
        counts[signal] = counts.get(signal, 0) + count
