"""Tell a running backend, if there is one, what a workflow is doing now.

An :class:`Announcer` is a sink of the recorder: what opens, closes and is noted goes into a bounded queue (one append
under the recorder's lock), and one daemon thread brings it to the backend that ``backend.json`` in the state directory
names. It also sends a heartbeat, so that a process that was stopped or killed is seen as such. Best effort in every way:
without a backend nothing is sent and next to nothing is done; nothing is raised, nothing is waited for, and what is shown
live is not what is stored: finished spans travel through the spool.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from spanbus.local.address import Address, ProcessId, read_address
from spanbus.telemetry.names import Level
from spanbus.telemetry.records import EventNote, Record
from spanbus.workflow.events import new_event_id

logger = logging.getLogger(__name__)

PATH = "/live/publish"
_BATCH = 1_000


class Wording(Protocol):
    """How records are put into words that may leave the process: :class:`spanbus.telemetry.spans.Rendering`."""

    def event(self, note: EventNote) -> Mapping[str, object]: ...

    def status(self, record: Record) -> _Status: ...


class _Status(Protocol):
    @property
    def description(self) -> str | None: ...


class AnnouncerStatistics(NamedTuple):
    """Counts since the start."""

    connected: bool
    sent: int
    dropped: int
    errors: int


class Announcer:
    """A recorder sink that shows runs live. ``close`` within its limit, or let the daemon thread end with the process.

    Thread-safe; the thread starts with the first record. A forked child announces nothing: its spans are stored as ever.
    """

    def __init__(
        self, state_dir: Path, wording: Wording, *, queue: int = 10_000, heartbeat_s: float = 0.5, look_for_backend_s: float = 0.5,
        timeout_s: float = 2.0,
    ) -> None:
        self._state_dir = state_dir
        self._wording = wording
        self._heartbeat_s, self._look_s, self._timeout_s = heartbeat_s, look_for_backend_s, timeout_s
        self._queue: deque[tuple[str, Record, EventNote | None]] = deque()
        self._limit = queue
        self._open: dict[int, Record] = {}
        self._pid = os.getpid()
        self._source = new_event_id()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._connected = False
        self._sent = self._dropped = self._errors = 0

    # --- the recorder's side: constant time ---------------------------------------------------------------------------------

    def opened(self, record: Record) -> None:
        if self._closing or os.getpid() != self._pid:
            return
        self._open[record.span_id] = record
        if self._thread is None:
            self._start()
        self._put("opened", record, None)

    def closed(self, record: Record) -> None:
        self._open.pop(record.span_id, None)
        self._put("closed", record, None)

    def late(self, note: EventNote) -> None:
        """Nothing live has it."""

    def noted(self, record: Record | None, note: EventNote) -> None:
        if record is not None:
            self._put("event", record, note)

    def _put(self, kind: str, record: Record, note: EventNote | None) -> None:
        if not self._connected or os.getpid() != self._pid:
            return
        if len(self._queue) >= self._limit:
            self._dropped += 1
            return
        self._queue.append((kind, record, note))
        if not self._wake.is_set():
            self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._work, name="spanbus-announce", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float = 0.1) -> None:
        """Send what is queued, say good-bye, at most ``timeout_s``. May be called twice."""
        with self._lock:
            self._closing = True
        self._ended.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and os.getpid() == self._pid and thread is not threading.current_thread():
            thread.join(timeout_s)

    def statistics(self) -> AnnouncerStatistics:
        return AnnouncerStatistics(self._connected, self._sent, self._dropped, self._errors)

    # --- the thread's side ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            address = read_address(self._state_dir)
            if address is not None:
                try:
                    self._talk(address)
                except (OSError, http.client.HTTPException) as error:
                    self._errors += 1
                    logger.debug("the live view is not reached: %s", error)
                except Exception:  # a wall: an error of the live view must not end the thread with noise in the run
                    self._errors += 1
                    logger.debug("the live view", exc_info=True)
                finally:
                    self._connected = False
                    self._dropped += len(self._queue)
                    self._queue.clear()
            if self._closing:
                return
            self._wake.clear()
            self._ended.wait(self._look_s)  # not for the wake event, which every record sets

    def _talk(self, address: Address) -> None:
        parts = urlsplit(address.url)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=self._timeout_s)
        try:
            self._connected = True
            # Whoever connects late first tells what is open; a start that is also in the queue is told twice, which is harmless.
            self._post(connection, address, [self._span("opened", record) for record in list(self._open.values())])
            while True:
                self._wake.wait(self._heartbeat_s)
                self._wake.clear()
                closing = self._closing
                while True:
                    batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                    messages = [self._span(kind, record) if note is None else self._event(record, note) for kind, record, note in batch]
                    last = not self._queue
                    self._post(connection, address, messages, leaving=closing and last)
                    self._sent += len(messages)
                    if last:
                        break
                if closing:
                    return
        finally:
            connection.close()

    def _post(self, connection: http.client.HTTPConnection, address: Address, messages: list[dict[str, object]], *, leaving: bool = False) -> None:
        document = {"v": 1, "source": self._source, **ProcessId.own()._asdict(), "messages": messages, "leaving": leaving}
        body = json.dumps(document, separators=(",", ":")).encode()
        connection.request("POST", PATH, body, {"Content-Type": "application/json", "Authorization": f"Bearer {address.token}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise http.client.HTTPException(f"answer {answer.status}")

    def _span(self, kind: str, record: Record) -> dict[str, object]:
        message: dict[str, object] = {
            "type": kind, "run_id": _clean(record.run_id), "workflow": _clean(record.workflow), "level": str(record.level), "name": _clean(record.name),
            "trace_id": f"{record.trace_id:032x}", "span_id": f"{record.span_id:016x}",
            "parent_span_id": f"{record.parent_span_id:016x}" if record.parent_span_id is not None else None,
            "attempt": record.attempt, "attempts": record.attempts, "started_at_us": record.started_at_ns // 1_000,
        }
        if kind == "closed":
            message["ended_at_us"] = (record.ended_at_ns or record.started_at_ns) // 1_000
            message["duration_s"] = record.duration_s
            message["result"] = str(record.result)
            message["events"] = record.events_in_tree
            if record.failure is not None:
                message["error_type"] = _clean(str(record.failure.error_type))
                message["error"] = _clean(self._wording.status(record).description or "")
        return message

    def _event(self, record: Record, note: EventNote) -> dict[str, object]:
        return {
            "type": "event", "run_id": _clean(record.run_id), "span_id": f"{record.span_id:016x}",
            "phase": _clean(record.name) if record.level is not Level.RUN else "", "attempt": note.attempt,
            "name": _clean(str(note.name)), "event_id": note.event_id, "at_us": note.at_ns // 1_000, "source": _clean(note.source),
            "attributes": {key: _value(value) for key, value in self._wording.event(note).items()},
        }


def _clean(text: str) -> str:
    return text[:1_024].encode("utf-8", "replace").decode()


def _value(value: object) -> object:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in cast("Sequence[object]", value)]
    return _clean(str(value))
