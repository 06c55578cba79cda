"""Observer of a stream of events, or of some of its partitions: makes spans and metrics for processes that make none.

It reads to the head of the stream, feeds a runtime's sinks, and stores its progress: a checkpoint per partition in a bucket of
the server, which only its last writer may overwrite, and a local file with the progress since then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

from spanbus._delivery.endpoints import shown_url
from spanbus._named_tuple import NamedTuple
from spanbus._runtime import Runtime
from spanbus.errors import BackendError
from spanbus.integrations._nats_client import (
    Client,
    Unanswered,
    credentials_of,
    servers_of,
    unix_ns,
)
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_consumer import Consumer
from spanbus.integrations._nats_holdings import (
    LEASE_S,
    RENEW_S,
    Holdings,
    Options,
    Stopped,
    StreamState,
    TakenOver,
)
from spanbus.integrations._nats_numbers import Numbers
from spanbus.integrations._nats_partitions import PARTITIONS, checked, subjects
from spanbus.integrations._nats_partitions import shown as shown_partitions
from spanbus.integrations._nats_publishers import Publishers
from spanbus.integrations._nats_reading import SETTLE_S, Counts, Read
from spanbus.integrations.nats_stream import ALIVE, checked_name, incompatibility

__all__ = ["Observed", "Observer"]

Durable = Literal["delivered", "spool"]

CHECKPOINT_S: Final = 1.0
_PAUSE_S: Final = 0.2
_LOOK_S: Final = 0.05
_STEP_S: Final = 0.25
"""Seconds for one step, which may have a thousand messages of a hundred lines to process; checked per message."""
_ASK_S: Final = 30.0
_AWAY_S: Final = 0.5
_DELIVER_S: Final = 10.0
_PUBLISHERS_S: Final = 5.0
_LOST_AFTER_S: Final = 300.0


class StreamRecreated(BackendError):
    """The stream was deleted and created again."""


class Observed(NamedTuple):
    """Progress of an observer: last message read, open runs, counts of lines, messages deleted unread, events replayed,
    partitions held and awaited.
    """

    sequence: int
    open_runs: int
    counts: Counts
    lost: int
    read_again: int
    held: tuple[int, ...]
    awaited: tuple[int, ...]


class Stop(Protocol):
    """Stop flag: a ``threading.Event``, or one that a signal handler may set."""

    def is_set(self) -> bool: ...

    def wait(self, timeout_s: float, /) -> bool: ...


class _NeverStop:
    """Stop flag that is never set."""

    def is_set(self) -> bool:
        return False

    def wait(self, timeout_s: float, /) -> bool:
        time.sleep(timeout_s)
        return False


class Observer:
    """Observer of a stream; a context manager. Raises :class:`~spanbus.errors.BackendError`, one line, if NATS fails.

    ``runtime`` makes the telemetry; the caller closes it. ``group`` names the observers that divide the stream among themselves;
    each group observes everything. ``partitions`` are those of this observer; it waits for partitions that another living
    observer holds, unless ``take``. ``durable`` decides when telemetry counts as durable: ``delivered``, when the collector has
    it, or ``spool``, when it is in this host's spool.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        runtime: Runtime,
        *,
        group: str = "main",
        stream: str = "SPANBUS",
        credentials: str | Path | None = None,
        partitions: Iterable[int] = range(PARTITIONS),
        take: bool = False,
        durable: Durable = "delivered",
        begin: Literal["start", "now"] = "start",
        settle_s: float = SETTLE_S,
        lost_after_s: float = _LOST_AFTER_S,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        urls = servers_of(servers, "observe")
        self.shown = ",".join(shown_url(each) for each in urls)
        self._client = Client(urls, credentials_of(credentials, "observe"))
        self._runtime, self._print = runtime, say
        self._said_once: set[str] = set()
        self._group, self._stream = group, stream
        self._durable, self._lost_after_s, self._settle_s = durable, lost_after_s, settle_s
        self._clocks = Clocks()
        self.numbers = Numbers(checked_name(group))
        self._holdings = Holdings(
            Options(group, checked_name(stream), take, begin == "now", settle_s),
            checked(partitions),
            runtime,
            self._client,
            self._ask,
            self.shown,
            self._clocks,
            self.numbers,
            self._say,
        )
        self._publishers: Publishers | None = None
        self._consumer: Consumer | None = None
        self._unread: list[Read] = []
        """Messages that were read and not processed yet."""
        self._stop: Stop = _NeverStop()
        self._info = StreamState("", 0, 0, 0)
        self._looked, self._looked_s = False, 0.0
        """The stream's state was refreshed since the last message."""
        self._position = self._stamp_ns = 0
        self._arrived: Callable[[], bool] | None = None
        self._next_s = self._next_publishers_s = self._fresh_s = 0.0
        self._rounds = 0
        """Completed rounds of refreshing the stream's state and writing checkpoints."""

    def __enter__(self) -> Self:
        try:
            self._refresh_info()
            self._holdings.open(self._info.created)
            self._publishers = self._alive_bucket()
            self._runtime.wiring().observe("spanbus.observe.", self.numbers.read)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def state(self) -> Observed:
        """Snapshot of progress, counts and open runs."""
        held, awaited = self._holdings.held, self._holdings.awaited
        return Observed(
            max((each.high for each in held.values()), default=self._position),
            sum(len(each.reading.open) for each in held.values()),
            self.numbers.counts(each.reading.counts for each in held.values()),
            self.numbers.lost,
            self.numbers.read_again,
            tuple(sorted(held)),
            tuple(sorted(awaited)),
        )

    def once(self, stop: Stop | None = None) -> None:
        """Read to the end of the stream, feed every waiting end, and write the checkpoints.

        If stopped before the end, it writes the checkpoints and raises :class:`~spanbus.errors.BackendError`.
        """
        self._stop = stop or self._stop
        try:
            self._to_the_end()
        except Stopped:
            self._finish()
            raise BackendError(
                f"{self.shown}: told to stop at message {self._position}; the next time goes on there"
            ) from None

    def _to_the_end(self) -> None:
        deadline_s = time.monotonic() + LEASE_S + RENEW_S
        self._acquire()
        while self._holdings.awaited:
            if time.monotonic() > deadline_s:
                numbers = shown_partitions(sorted(self._holdings.awaited))
                raise BackendError(
                    f"{self.shown}: another observer of group {self._group} has partitions {numbers}; --take takes them"
                )
            if self._stop.wait(_AWAY_S):
                raise Stopped
            self._refresh_info()
            self._acquire()
        self._refresh_info()
        while True:
            if self._stop.is_set():
                raise Stopped
            if not self._has_room() and not self._runtime.flush(_ASK_S):
                raise BackendError(
                    f"{self.shown}: half of the spool waits for the collector; the rest stays in the stream for the next time"
                )
            if not self._read():
                break
            if time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + CHECKPOINT_S
                self._checkpoint()
        for partition in self._holdings.held.values():
            partition.settle(None)
        if not self._finish():
            raise BackendError(
                f"{self.shown}: the collector has not taken all of it; it waits in the spool, and the checkpoint stays where it was"
            )

    def follow(self, stop: Stop) -> None:
        """Read until stopped; then write the checkpoints as those of an observer that left."""
        away, failed_in, self._stop = False, 0, stop
        self._fresh_s = time.monotonic()
        with suppress(Stopped):
            self._acquire()
        while not stop.is_set():
            try:
                busy = self._step()
            except Stopped:
                break
            except (TakenOver, StreamRecreated):
                raise
            except BackendError as error:
                if not away:
                    self._print(f"{error}; reading goes on when it is back")
                away, busy, failed_in = True, False, self._rounds
                self._restart_reading()
            else:
                away = away and self._rounds == failed_in
            if not busy:
                stop.wait(_AWAY_S if away else _PAUSE_S)
        self._finish()

    def _step(self) -> bool:
        """Read the next messages if the spool has room; False when there is nothing to do."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + CHECKPOINT_S
            self._refresh_info()
            if self._holdings.awaited:
                self._acquire()
            self._checkpoint()
            self._end_dead_runs()
            self._rounds += 1
        busy = self._has_room() and self._read()
        if busy:
            self._fresh_s = now_s
        elif now_s - self._fresh_s >= self._settle_s:  # at the head, ends settle by the clock
            self._settle(None)
        return busy

    def _acquire(self) -> None:
        if self._holdings.acquire(self._info, self._stop.is_set):
            self._restart_reading()  # with more partitions, from an earlier message
            self._count()

    def _restart_reading(self) -> None:
        self._consumer, self._unread = None, []

    def _has_room(self) -> bool:
        """Whether less than half of the spool is used: a backlog is safer in the stream."""
        found = self._runtime.statistics()
        return found is None or found.spool_bytes < self._runtime.settings.spool_quota_bytes / 2

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Process the next messages; False at the head of the stream."""
        if not self._holdings.held:
            return False
        if self._consumer is None:
            held = self._holdings.held
            self._position = min(each.high for each in held.values())
            filters = subjects(sorted(held))
            self._consumer = Consumer(
                self._client, self._ask, self._stream, filters, self._position + 1
            )
        found = self._unread or self._next(self._consumer)
        until_s, taken = time.monotonic() + _STEP_S, 0
        for message in found:
            if self._stop.is_set() or time.monotonic() >= until_s:
                break
            self._take(message)
            taken += 1
        self._unread = found[taken:]
        if taken:
            self._settle(self._stamp_ns)
        elif self._looked and not found:  # read up to the last refresh of the stream's state
            self._position = max(self._position, self._info.last)
            self._passed()
        self.numbers.at(self._stamp_ns if found else None)
        self._looked = self._looked and bool(found)
        return bool(found)

    def _next(self, consumer: Consumer) -> list[Read]:
        """Read the next messages, after a check for deleted ones."""
        if self._held_in_part and time.monotonic() - self._looked_s > _LOOK_S:
            self._refresh_info()  # with some partitions, gaps in the numbers tell nothing
        if self._info.first > self._position + 1:
            self._deleted(self._info.first - 1)
        return consumer.read()

    @property
    def _held_in_part(self) -> bool:
        return len(self._holdings.held) < PARTITIONS

    def _passed(self) -> None:
        """Advance all held partitions, which are read together, to the current position."""
        for partition in self._holdings.held.values():
            partition.passed(self._position)

    def _take(self, message: Read) -> None:
        if not self._held_in_part and message.sequence > self._position + 1:
            self._deleted(message.sequence - 1)
        self._position, self._stamp_ns = message.sequence, message.stamp_ns
        partition = self._holdings.held.get(message.partition)
        if partition is None or message.sequence <= partition.high:
            return
        if self._holdings.still_holds(partition):
            partition.take(message)

    def _settle(self, stamp_ns: int | None) -> None:
        for partition in list(self._holdings.held.values()):
            if partition.reading.holds and self._holdings.still_holds(partition):
                partition.settle(stamp_ns)

    def _deleted(self, upto: int) -> None:
        """Count messages up to this one as deleted unread."""
        held = self._holdings.held.values()
        lost = sum(each.deleted(upto, self._position) for each in held)
        self._position = max(self._position, upto)
        if lost:
            self.numbers.lost += lost
            self._say(f"{lost} messages were deleted before they were read", "deleted")

    def _end_dead_runs(self) -> None:
        """End the runs of dead publishers; while reading a backlog, by its time, because their ends may still come."""
        now_s = time.monotonic()
        if self._publishers is None or now_s < self._next_publishers_s:
            return
        self._next_publishers_s = now_s + min(_PUBLISHERS_S, self._lost_after_s / 4 + 0.25)
        try:
            self._publishers.look()
        except BackendError as error:
            self._say(f"runs of dead publishers stay open: bucket {ALIVE}: {error}", "publishers")
            return
        at_head = self._position >= self._info.last
        dead = self._publishers.dead(
            self._info.now_ns if at_head else self._stamp_ns, self._lost_after_s
        )
        if dead:
            for partition in list(self._holdings.held.values()):
                if self._holdings.still_holds(partition):
                    self.numbers.killed += partition.kill(dead)

    # --- checkpoints ---------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write the checkpoints whose telemetry is durable; renew the others now and then."""
        held, now_s = self._holdings.held, time.monotonic()
        if self._consumer is not None:
            self._passed()
        if self._arrived is not None and self._arrived():
            self._arrived = None
            for partition in held.values():
                partition.arrived()
        changed = [each for each in held.values() if each.changed]
        if changed and self._arrived is None:
            for partition in changed:
                partition.prepare(now_s)
            if self._durable == "delivered":
                self._arrived = self._runtime.wiring().arrival()
            else:
                for partition in changed:
                    partition.arrived()
        self._holdings.renew(now_s)
        self._count()

    def _count(self) -> None:
        """Update the metrics."""
        held = self._holdings.held.values()
        self.numbers.counts(each.reading.counts for each in held)
        self.numbers.held = len(held)
        self.numbers.checkpoint_s = min((each.durable_s for each in held), default=None)
        self.numbers.offset_s = self._clocks.largest_s()

    def _finish(self) -> bool:
        """Write the last checkpoints, marked as left; False when not all telemetry is durable."""
        self._count()
        now_s, partitions = time.monotonic(), list(self._holdings.held.values())
        for partition in partitions:
            partition.prepare(now_s)
        complete = self._durable == "spool" or self._runtime.flush(_DELIVER_S)
        if complete:
            for partition in partitions:
                partition.arrived()
        self._holdings.write(partitions, left=True)
        return complete

    def _refresh_info(self) -> None:
        """Refresh the state of the stream; raises if it cannot be observed."""
        info = self._ask(self._client.ask(f"$JS.API.STREAM.INFO.{self._stream}"))
        if info.get("error") is not None:
            raise BackendError(
                f"{self.shown}: stream {self._stream}: {info['error'].get('description')}; `spanbus nats setup` makes it"
            )
        unreadable = incompatibility(info["config"])
        if unreadable:
            raise BackendError(
                f"{self.shown}: stream {self._stream}: {unreadable}, so it cannot be observed; remove it and make it with"
                " `spanbus nats setup`, or name another one with --stream"
            )
        state, created = info["state"], str(info["created"])
        if self._info.created not in ("", created):
            raise StreamRecreated(f"{self.shown}: stream {self._stream} was made anew; start again")
        self._info = StreamState(
            created,
            int(state["first_seq"]),
            int(state["last_seq"]),
            unix_ns(str(info["ts"])) if info.get("ts") else time.time_ns(),
        )
        self._looked, self._looked_s = True, time.monotonic()
        self.numbers.server_ahead_ns = self._info.now_ns - time.time_ns()

    def _alive_bucket(self) -> Publishers | None:
        info = self._ask(self._client.ask(f"$JS.API.STREAM.INFO.KV_{ALIVE}"))
        if info.get("error") is None:
            return Publishers(self._client, self._ask)
        self._print(
            f"there is no bucket {ALIVE}, so runs of dead publishers stay open; `spanbus nats setup` makes it"
        )
        return None

    def _ask(self, coroutine: Any) -> Any:
        try:
            return self._client.run(coroutine, _ASK_S)
        except Unanswered as error:
            raise BackendError(f"{self.shown}: {error}") from error

    def _say(self, line: str, once: str | None) -> None:
        if once is not None:
            if once in self._said_once:
                return
            self._said_once.add(once)
        self._print(line)

    def _leave(self) -> None:
        self._holdings.close()
        self.numbers.held = 0
        self._client.close()
