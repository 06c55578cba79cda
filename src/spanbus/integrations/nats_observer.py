"""Observer of a stream or of some of its partitions: makes spans and metrics of runs whose own processes make none.

Progress is stored twice: as a checkpoint for each partition in NATS, written with compare-and-set, and in a local file
after each message.
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
    RequestFailed,
    credentials_of,
    servers_of,
    unix_ns,
)
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_leases import (
    LEASE_S,
    RENEW_S,
    Options,
    PartitionLeases,
    Stopped,
    StreamState,
    TakenOver,
)
from spanbus.integrations._nats_metrics import ObserverMetrics
from spanbus.integrations._nats_ordered_consumer import OrderedConsumer
from spanbus.integrations._nats_partition_reader import SETTLE_S, Counts, StreamMessage
from spanbus.integrations._nats_partitions import PARTITIONS, checked, subjects
from spanbus.integrations._nats_partitions import shown as named
from spanbus.integrations._nats_publishers import Publishers
from spanbus.integrations.nats_stream import ALIVE, checked_name, incompatibility

__all__ = ["Observed", "Observer"]

Durable = Literal["delivered", "spool"]

CHECKPOINT_S: Final = 1.0
_PAUSE_S: Final = 0.2
_LOOK_S: Final = 0.05
_STEP_S: Final = 0.25
"""Limit of one step in seconds, plus one message. A batch may have a thousand messages of a hundred lines."""
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
    """A stop flag, such as a ``threading.Event`` or a flag that a signal handler sets."""

    def is_set(self) -> bool: ...

    def wait(self, timeout_s: float, /) -> bool: ...


class _Never:
    """A stop flag that is never set."""

    def is_set(self) -> bool:
        return False

    def wait(self, timeout_s: float, /) -> bool:
        time.sleep(timeout_s)
        return False


class Observer:
    """An observer, used as a context manager. Raises :class:`~spanbus.errors.BackendError`, one line, if NATS does not answer.

    ``runtime`` makes the telemetry; the caller closes it. Observers of the same ``group`` divide the stream among
    themselves; each group reads all of it. ``partitions`` are those of this observer. It waits for a partition that another
    live observer holds, unless ``take``. ``durable`` is the condition for writing a checkpoint: the telemetry is
    ``delivered`` to the collector, or is in this host's ``spool``.
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
        self._runtime, self._report = runtime, say
        self._reported: set[str] = set()
        self._group, self._stream = group, stream
        self._durable, self._lost_after_s, self._settle_s = durable, lost_after_s, settle_s
        self._clocks = Clocks()
        self.metrics = ObserverMetrics(checked_name(group))
        self._leases = PartitionLeases(
            Options(group, checked_name(stream), take, begin == "now", settle_s),
            checked(partitions),
            runtime,
            self._client,
            self._ask,
            self.shown,
            self._clocks,
            self.metrics,
            self._say,
        )
        self._publishers: Publishers | None = None
        self._consumer: OrderedConsumer | None = None
        self._unread: list[StreamMessage] = []
        """Fetched messages that are not processed yet."""
        self._stop: Stop = _Never()
        self._info = StreamState("", 0, 0, 0)
        self._info_is_new, self._info_s = False, 0.0
        """The stream state is newer than the last message read."""
        self._position = self._stamp_ns = 0
        self._is_durable: Callable[[], bool] | None = None
        self._next_s = self._next_publishers_s = self._fresh_s = 0.0
        self._rounds = 0
        """Completed rounds of reading the stream state and writing checkpoints."""

    def __enter__(self) -> Self:
        try:
            self._refresh_stream()
            self._leases.open(self._info.created)
            self._publishers = self._alive_bucket()
            self._runtime.wiring().observe("spanbus.observe.", self.metrics.read)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def state(self) -> Observed:
        """Return progress, counts and number of open runs."""
        held, awaited = self._leases.held, self._leases.awaited
        return Observed(
            max((each.high for each in held.values()), default=self._position),
            sum(len(each.reading.open) for each in held.values()),
            self.metrics.counts(each.reading.counts for each in held.values()),
            self.metrics.lost,
            self.metrics.read_again,
            tuple(sorted(held)),
            tuple(sorted(awaited)),
        )

    def once(self, stop: Stop | None = None) -> None:
        """Read to the end of the stream, release all held ends, and write the checkpoints.

        If ``stop`` is set before the end, the checkpoints are written and :class:`~spanbus.errors.BackendError` is raised.
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
        while self._leases.awaited:
            if time.monotonic() > deadline_s:
                numbers = named(sorted(self._leases.awaited))
                raise BackendError(
                    f"{self.shown}: another observer of group {self._group} has partitions {numbers}; --take takes them"
                )
            if self._stop.wait(_AWAY_S):
                raise Stopped
            self._refresh_stream()
            self._acquire()
        self._refresh_stream()
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
        for partition in self._leases.held.values():
            partition.settle(None)
        if not self._finish():
            raise BackendError(
                f"{self.shown}: the collector has not taken all of it; it waits in the spool, and the checkpoint stays where it was"
            )

    def follow(self, stop: Stop) -> None:
        """Read until ``stop`` is set, then write the checkpoints and mark them as left."""
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
                    self._report(f"{error}; reading goes on when it is back")
                away, busy, failed_in = True, False, self._rounds
                self._restart_reading()
            else:
                away = away and self._rounds == failed_in
            if not busy:
                stop.wait(_AWAY_S if away else _PAUSE_S)
        self._finish()

    def _step(self) -> bool:
        """Read available messages if the spool has room. Returns False if there was nothing to do."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + CHECKPOINT_S
            self._refresh_stream()
            if self._leases.awaited:
                self._acquire()
            self._checkpoint()
            self._end_dead_runs()
            self._rounds += 1
        busy = self._has_room() and self._read()
        if busy:
            self._fresh_s = now_s
        elif now_s - self._fresh_s >= self._settle_s:  # at the head, the local clock decides
            self._settle(None)
        return busy

    def _acquire(self) -> None:
        if self._leases.acquire(self._info, self._stop.is_set):
            self._restart_reading()  # with more partitions, possibly from an earlier message
            self._update_metrics()

    def _restart_reading(self) -> None:
        self._consumer, self._unread = None, []

    def _has_room(self) -> bool:
        """Whether less than half of the spool is used. The rest of a backlog is safer in the stream."""
        found = self._runtime.statistics()
        return found is None or found.spool_bytes < self._runtime.settings.spool_quota_bytes / 2

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Process the next messages. Returns False at the head of the stream."""
        if not self._leases.held:
            return False
        if self._consumer is None:
            held = self._leases.held
            self._position = min(each.high for each in held.values())
            mine = subjects(sorted(held))
            self._consumer = OrderedConsumer(
                self._client, self._ask, self._stream, mine, self._position + 1
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
        elif self._info_is_new and not found:
            # everything up to the stream's last message was read
            self._position = max(self._position, self._info.last)
            self._skip_to_position()
        self.metrics.at(self._stamp_ns if found else None)
        self._info_is_new = self._info_is_new and bool(found)
        return bool(found)

    def _next(self, consumer: OrderedConsumer) -> list[StreamMessage]:
        """Fetch the next messages, after counting those that were deleted before them."""
        if self._held_in_part and time.monotonic() - self._info_s > _LOOK_S:
            self._refresh_stream()  # with only some partitions, gaps cannot be seen in sequence numbers
        if self._info.first > self._position + 1:
            self._deleted(self._info.first - 1)
        return consumer.read()

    @property
    def _held_in_part(self) -> bool:
        return len(self._leases.held) < PARTITIONS

    def _skip_to_position(self) -> None:
        """Advance all held partitions to the position: they are read together."""
        for partition in self._leases.held.values():
            partition.skip_to(self._position)

    def _take(self, message: StreamMessage) -> None:
        if not self._held_in_part and message.sequence > self._position + 1:
            self._deleted(message.sequence - 1)
        self._position, self._stamp_ns = message.sequence, message.stamp_ns
        partition = self._leases.held.get(message.partition)
        if partition is None or message.sequence <= partition.high:
            return
        if self._leases.still_holds(partition):
            partition.take(message)

    def _settle(self, stamp_ns: int | None) -> None:
        for partition in list(self._leases.held.values()):
            if partition.reading.holds and self._leases.still_holds(partition):
                partition.settle(stamp_ns)

    def _deleted(self, upto: int) -> None:
        """Count the messages up to this one as deleted unread."""
        held = self._leases.held.values()
        lost = sum(each.deleted(upto, self._position) for each in held)
        self._position = max(self._position, upto)
        if lost:
            self.metrics.lost += lost
            self._say(f"{lost} messages were deleted before they were read", "deleted")

    def _end_dead_runs(self) -> None:
        """End the runs of dead publishers. In a backlog, time is the stream's: their own ends may still follow."""
        now_s = time.monotonic()
        if self._publishers is None or now_s < self._next_publishers_s:
            return
        self._next_publishers_s = now_s + min(_PUBLISHERS_S, self._lost_after_s / 4 + 0.25)
        try:
            self._publishers.refresh()
        except BackendError as error:
            self._say(f"runs of dead publishers stay open: bucket {ALIVE}: {error}", "publishers")
            return
        at_head = self._position >= self._info.last
        dead = self._publishers.dead(
            self._info.now_ns if at_head else self._stamp_ns, self._lost_after_s
        )
        if dead:
            for partition in list(self._leases.held.values()):
                if self._leases.still_holds(partition):
                    self.metrics.killed += partition.kill(dead)

    # --- checkpoints ---------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write checkpoints of telemetry that has become durable, and renew the leases."""
        held, now_s = self._leases.held, time.monotonic()
        if self._consumer is not None:
            self._skip_to_position()
        if self._is_durable is not None and self._is_durable():
            self._is_durable = None
            for partition in held.values():
                partition.confirm()
        changed = [each for each in held.values() if each.changed]
        if changed and self._is_durable is None:
            for partition in changed:
                partition.prepare(now_s)
            if self._durable == "delivered":
                self._is_durable = self._runtime.wiring().arrival()
            else:
                for partition in changed:
                    partition.confirm()
        self._leases.renew(now_s)
        self._update_metrics()

    def _update_metrics(self) -> None:
        """Update the observer's metrics."""
        held = self._leases.held.values()
        self.metrics.counts(each.reading.counts for each in held)
        self.metrics.held = len(held)
        self.metrics.checkpoint_s = min((each.durable_s for each in held), default=None)
        self.metrics.offset_s = self._clocks.largest_s()

    def _finish(self) -> bool:
        """Write the last checkpoints, marked as left. Returns False if not all telemetry is durable."""
        self._update_metrics()
        now_s, partitions = time.monotonic(), list(self._leases.held.values())
        for partition in partitions:
            partition.prepare(now_s)
        complete = self._durable == "spool" or self._runtime.flush(_DELIVER_S)
        if complete:
            for partition in partitions:
                partition.confirm()
        self._leases.write(partitions, left=True)
        return complete

    def _refresh_stream(self) -> None:
        """Request the state of the stream."""
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
        self._info_is_new, self._info_s = True, time.monotonic()
        self.metrics.server_ahead_ns = self._info.now_ns - time.time_ns()

    def _alive_bucket(self) -> Publishers | None:
        info = self._ask(self._client.ask(f"$JS.API.STREAM.INFO.KV_{ALIVE}"))
        if info.get("error") is None:
            return Publishers(self._client, self._ask)
        self._report(
            f"there is no bucket {ALIVE}, so runs of dead publishers stay open; `spanbus nats setup` makes it"
        )
        return None

    def _ask(self, coroutine: Any) -> Any:
        try:
            return self._client.run(coroutine, _ASK_S)
        except RequestFailed as error:
            raise BackendError(f"{self.shown}: {error}") from error

    def _say(self, line: str, once: str | None) -> None:
        if once is not None:
            if once in self._reported:
                return
            self._reported.add(once)
        self._report(line)

    def _leave(self) -> None:
        self._leases.close()
        self.metrics.held = 0
        self._client.close()
