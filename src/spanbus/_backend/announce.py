"""Publishing of live progress to a running backend.

An :class:`Announcer` is a sink of the correlator. Opened and closed spans and events go into a bounded queue (one append under
the correlator's lock); a daemon thread sends them to the backend named by ``backend.json`` in the state directory. It also sends
a heartbeat, so that the backend detects a stopped or killed process. Best effort: without a backend nothing is sent and little is
done. It never raises or waits. Finished spans travel through the spool independently of it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from spanbus._backend.address import Address, ProcessId, read_address
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._loggers import Logger
from spanbus._named_tuple import NamedTuple
from spanbus._semantics import Level
from spanbus._workflow.event_ids import new_event_id

if TYPE_CHECKING:
    from http.client import HTTPConnection

logger = Logger(__name__)

PATH = "/live/publish"
_BATCH = 1_000
_PLAN_CHARS = 40_000
"""Limit of the plan, because a message has at most 64 KiB; further phases are not announced as waiting."""


class _Unanswered(Exception):
    """The backend did not accept the messages."""


class Wording(Protocol):
    """Redacted rendering of spans and events: :class:`spanbus._telemetry.template.Template`."""

    def event(self, note: SpanEvent, /) -> Mapping[str, object]: ...

    def status(self, record: SpanState, /) -> _Status: ...


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
    """Correlator sink that publishes runs live. Thread-safe; the thread starts with the first span.

    Call ``close``, or let the daemon thread end with the process. A forked child publishes nothing; its spans are still stored.
    """

    def __init__(
        self,
        state_dir: Path,
        wording: Wording,
        *,
        project: str = "",
        queue: int = 10_000,
        heartbeat_s: float = 0.5,
        look_for_backend_s: float = 0.5,
        timeout_s: float = 2.0,
    ) -> None:
        self._state_dir = state_dir
        self._wording = wording
        self._project = project
        self._heartbeat_s, self._look_s, self._timeout_s = (
            heartbeat_s,
            look_for_backend_s,
            timeout_s,
        )
        self._queue: deque[tuple[str, SpanState, SpanEvent | None]] = deque()
        self._limit = queue
        self._open: dict[int, SpanState] = {}
        self._pid = os.getpid()
        self._source = new_event_id()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._connected = False
        self._sent = self._dropped = self._errors = 0

    # --- called by the correlator: constant time ------------------------------------------------------------------------------

    def opened(self, record: SpanState) -> None:
        if self._closing or os.getpid() != self._pid:
            return
        self._open[record.span_id] = record
        if self._thread is None:
            self._start()
        self._put("opened", record, None)

    def closed(self, record: SpanState) -> None:
        self._open.pop(record.span_id, None)
        self._put("closed", record, None)

    def late(self, note: SpanEvent) -> None:
        """Ignored: its span has ended."""

    def noted(self, record: SpanState | None, note: SpanEvent) -> None:
        if record is not None:
            self._put("event", record, note)

    def _put(self, kind: str, record: SpanState, note: SpanEvent | None) -> None:
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
                thread = threading.Thread(target=self._work, name="spanbus-announce", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: nothing is published
                    self._closing = True
                else:
                    self._thread = thread

    def close(self, timeout_s: float = 0.1) -> None:
        """Send queued messages and announce the end, for at most ``timeout_s`` seconds. May be called twice."""
        with self._lock:
            self._closing = True
        self._ended.set()
        self._wake.set()
        thread = self._thread
        if (
            thread is not None
            and os.getpid() == self._pid
            and thread is not threading.current_thread()
        ):
            thread.join(timeout_s)

    def statistics(self) -> AnnouncerStatistics:
        return AnnouncerStatistics(self._connected, self._sent, self._dropped, self._errors)

    # --- the thread ----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            address = read_address(self._state_dir)
            if address is not None:
                try:
                    self._talk(address)
                except (OSError, _Unanswered) as error:
                    self._errors += 1
                    logger.debug("the live view is not reached: %s", error)
                except Exception:  # the thread must not end with a traceback in the run's output
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
        from http.client import HTTPConnection, HTTPException
        from urllib.parse import urlsplit

        parts = urlsplit(address.url)
        connection = HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=self._timeout_s
        )
        try:
            self._connected = True
            # Send the open spans first; one that is also in the queue is sent twice, which is harmless.
            self._post(
                connection,
                address,
                [self._span("opened", record) for record in list(self._open.values())],
            )
            while True:
                self._wake.wait(self._heartbeat_s)
                self._wake.clear()
                closing = self._closing
                while True:
                    batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                    messages = [
                        message
                        for kind, record, note in batch
                        for message in self._messages(kind, record, note)
                    ]
                    last = not self._queue
                    self._post(connection, address, messages, leaving=closing and last)
                    self._sent += len(messages)
                    if last:
                        break
                if closing:
                    return
        except HTTPException as error:
            raise _Unanswered(str(error)) from error
        finally:
            connection.close()

    def _post(
        self,
        connection: HTTPConnection,
        address: Address,
        messages: list[dict[str, object]],
        *,
        leaving: bool = False,
    ) -> None:
        document = {
            "v": 1,
            "source": self._source,
            **ProcessId.own()._asdict(),
            "messages": messages,
            "leaving": leaving,
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        connection.request(
            "POST",
            PATH,
            body,
            {"Content-Type": "application/json", "Authorization": f"Bearer {address.token}"},
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise _Unanswered(f"answer {answer.status}")

    def _messages(
        self, kind: str, record: SpanState, note: SpanEvent | None
    ) -> list[dict[str, object]]:
        if note is None:
            return [self._span(kind, record)]
        event = self._event(record, note)
        if record.level is Level.RUN and record.result is None and plan_of((note,)):
            return [event, self._span("opened", record)]  # again, now with the plan
        return [event]

    def _span(self, kind: str, record: SpanState) -> dict[str, object]:
        message: dict[str, object] = {
            "type": kind,
            "run_id": _text(record.run_id),
            "workflow": _text(record.workflow),
            "level": str(record.level),
            "name": _text(record.name),
            "trace_id": f"{record.trace_id:032x}",
            "span_id": f"{record.span_id:016x}",
            "parent_span_id": f"{record.parent_span_id:016x}"
            if record.parent_span_id is not None
            else None,
            "attempt": record.attempt,
            "attempts": record.attempts,
            "started_at_us": record.started_at_ns // 1_000,
        }
        if record.level is Level.RUN:
            if self._project:
                message["project"] = _text(self._project)
            if plan := plan_of(record.events):
                message["plan"] = plan
        if kind == "closed":
            message["ended_at_us"] = (record.ended_at_ns or record.started_at_ns) // 1_000
            message["duration_s"] = record.duration_s
            message["result"] = str(record.result)
            message["events"] = record.events_in_tree
            if record.failure is not None:
                message["error_type"] = _text(str(record.failure.error_type))
                message["error"] = _text(self._wording.status(record).description or "")
        return message

    def _event(self, record: SpanState, note: SpanEvent) -> dict[str, object]:
        return {
            "type": "event",
            "run_id": _text(record.run_id),
            "span_id": f"{record.span_id:016x}",
            "phase": _text(record.name) if record.level is not Level.RUN else "",
            "attempt": note.attempt,
            "name": _text(str(note.name)),
            "event_id": note.event_id,
            "at_us": note.at_ns // 1_000,
            "source": _text(note.source),
            "attributes": {
                key: _json_value(value) for key, value in self._wording.event(note).items()
            },
        }


def plan_of(events: Iterable[SpanEvent]) -> list[dict[str, object]]:
    """Phases in the start event of a run, with the phases that each needs; empty if no event has them."""
    for note in events:
        phases, needs = note.payload.get("phases"), note.payload.get("needs")
        if not isinstance(phases, (list, tuple)):
            continue
        of = cast("Mapping[str, object]", needs if isinstance(needs, Mapping) else {})
        plan = list[dict[str, object]]()
        size = 0
        for name in cast("Sequence[object]", phases):
            if not isinstance(name, str):
                return []
            wanted = of.get(name)
            entry = {
                "name": name,
                "needs": [
                    each for each in cast("Sequence[object]", wanted) if isinstance(each, str)
                ]
                if isinstance(wanted, (list, tuple))
                else [],
            }
            size += len(json.dumps(entry))
            if size > _PLAN_CHARS:
                break
            plan.append({"name": _text(name), "needs": [_text(each) for each in entry["needs"]]})
        return plan
    return []


def _text(text: str) -> str:
    return text[:1_024].encode("utf-8", "replace").decode()


def _json_value(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_json_value(each) for each in cast("Sequence[object]", value)]
    return _text(str(value))
