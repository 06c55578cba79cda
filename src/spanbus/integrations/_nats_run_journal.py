"""Journal of the open runs and phases of a publisher, in its outbox. The next process ends those of a dead publisher.

Only used if observers make the telemetry. Otherwise a process journals its open spans instead.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

from spanbus._delivery.recovery import Leftover
from spanbus._delivery.spool import Spool
from spanbus._semantics import ErrorType, Result
from spanbus._workflow.event_ids import new_event_id
from spanbus._workflow.events import Event, WorkflowEvent

RUN_ENDS: Final = frozenset(
    (
        WorkflowEvent.WORKFLOW_COMPLETED,
        WorkflowEvent.WORKFLOW_FAILED,
        WorkflowEvent.WORKFLOW_INTERRUPTED,
    )
)
_PHASE_ENDS: Final = frozenset(
    (
        WorkflowEvent.PHASE_COMPLETED,
        WorkflowEvent.PHASE_FAILED,
        WorkflowEvent.PHASE_SKIPPED,
        WorkflowEvent.PHASE_CANCELLED,
    )
)
_RUNS_KEPT: Final = 4_096


class RunJournal:
    """Journals the open runs and phases of this process. Thread-safe."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._lock = spool, threading.Lock()
        self._runs: OrderedDict[str, set[int]] = OrderedDict()
        """Keys of the open journal entries of each run."""

    def record_end(self, event: Event) -> None:
        """Close the entries that an event ends. Call before the event is put into the outbox, so that nobody ends them twice."""
        run_id = event.run_id
        if run_id is None:
            return
        if event.phase is None and event.event_type in RUN_ENDS:
            with self._lock:
                keys = self._runs.pop(run_id, set())
            for key in keys:
                self._spool.journal_close(key)
        elif event.phase is not None and event.event_type in _PHASE_ENDS:
            key = _key(run_id, event.phase)
            with self._lock:
                self._runs.get(run_id, set()).discard(key)
            self._spool.journal_close(key)

    def record_start(self, event: Event, workflow: str | None) -> None:
        """Open an entry for a started run or phase, or record the run as alive. Call after the event is in the outbox."""
        run_id, phase = event.run_id, event.phase
        starts = event.event_type == (
            WorkflowEvent.WORKFLOW_STARTED if phase is None else WorkflowEvent.PHASE_STARTED
        )
        if run_id is None:
            return
        if not starts:
            if run_id in self._runs:  # an end written later must not precede this event
                self._spool.journal_alive(event.at_ns)
            return
        key = _key(run_id, phase)
        with self._lock:
            self._runs.setdefault(run_id, set()).add(key)
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
        entry = {"run_id": run_id, "phase": phase, "workflow": workflow, "at_ns": event.at_ns}
        self._spool.journal_open(key, json.dumps(entry).encode())
        self._spool.journal_alive(event.at_ns)

    def forked(self) -> None:
        """Reset in a forked child: the open runs belong to the parent."""
        self._lock = threading.Lock()
        self._runs.clear()


def ends_of(leftover: Leftover) -> Iterator[tuple[Event, str | None]]:
    """Yield end events for the open phases, then the open runs, of a dead publisher, each with its workflow.

    They are stamped with the time at which the publisher was last known to be alive.
    """
    found = [entry for _, parts in leftover.open if (entry := _entry(parts)) is not None]
    for entry in sorted(found, key=lambda each: each["phase"] is None):
        workflow, phase = entry["workflow"], entry["phase"]
        payload: dict[str, object] = {
            "success": False,
            "result": str(Result.ERROR),
            "error_type": str(ErrorType.KILLED),
            "error": "its process died",
        }
        if phase is None:
            payload["workflow"] = workflow
        yield (
            Event(
                WorkflowEvent.WORKFLOW_FAILED if phase is None else WorkflowEvent.PHASE_FAILED,
                new_event_id(),
                max(leftover.alive_ns, int(entry["at_ns"])),
                payload,
                run_id=str(entry["run_id"]),
                phase=phase,
            ),
            workflow,
        )


def _entry(parts: Sequence[bytes]) -> Any:
    try:
        entry: Any = json.loads(parts[0])
        return entry if {"run_id", "phase", "workflow", "at_ns"} <= set(entry) else None
    except (ValueError, TypeError, IndexError):
        return None


def _key(run_id: str, phase: str | None) -> int:
    text = run_id if phase is None else f"{run_id}\x1f{phase}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) or 1
