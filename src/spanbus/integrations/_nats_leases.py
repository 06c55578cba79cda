"""Leases on partitions: an observer acquires them, renews them by writing their checkpoints, and gives them up."""

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
from spanbus.integrations._nats_metrics import ObserverMetrics
from spanbus.integrations._nats_ordered_consumer import OrderedConsumer, subjects_of
from spanbus.integrations._nats_partition import Partition
from spanbus.integrations._nats_partitions import PARTITIONS, shown, subjects
from spanbus.integrations._nats_progress_file import ProgressFile

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

RENEW_S: Final = 5.0
LEASE_S: Final = 15.0
"""Age of a checkpoint at which the lease has expired and another observer may take the partition."""
_SURE_S: Final = 10.0
"""Age of a checkpoint up to which the holder may process messages without renewing the lease first."""


class TakenOver(BackendError):
    """Other observers of the group have taken all partitions of this one."""


class Stopped(Exception):
    """The observer was told to stop before it had finished."""


class StreamState(NamedTuple):
    """State of the stream at ``now_ns`` of the server's clock."""

    created: str
    first: int
    last: int
    now_ns: int


class Options(NamedTuple):
    """Options of an observer that apply to its partitions."""

    group: str
    stream: str
    take: bool
    begin_now: bool
    settle_s: float


