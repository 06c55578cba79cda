"""Empties the spool: oldest first, one daemon thread per destination.

A destination has its own cursor in the spool and its own back-off, so that a collector that hangs does not hold up the
local store. What is sent is acknowledged when the destination has all of a batch: after a crash at most that batch is sent
again. Nothing here is called by the program whose telemetry it is, but :meth:`Sender.wake`, which costs a comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from spanbus._delivery.lane import Lane
from spanbus._delivery.sender_options import (
    Destination,
    LaneStatistics,
    SenderOptions,
    Source,
    to_stderr,
)

if TYPE_CHECKING:
    from spanbus._delivery.dead_letters import DeadLetters

__all__ = ["Destination", "LaneStatistics", "Sender", "SenderOptions", "Source", "to_stderr"]


class Sender:
    """Threads start when there is something to do. All methods may be called from any thread.

    ``prepare`` runs in the first destination's thread before it reads, and every ``prepare_every_s``: the place to take over
    what dead processes left.
    """

    def __init__(
        self,
        source: Source,
        destinations: Sequence[Destination],
        options: SenderOptions | None = None,
        *,
        refused: DeadLetters | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        options = options or SenderOptions()
        self._refused = refused
        self.lanes = [
            Lane(
                source,
                destination,
                options,
                refused,
                self._prepared(prepare) if position == 0 and prepare is not None else None,
            )
            for position, destination in enumerate(destinations)
        ]

    def _prepared(self, prepare: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            prepare()
            for lane in self.lanes[1:]:
                lane.wake()

        return run

    def start(self) -> None:
        """Prepare, and send what waits."""
        for lane in self.lanes:
            lane.wake()

    def wake(self) -> None:
        """Wake the threads: a record was put."""
        for lane in self.lanes:
            if lane.sleeping:
                lane.wake()

    def warm(self, timeout_s: float) -> None:
        """Wait until what sending needs is loaded, so that no limit of :meth:`stop` is spent on it."""
        deadline = time.monotonic() + timeout_s
        for lane in self.lanes:
            lane.warm(deadline)

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when nothing waits any more, False when it took longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        for lane in self.lanes:
            lane.flush_now()
        return all([lane.wait_empty(deadline) for lane in self.lanes])

    def begin_shutdown(self, deadline_s: float) -> None:
        """Begin what :meth:`stop` waits for, without waiting."""
        for lane in self.lanes:
            lane.begin_shutdown(time.monotonic() + deadline_s)

    def stop(self, deadline_s: float) -> bool:
        """Send what can be sent within ``deadline_s``, then release the spool: True when nothing is left. May be called twice.

        No request is begun that is not likely to be answered by then. One that is under way is waited for a little longer
        where the destination is known to answer, for the next program would send the same again.
        """
        return self.stop_all([self], deadline_s)

    @staticmethod
    def stop_all(senders: Sequence[Sender], deadline_s: float) -> bool:
        """Stop several at once within one limit."""
        deadline = time.monotonic() + deadline_s
        lanes = [lane for sender in senders for lane in sender.lanes]
        for lane in lanes:
            lane.begin_shutdown(deadline)
        return all([lane.end(deadline) for lane in lanes])

    def forked(self) -> None:
        """In a child process: threads, locks and connections are the parent's."""
        if self._refused is not None:
            self._refused.forked()
        for lane in self.lanes:
            lane.reset()

    def statistics(self) -> Mapping[str, LaneStatistics]:
        """By destination."""
        return {lane.destination.name: lane.statistics() for lane in self.lanes}
