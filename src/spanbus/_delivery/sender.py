"""Sender: sends the records of the spool, oldest first, one daemon thread per destination.

Each destination has its own cursor in the spool and its own back-off, so that a collector that hangs does not hold up the
local store. A batch is acknowledged when the destination has all of it; after a crash at most that batch is sent again. The
observed program calls only :meth:`Sender.wake`, which costs a comparison.
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
    """Sends from a source to destinations; threads start lazily. Thread-safe.

    ``prepare`` runs in the first destination's thread before its first read, then every ``prepare_every_s``. It adopts dead
    processes.
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
        """Prepare, and send waiting records."""
        for lane in self.lanes:
            lane.wake()

    def wake(self) -> None:
        """Wake sleeping threads after a record was put."""
        for lane in self.lanes:
            if lane.sleeping:
                lane.wake()

    def warm(self, timeout_s: float) -> None:
        """Wait until the imports for sending are done, so that they take no time of :meth:`stop`."""
        deadline = time.monotonic() + timeout_s
        for lane in self.lanes:
            lane.warm(deadline)

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when nothing waits, False when it took longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        for lane in self.lanes:
            lane.flush_now()
        return all([lane.wait_empty(deadline) for lane in self.lanes])

    def begin_shutdown(self, deadline_s: float) -> None:
        """Begin :meth:`stop` without waiting."""
        for lane in self.lanes:
            lane.begin_shutdown(time.monotonic() + deadline_s)

    def stop(self, deadline_s: float) -> bool:
        """Send within ``deadline_s`` seconds, then release the spool; True when nothing is left. May be called twice.

        No request is started unless an answer is likely before the deadline. A request under way gets a little longer if the
        destination is known to answer, because the next program would send the same records again.
        """
        return self.stop_all([self], deadline_s)

    @staticmethod
    def stop_all(senders: Sequence[Sender], deadline_s: float) -> bool:
        """Stop several senders at once within one limit."""
        deadline = time.monotonic() + deadline_s
        lanes = [lane for sender in senders for lane in sender.lanes]
        for lane in lanes:
            lane.begin_shutdown(deadline)
        return all([lane.end(deadline) for lane in lanes])

    def forked(self) -> None:
        """In a child process: replace the parent's threads, locks and connections."""
        if self._refused is not None:
            self._refused.forked()
        for lane in self.lanes:
            lane.reset()

    def statistics(self) -> Mapping[str, LaneStatistics]:
        """Statistics by destination."""
        return {lane.destination.name: lane.statistics() for lane in self.lanes}
