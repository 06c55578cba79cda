"""Partitions held and awaited by an observer: acquired, kept by renewing their keys, released."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError
from spanbus.integrations._nats_checkpoints import Ask, Checkpoint, Checkpoints, Found
from spanbus.integrations._nats_client import Client
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_consumer import Consumer, subjects_of
from spanbus.integrations._nats_marks import Marks
from spanbus.integrations._nats_numbers import Numbers
from spanbus.integrations._nats_partition import Partition
from spanbus.integrations._nats_partitions import PARTITIONS, shown, subjects

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

RENEW_S: Final = 5.0
LEASE_S: Final = 15.0
"""Age of a checkpoint above which another observer may take the partition."""
_SURE_S: Final = 10.0
"""Age of its checkpoint up to which a holder need not check that it still holds the partition."""


class TakenOver(BackendError):
    """Other observers of the same group have taken all partitions of this one."""


class Stopped(Exception):
    """The observer was stopped early."""


class StreamState(NamedTuple):
    """State of the stream by the server's clock."""

    created: str
    first: int
    last: int
    now_ns: int


class Options(NamedTuple):
    """Options of an observer for its partitions."""

    group: str
    stream: str
    take: bool
    begin_now: bool
    settle_s: float


class Holdings:
    """Partitions of one observer; used in one thread. ``say`` prints a line; with a key, only once."""

    def __init__(
        self,
        options: Options,
        partitions: Iterable[int],
        runtime: Runtime,
        client: Client,
        ask: Ask,
        where: str,
        clocks: Clocks,
        numbers: Numbers,
        say: Callable[[str, str | None], None],
    ) -> None:
        self._options, self._runtime, self._client, self._ask = options, runtime, client, ask
        self._where, self._clocks, self._numbers, self._say = where, clocks, numbers, say
        self._checkpoints = Checkpoints(client, ask, where, options.group, options.stream)
        folder = runtime.settings.state_dir / "observe"
        self._marks = Marks(folder / f"{options.stream}-{options.group}.marks")
        self.awaited = set(partitions)
        self.held: dict[int, Partition] = {}
        self._by = ""

    def open(self, created: str) -> None:
        """Open this host's progress file of the stream."""
        self._marks.open(created)
        host, random = os.uname().nodename, os.urandom(2).hex()
        self._by = f"{host}/{os.getpid()}/{self._marks.holder}-{random}"

    def close(self) -> None:
        """Release all partitions; other observers go on with their open runs."""
        for partition in self.held.values():
            partition.leave()
            self._numbers.add_released(partition.reading.counts)
        self.held.clear()
        self._marks.close()

    # --- taking --------------------------------------------------------------------------------------------------------

    def acquire(self, info: StreamState, stopped: Callable[[], bool]) -> bool:
        """Acquire the awaited partitions that are free; True if there were any. Raises :class:`Stopped`."""
        free: list[tuple[int, Found | None]] = []
        others: dict[str, list[int]] = {}
        for number in sorted(self.awaited):
            found = self._checkpoints.read(number)
            if self._may_take(number, found, info):
                free.append((number, found))
            else:
                self._marks.release(number)
                others.setdefault(found.checkpoint.by if found is not None else "", []).append(
                    number
                )
        for by, numbers in others.items():
            self._say(
                f"partitions {shown(numbers)} are observed by {holder(by)}; this observer waits for them",
                f"waits {by}",
            )
        return bool(free) and self._take(free, info, stopped)

    def _may_take(self, number: int, found: Found | None, info: StreamState) -> bool:
        locked = self._marks.lock(number)
        if found is None or found.checkpoint.left or self._options.take:
            return True
        if locked and self._is_of_this_host(found.checkpoint):
            return True  # the previous holder is dead, else it would hold the lock
        return (info.now_ns - found.stamp_ns) / 1e9 >= LEASE_S

    def _is_of_this_host(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.by.rpartition("/")[2].partition("-")[0] == self._marks.holder

    def _take(
        self,
        free: Sequence[tuple[int, Found | None]],
        info: StreamState,
        stopped: Callable[[], bool],
    ) -> bool:
        """Resume from the checkpoints: replay the open runs without sinks, write the keys, and report what is open."""
        taken = {number: self._partition(number, found, info) for number, found in free}
        fresh = [
            each.number for each in taken.values() if not each.known and not each.reported_upto
        ]
        if fresh and info.last:
            self._say(
                f"partitions {shown(fresh)} have no checkpoint of group {self._options.group}: they are read from the beginning of the stream",
                None,
            )
        if not self._replay(taken, stopped):
            for partition in taken.values():
                partition.leave()
            raise Stopped
        refused = self.write(
            taken.values()
        )  # from here on the previous holder's writes are refused
        for number, found in free:
            partition = taken[number]
            if number in refused:  # the previous holder is alive: wait for it
                partition.leave()
                continue
            self.awaited.discard(number)
            self.held[number] = partition
            partition.resume(info.first)
            if found is not None and not self._is_of_this_host(found.checkpoint):
                self._numbers.takeovers += 1
        return True

    def _partition(self, number: int, found: Found | None, info: StreamState) -> Partition:
        partition = Partition(
            number,
            self._runtime,
            self._marks,
            self._clocks,
            created=info.created,
            by=self._by,
            found=found,
            settle_s=self._options.settle_s,
            say=lambda line: self._say(line, "broken"),
        )
        if not partition.known and self._options.begin_now:
            partition.start_after(info.last)
        return partition

    def _replay(self, taken: dict[int, Partition], stopped: Callable[[], bool]) -> bool:
        """Replay the messages reported before; False if stopped early."""
        ahead = any(each.reported_upto > each.high for each in taken.values())
        again = {
            number: each
            for number, each in taken.items()
            if each.buckets or each.reported_upto > each.high
        }
        if not again:
            return True
        whole = subjects(sorted(again))
        buckets = [(number, bucket) for number, each in again.items() for bucket in each.buckets]
        last = max(each.reported_upto for each in again.values())
        first = min(each.replay_from for each in again.values())
        chosen = whole if ahead else subjects_of(buckets, whole)
        consumer = Consumer(self._client, self._ask, self._options.stream, chosen, first)
        while found := consumer.read():
            for message in found:
                if stopped():
                    return False
                partition = again.get(message.partition)
                if partition is not None and partition.replay(message):
                    self._numbers.read_again += message.body.count(b"\n") + 1
            if found[-1].sequence >= last:
                break
        consumer.close()
        return True

    # --- keeping -------------------------------------------------------------------------------------------------------

    def still_holds(self, partition: Partition) -> bool:
        """Whether this observer still holds a partition; after a pause it renews its keys to find out.

        Raises :class:`TakenOver` when no partition is held or awaited any more.
        """
        if self.held.get(partition.number) is not partition:
            return False
        now_s = time.monotonic()
        if now_s - partition.written_s >= _SURE_S:
            self.renew(now_s)
        return self.held.get(partition.number) is partition

    def renew(self, now_s: float) -> None:
        """Write the keys of changed partitions and those older than ``RENEW_S``. Raises :class:`TakenOver`."""
        due = [each for each in self.held.values() if each.due or now_s - each.written_s >= RENEW_S]
        refused = self.write(due)
        if refused:
            self._release_lost()

    def write(self, partitions: Iterable[Partition], *, left: bool = False) -> list[int]:
        """Write the keys of partitions; return the numbers of those taken by others."""
        given = {each.number: each for each in partitions}
        documents = {
            number: (each.document(left=left), each.revision) for number, each in given.items()
        }
        now_s = time.monotonic()
        refused: list[int] = []
        for number, answer in self._checkpoints.write(documents).items():
            revision = answer
            if revision is None:
                found = self._checkpoints.read(number)
                if found is None:  # the key was removed: create it the next time
                    given[number].revision = 0
                    continue
                if found.checkpoint.by != self._by:
                    refused.append(number)
                    continue
                revision = found.revision  # an answer to our write was lost
            given[number].written(revision, now_s)
        return refused

    def _release_lost(self) -> None:
        """Release the partitions that others hold now."""
        others: dict[str, list[int]] = {}
        for number in sorted(self.held):
            found = self._checkpoints.read(number)
            by = found.checkpoint.by if found is not None else self._by
            if by == self._by:
                continue
            others.setdefault(by, []).append(number)
            partition = self.held.pop(number)
            partition.leave()
            self._numbers.add_released(partition.reading.counts)
        group = self._options.group
        for by, lost in others.items():
            what = "all partitions" if len(lost) == PARTITIONS else f"partitions {shown(lost)}"
            self._say(
                f"{what} are observed by {holder(by)} now; this observer lets go of them", None
            )
        if others and not self.held and not self.awaited:
            raise TakenOver(
                f"{self._where}: somebody else observes as group {group} now; this observer lets go"
            )


def holder(by: str) -> str:
    """Host and process of a holder, for messages."""
    return by.rpartition("/")[0] or "nobody"
