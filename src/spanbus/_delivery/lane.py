"""Lane: the sending thread of one destination, with its back-off and counts.

The first request of a short-lived program is an empty probe. It detects a collector that accepts connections and never answers,
so that no batch is in doubt when the program ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from spanbus._delivery.attempt import Attempt
from spanbus._delivery.backoff import Backoff
from spanbus._delivery.fork_guard import fork_guard
from spanbus._delivery.lifecycle import Lifecycle
from spanbus._delivery.outage_notice import OutageNotice, first_report, forget, outage_notice
from spanbus._delivery.outcomes import Delivered, Refused, Retry, TooLarge, Unwanted
from spanbus._delivery.pulse import Pulse
from spanbus._delivery.sender_options import (
    Destination,
    LaneStatistics,
    SenderOptions,
    Source,
    to_stderr,
)
from spanbus._delivery.work import Chunk, Tally, Work, first_run
from spanbus._loggers import DEBUG, INFO, WARNING, Logger
from spanbus._otlp.signals import Signal

if TYPE_CHECKING:
    from spanbus._delivery.batches import Batch
    from spanbus._delivery.dead_letters import DeadLetters

logger = Logger(__name__)

_JOIN_S: Final = 0.02
_YOUNG_S: Final = 2.0
_NO_ANSWER: Final = "no answer in time"
_BROKEN_PAUSE_S: Final = 5.0
_NOTHING_READ_PAUSE_S: Final = 0.5


class Lane:
    """Delivery to one destination. The public methods are thread-safe."""

    def __init__(
        self,
        source: Source,
        destination: Destination,
        options: SenderOptions,
        refused: DeadLetters | None,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.destination = destination
        self._source = source
        self._options = options
        self._refused = refused
        self._prepare = prepare
        self.reset()

    def reset(self) -> None:
        options = self._options
        self.sleeping = True
        self._changed = threading.Condition(threading.Lock())
        self._spool_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._life = Lifecycle.SENDING
        self._deadline = 0.0
        """Deadline of a closing lane."""
        self._closing_since = 0.0
        self._flush_requested = False
        self._work: Work | None = None
        self._backoff = Backoff(options.backoff_s, options.longest_backoff_s, options.jitter)
        self._prepare_due = 0.0
        self._pulse = Pulse(self.destination.shown, options.life_signs)
        self._probed = False
        self._warm = threading.Event()
        self._born = time.monotonic()
        self._attempt = Attempt()
        self._outage = OutageNotice()
        self._logged: set[str] = set()
        self._set_one_aside = False
        self._tally = Tally()

    # --- called from outside ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        with self._changed:
            self.sleeping = False
            if self._thread is None and self._life < Lifecycle.ENDED:
                self._start()
                self.sleeping = self._thread is None
            self._changed.notify_all()

    def warm(self, deadline: float) -> None:
        """Wait until the thread, if there is one, has done its imports."""
        if self._thread is not None:
            self._warm.wait(max(0.0, deadline - time.monotonic()))

    def flush_now(self) -> None:
        """Send without linger and back-off, but respect a delay that the destination asked for."""
        with self._changed:
            if self._life is Lifecycle.ENDED or (self._thread is None and self._empty()):
                return
            self.sleeping = False
            self._flush_requested = True
            self._backoff.skip()
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def wait_empty(self, deadline: float) -> bool:
        with self._changed:
            while not self._empty():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._life is Lifecycle.ENDED or self._thread is None:
                    return False
                self._changed.wait(left_s)
            return True

    def begin_shutdown(self, deadline: float) -> None:
        """Begin the shutdown: start only requests that are likely to be answered before the deadline."""
        with self._changed:
            if self._life >= Lifecycle.CLOSING:
                return
            self._life, self._deadline = Lifecycle.CLOSING, deadline
            self._closing_since = time.monotonic()
            self.sleeping = False
            self._backoff.skip()
            if self._thread is None and not self._empty():
                self._start()
            self._changed.notify_all()

    def end(self, deadline: float) -> bool:
        """Wait until the deadline, or longer while the destination takes records; True when nothing is left."""
        with self._changed:
            if self._life is Lifecycle.ENDED:
                return self._empty()
            graced = False
            limit_s = deadline - time.monotonic()
            while self._thread is not None and self._life < Lifecycle.GAVE_UP:
                deadline = max(deadline, self._end_by())
                left_s = deadline - _JOIN_S - time.monotonic()
                if left_s <= 0 or self._probe_overdue(limit_s):
                    if graced or not self._attempt.in_doubt or not self._pulse.lives():
                        break
                    graced = True
                    deadline += self._grace_s()
                    continue
                self._changed.wait(left_s)
            thread = self._thread
            hung = self._attempt.hangs
        if thread is not None and thread is not threading.current_thread():
            self._attempt.interrupted = True
            self.destination.interrupt()
            # An answer that just came is still acknowledged.
            thread.join(max(0.0, deadline - time.monotonic()))
        locked = self._spool_lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        self._life = Lifecycle.RELEASED
        if locked:
            self._spool_lock.release()
        with self._changed:
            self._life = Lifecycle.ENDED
            self._changed.notify_all()
            empty = self._empty()
        if not empty:
            if not self._outage.on and hung and not self._pulse.answered:
                self._outage.failed(_NO_ANSWER, time.monotonic())
            self._report_outage(at_the_end=True)
        if thread is None or not thread.is_alive():
            self.destination.close()
        return empty

    def _end_by(self) -> float:
        """Deadline of the shutdown; later while the destination takes records, or asks for another attempt after some."""
        if self._pulse.taking or (self._pulse.answered and not self._outage.on):
            return max(self._deadline, self._closing_since + self._options.taking_s)
        return self._deadline

    def _probe_overdue(self, limit_s: float) -> bool:
        """Whether the probe under way takes longer than the limit, for a destination not known to be alive."""
        return self._attempt.probe_overdue(limit_s) and not self._pulse.lives()

    def _grace_s(self) -> float:
        options = self._options
        return min(options.longest_grace_s, max(options.shortest_grace_s, 3 * self._pulse.answer_s))

    def statistics(self) -> LaneStatistics:
        with self._changed:
            return self._tally.statistics(self._outage.reason)

    def _empty(self) -> bool:
        return self._work is None and self._source.pending(self.destination.name) == 0

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._run, name=f"spanbus-{self.destination.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads, or interpreter shutdown: the records stay spooled
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
                except Exception as error:  # nothing is raised into the program
                    level = self._level_once("bug", WARNING)
                    logger.log(level, "sending to %s failed", self.destination.shown, exc_info=True)
                    self._failed(Retry(f"{type(error).__name__}: {error}", _BROKEN_PAUSE_S))
        finally:
            with self._changed:
                self._thread = None
                self.sleeping = True
                self._changed.notify_all()

    def _warm_up(self) -> None:
        try:
            with fork_guard():
                self.destination.warm_up()
        except Exception:  # not raised into the program; the first attempt reports the error
            logger.debug("%s cannot be prepared", self.destination.shown, exc_info=True)
        self._warm.set()

    def _wait(self) -> bool:
        """Wait for work; False when the thread must end."""
        lingering_until: float | None = None
        with self._changed:
            while True:
                now = time.monotonic()
                if self._life is Lifecycle.CLOSING and (
                    self._empty() or not (self._attempt.in_doubt or self._worth_starting(now))
                ):
                    self._life = Lifecycle.GAVE_UP
                if self._life >= Lifecycle.GAVE_UP:
                    return False
                due = self._backoff.due
                if self._work is None and self._source.pending(self.destination.name) == 0:
                    if self._prepare is not None and now >= self._prepare_due:
                        return True
                    self.sleeping = True
                    self._flush_requested = False
                    # Check again: a record put before `sleeping` was set did not wake this thread.
                    if self._source.pending(self.destination.name) == 0:
                        self._changed.notify_all()
                        self._changed.wait(
                            None if self._prepare is None else self._prepare_due - now
                        )
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
        urgent = self._flush_requested or self._closing or self._backoff.failures
        if self._work is not None or urgent:
            return False
        return self._source.pending(self.destination.name) < self._options.batch_records

    @property
    def _closing(self) -> bool:
        return self._life >= Lifecycle.CLOSING

    def _worth_starting(self, now: float) -> bool:
        """Whether a request is likely to be answered before the end; otherwise the next process would send it again."""
        begins = max(now, self._backoff.due) if self._pulse.taking else now
        return (
            self._closing
            and begins + 1.2 * self._pulse.answer_s < self._end_by() - _JOIN_S
            and begins >= self._backoff.not_before
        )

    def _prepare_if_due(self) -> None:
        if self._prepare is None or time.monotonic() < self._prepare_due or self._closing:
            return
        try:
            with fork_guard():
                self._prepare()
        except Exception:  # nothing is raised into the program
            level = self._level_once("bug", WARNING)
            logger.log(level, "taking over what other processes left failed", exc_info=True)
        self._prepare_due = time.monotonic() + self._options.prepare_every_s

    def _level_once(self, what: str, level: int) -> int:
        """Return ``level`` the first time, DEBUG after that."""
        if what in self._logged:
            return DEBUG
        self._logged.add(what)
        return level

    def _step(self) -> None:
        """Send one request."""
        work = self._work or self._read()
        if work is None:
            if self._source.pending(self.destination.name):
                self._backoff.due = time.monotonic() + _NOTHING_READ_PAUSE_S
            return
        chunk = work.chunks[0]
        if not self._probed:
            self._probed = True
            may_end_soon = self._closing or (
                not self._flush_requested and time.monotonic() - self._born < _YOUNG_S
            )
            if may_end_soon and not self._pulse.lives() and not self._probe(chunk.signal):
                return
        now = time.monotonic()
        self._attempt.in_doubt = True
        with self._attempt.under_way():
            outcome = self.destination.send(chunk.signal, chunk.records, self._limit_s(now))
        match outcome:
            case Delivered():
                self._pulse.heard(time.monotonic() - now)
                self._set_one_aside = False
                self._accepted(work, chunk, outcome)
            case Retry():
                chunk.failures += 1
                if (
                    outcome.attempts is not None
                    and chunk.failures >= outcome.attempts
                    and not self._set_one_aside
                ):
                    # Only one: if the next one fails too, the destination is at fault, not the content.
                    self._set_one_aside = True
                    self._set_aside(work, chunk, outcome.reason, outcome.body)
                else:
                    self._failed(outcome)
            case Refused():
                self._pulse.heard(time.monotonic() - now)
                self._recovered()
                self._set_aside(work, chunk, outcome.reason, outcome.body)
            case TooLarge():
                self._split(work, chunk, outcome)
            case Unwanted():
                with self._changed:
                    self._tally.unwanted(chunk.signal, outcome.reason, chunk.count)
                self._done(work, chunk)

    def _probe(self, signal: Signal) -> bool:
        """Send an empty request; whether to go on. After a failure the next attempt carries records, because some servers
        refuse an empty request.
        """
        now = time.monotonic()
        with self._attempt.under_way():
            outcome = self.destination.probe(signal, self._limit_s(now))
        if isinstance(outcome, Retry):
            self._failed(outcome)
            return False
        self._pulse.heard(time.monotonic() - now)
        return not self._closing or self._worth_starting(time.monotonic())

    def _limit_s(self, now: float) -> float:
        longest_s = self._options.attempt_s
        if not self._closing:
            return longest_s
        return min(longest_s, max(0.01, self._end_by() + self._options.longest_grace_s - now))

    def _read(self) -> Work | None:
        with self._spool_lock:
            if self._life >= Lifecycle.RELEASED:
                return None
            batch = self._source.read(
                self.destination.name,
                max_bytes=self._options.batch_bytes,
                max_records=self._options.batch_records,
            )
            if batch is not None and (first := first_run(batch.records)) < len(batch.records):
                batch = self._source.read(
                    self.destination.name, max_bytes=self._options.batch_bytes, max_records=first
                )
        if batch is None:
            return None
        work = Work(batch)
        if not work.chunks:
            self._acknowledge(batch)
            return None
        with self._changed:
            self._work = work
        return work

    def _accepted(self, work: Work, chunk: Chunk, outcome: Delivered) -> None:
        count = chunk.count
        rejected = min(count, outcome.rejected)
        self._pulse.took()
        with self._changed:
            self._tally.delivered(chunk.signal, count, rejected)
        if outcome.rejected or outcome.message:
            logger.log(
                self._level_once("rejection", WARNING),
                "%s rejected %d of %d %s: %s",
                self.destination.shown,
                rejected,
                count,
                chunk.signal,
                outcome.message,
            )
        self._recovered()
        self._done(work, chunk)

    def _set_aside(self, work: Work, chunk: Chunk, reason: str, body: bytes) -> None:
        """Store the request as a dead letter: sending it again cannot help."""
        count = chunk.count
        with self._changed:
            self._tally.refused(chunk.signal, count)
        path = self._refused.keep(chunk.signal, body) if self._refused is not None else None
        logger.debug(
            "%s refused %d %s for good: %s", self.destination.shown, count, chunk.signal, reason
        )
        if "refusal" not in self._logged:
            self._logged.add("refusal")
            kept = f"is kept in {path.parent}" if path is not None else "is dropped and counted"
            self._options.tell(
                f"spanbus: {self.destination.shown} refuses telemetry ({reason}); what it refuses {kept}, see `spanbus status`"
            )
        self._done(work, chunk)

    def _split(self, work: Work, chunk: Chunk, outcome: TooLarge) -> None:
        self._pulse.heard(0.0)
        self._recovered()
        if not work.halve():
            self._set_aside(work, chunk, outcome.reason, outcome.body)

    def _done(self, work: Work, chunk: Chunk) -> None:
        work.chunks.remove(chunk)
        if not work.chunks:
            self._acknowledge(work.batch)
            with self._changed:
                self._work = None
                self._changed.notify_all()

    def _acknowledge(self, batch: Batch) -> None:
        with self._spool_lock:
            if self._life < Lifecycle.RELEASED:
                self._source.acknowledge(self.destination.name, batch)
        self._attempt.in_doubt = False

    def _failed(self, outcome: Retry) -> None:
        """Schedule another attempt."""
        now = time.monotonic()
        with self._changed:
            self._attempt.in_doubt = False
            self._backoff.failed(now, outcome.after_s)
            known = self._outage.reason or _NO_ANSWER
            reason = known if self._attempt.interrupted else outcome.reason
            self._outage.failed(reason, now)
            again = self._pulse.taking and outcome.heard and self._options.taking_s > 0
            if self._life is Lifecycle.CLOSING and not again:
                self._life = Lifecycle.GAVE_UP
            self._changed.notify_all()
        self._pulse.failed(reason, heard=outcome.heard)
        logger.debug("%s: %s", self.destination.shown, outcome.reason)
        if self._outage.lasts_s(now) >= self._options.quiet_s and not self._closing:
            self._report_outage()

    def _recovered(self) -> None:
        with self._changed:
            self._backoff.succeeded()
            failed = self._outage.on
            was_reported = self._outage.over()
        if failed or self._level_once("works", INFO) == INFO:
            self._pulse.works()
        forget(self.destination.shown, self._options.kept_in)
        if was_reported:
            logger.info("%s takes telemetry again", self.destination.shown)

    def _report_outage(self, *, at_the_end: bool = False) -> None:
        options, name, reason = self._options, self.destination.name, self._outage.reason
        if reason is None or not self._outage.claim():
            return
        if options.tell is to_stderr and not first_report(self.destination.shown, options.kept_in):
            return
        options.tell(
            outage_notice(
                self.destination.shown,
                reason,
                waiting=self._source.pending(name),
                in_memory=self._source.pending_in_memory(name),
                disk_error=self._source.disk_error,
                kept_in=options.kept_in,
                remedy=options.remedy,
                at_the_end=at_the_end,
            )
        )