class PartitionLeases:
    """The partitions that an observer holds and those that it waits for. Not thread-safe.

    ``say`` reports a line to the user; lines with the same key are reported once.
    """

    def __init__(
        self,
        options: Options,
        partitions: Iterable[int],
        runtime: Runtime,
        client: Client,
        ask: Ask,
        where: str,
        clocks: Clocks,
        metrics: ObserverMetrics,
        say: Callable[[str, str | None], None],
    ) -> None:
        self._options, self._runtime, self._client, self._ask = options, runtime, client, ask
        self._where, self._clocks, self._metrics, self._say = where, clocks, metrics, say
        self._checkpoints = Checkpoints(client, ask, where, options.group, options.stream)
        folder = runtime.settings.state_dir / "observe"
        self._progress = ProgressFile(folder / f"{options.stream}-{options.group}.marks")
        self.awaited = set(partitions)
        self.held: dict[int, Partition] = {}
        self._by = ""

    def open(self, created: str) -> None:
        """Open this host's progress file for the stream."""
        self._progress.open(created)
        host, random = os.uname().nodename, os.urandom(2).hex()
        self._by = f"{host}/{os.getpid()}/{self._progress.holder}-{random}"

    def close(self) -> None:
        """Release all partitions. Their open runs stay open for the next holder."""
        for partition in self.held.values():
            partition.leave()
            self._metrics.released(partition.reading.counts)
        self.held.clear()
        self._progress.close()

    # --- taking --------------------------------------------------------------------------------------------------------

    def acquire(self, info: StreamState, stopped: Callable[[], bool]) -> bool:
        """Acquire the free partitions and return whether there were any. Raises :class:`Stopped`."""
        free: list[tuple[int, Found | None]] = []
        others: dict[str, list[int]] = {}
        for number in sorted(self.awaited):
            found = self._checkpoints.read(number)
            if self._may_take(number, found, info):
                free.append((number, found))
            else:
                self._progress.release(number)
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
        locked = self._progress.lock(number)
        if found is None or found.checkpoint.left or self._options.take:
            return True
        if locked and self._is_of_this_host(found.checkpoint):
            return True  # the previous holder is dead: a live one would have the lock
        return (info.now_ns - found.stamp_ns) / 1e9 >= LEASE_S

    def _is_of_this_host(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.by.rpartition("/")[2].partition("-")[0] == self._progress.holder

    def _take(
        self,
        free: Sequence[tuple[int, Found | None]],
        info: StreamState,
        stopped: Callable[[], bool],
    ) -> bool:
        """Continue from the last checkpoints: replay open runs without sinks, write the checkpoints, then attach the sinks."""
        taken = {number: self._partition(number, found, info) for number, found in free}
        anew = [
            each.number for each in taken.values() if not each.known and not each.processed_upto
        ]
        if anew and info.last:
            self._say(
                f"partitions {shown(anew)} have no checkpoint of group {self._options.group}: they are read from the beginning of the stream",
                None,
            )
        if not self._replay(taken, stopped):
            for partition in taken.values():
                partition.leave()
            raise Stopped
        refused = self.write(taken.values())  # from here on, writes of the previous holder fail
        for number, found in free:
            partition = taken[number]
            if number in refused:  # its holder is alive: wait for it
                partition.leave()
                continue
            self.awaited.discard(number)
            self.held[number] = partition
            partition.attach_sinks(info.first)
            if found is not None and not self._is_of_this_host(found.checkpoint):
                self._metrics.takeovers += 1
        return True

    def _partition(self, number: int, found: Found | None, info: StreamState) -> Partition:
        partition = Partition(
            number,
            self._runtime,
            self._progress,
            self._clocks,
            created=info.created,
            by=self._by,
            found=found,
            settle_s=self._options.settle_s,
            say=lambda line: self._say(line, "broken"),
        )
        if not partition.known and self._options.begin_now:
            partition.begin(info.last)
        return partition

    def _replay(self, taken: dict[int, Partition], stopped: Callable[[], bool]) -> bool:
        """Replay processed messages to restore the open runs. Returns False if stopped before the end."""
        ahead = any(each.processed_upto > each.high for each in taken.values())
        again = {
            number: each
            for number, each in taken.items()
            if each.buckets or each.processed_upto > each.high
        }
        if not again:
            return True
        whole = subjects(sorted(again))
        buckets = [(number, bucket) for number, each in again.items() for bucket in each.buckets]
        last = max(each.processed_upto for each in again.values())
        first = min(each.begins_at for each in again.values())
        chosen = whole if ahead else subjects_of(buckets, whole)
        consumer = OrderedConsumer(self._client, self._ask, self._options.stream, chosen, first)
        while found := consumer.read():
            for message in found:
                if stopped():
                    return False
                partition = again.get(message.partition)
                if partition is not None and partition.replay(message):
                    self._metrics.read_again += message.body.count(b"\n") + 1
            if found[-1].sequence >= last:
                break
        consumer.close()
        return True

    # --- keeping -------------------------------------------------------------------------------------------------------

    def still_holds(self, partition: Partition) -> bool:
        """Whether this observer still holds the partition. Renews the lease first if it was not renewed for ten seconds.

        Raises :class:`TakenOver` if no partition is left to hold or to wait for.
        """
        if self.held.get(partition.number) is not partition:
            return False
        now_s = time.monotonic()
        if now_s - partition.written_s >= _SURE_S:
            self.renew(now_s)
        return self.held.get(partition.number) is partition

    def renew(self, now_s: float) -> None:
        """Write the checkpoints that have changed or are due for renewal. Raises :class:`TakenOver`."""
        due = [each for each in self.held.values() if each.due or now_s - each.written_s >= RENEW_S]
        refused = self.write(due)
        if refused:
            self._release_taken()

    def write(self, partitions: Iterable[Partition], *, left: bool = False) -> list[int]:
        """Write the checkpoints of these partitions. Returns the numbers of those that others have taken."""
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
                if found is None:  # the key was removed: recreate it the next time
                    given[number].revision = 0
                    continue
                if found.checkpoint.by != self._by:
                    refused.append(number)
                    continue
                revision = found.revision  # a reply to our write was lost: continue from here
            given[number].written(revision, now_s)
        return refused

    def _release_taken(self) -> None:
        """Release all partitions that others have taken."""
        others: dict[str, list[int]] = {}
        for number in sorted(self.held):
            found = self._checkpoints.read(number)
            by = found.checkpoint.by if found is not None else self._by
            if by == self._by:
                continue
            others.setdefault(by, []).append(number)
            partition = self.held.pop(number)
            partition.leave()
            self._metrics.released(partition.reading.counts)
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
    """Return host and process of a holder, for display."""
    return by.rpartition("/")[0] or "nobody"
