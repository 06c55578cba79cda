"""Live stream of running workflows to many clients, some of them slow.

Publishers (a ``spanbus run`` in another process, or a bus in this one) add messages, which are numbered and kept in one bounded
ring buffer. Each client is a position in that ring. A slow client is moved forward and told how many messages it missed; a
reconnecting client resumes after its last id. Nothing waits for a client. ``docs/live.md`` describes the messages.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from spanbus._backend.address import ProcessId
from spanbus._backend.event_messages import EventMessages, redactor_of_settings
from spanbus._backend.frames import VERSION as VERSION
from spanbus._backend.frames import Frames
from spanbus._backend.live_limits import LiveLimits as LiveLimits
from spanbus._backend.live_limits import LiveStatistics as LiveStatistics
from spanbus._telemetry.redaction import Redactor
from spanbus.errors import InputError

LiveState = Literal["running", "stalled", "killed", "ended"]
Members = Mapping[str, object]


class BadMessage(ValueError):
    """A publisher's message is malformed."""


class _Bus(Protocol):
    def subscribe(self, event_type: None, handler: Callable[[object], object], /) -> str: ...

    def unsubscribe(self, subscription_id: str, /) -> bool: ...


@dataclass(slots=True)
class _Source:
    """One publisher: a process, or a bus in this process."""

    process: ProcessId | None
    seen_at: float
    runs: set[str] = field(default_factory=set[str])
    state: LiveState = "running"
    allowance: float = 0.0
    """Number of messages that it may send now (token bucket)."""


@dataclass(slots=True)
class _Run:
    """State of a live run, for clients that connect later."""

    run_id: str
    source: str
    state: LiveState = "running"
    span: Members | None = None
    open: dict[str, Members] = field(default_factory=dict[str, Members])
    closed: dict[str, Members] = field(default_factory=dict[str, Members])
    """Ended phases; their descendants are in the store."""
    ended_at: float | None = None
    changed_at: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes of the kept messages by span id; the key of ``span`` is empty."""


class EventBusWebSocketBridge:
    """Numbers messages, keeps the newest, and sends them to WebSocket clients.

    All methods except :meth:`observer` must be called in the event loop of :meth:`serve`. :meth:`run` is the bridge's own task;
    without it, attached buses are not read and stalled publishers are not detected.
    """

    def __init__(
        self,
        limits: LiveLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        redactor: Redactor | None = None,
    ) -> None:
        self._messages = EventMessages(redactor or redactor_of_settings())
        self._limits = limits or LiveLimits()
        self._clock = clock
        self.epoch = secrets.token_hex(8)
        """Start of the backend that ids belong to; a resuming client must send it."""
        self._ring: deque[str] = deque()
        self._ring_bytes = 0
        self._last_id = 0
        self._news = anyio.Event()
        self._frames = Frames(self._ring, self._limits.frame_bytes)
        self._sources: dict[str, _Source] = {}
        self._runs: dict[str, _Run] = {}
        self._open_spans = 0
        self._state_bytes = 0
        self._clients = 0
        self._refused = 0
        self._missed = 0
        self._forgotten = 0
        """Live runs that were dropped since the last ``forgotten`` message."""
        self._inbox: deque[object] = deque(maxlen=self._limits.inbox)
        self._inbox_taken = 0
        self._inbox_put = 0
        self._closing = False
        self._waiters: set[Callable[[Members], None]] = set()

    # --- in ---------------------------------------------------------------------------------------------------------------

    def attach(self, bus: _Bus) -> Callable[[], bool]:
        """Send the events of a bus in this process to the clients; call the result to detach.

        Payloads are redacted as for span events: only allowed keys, without secrets. Raises :class:`~spanbus.errors.InputError`
        for a bus without ``subscribe(None, handler)``; subscribe :meth:`observer` to it instead.
        """
        if not callable(getattr(bus, "subscribe", None)):
            raise InputError(
                f"attach takes a bus with subscribe(None, handler), and {type(bus).__name__} has none; give its events to bridge.observer"
            )
        identity = bus.subscribe(None, self.observer)
        return lambda: bus.unsubscribe(identity)

    def observer(self, event: object) -> bool:
        """Subscriber for any form of event; thread-safe, never waits. A full inbox drops its oldest event, counted as missed."""
        self._inbox_put += 1
        self._inbox.append(event)
        return True

    def announce(
        self,
        source: str,
        process: ProcessId | None,
        messages: list[object],
        *,
        leaving: bool = False,
    ) -> None:
        """Take the messages of one publisher. An empty list is a heartbeat; ``leaving`` says that the publisher ends.

        Raises :class:`BadMessage` for the first malformed message; the messages before it are accepted.
        """
        known = self._sources.get(source)
        if known is None:
            if len(self._sources) >= self._limits.clients:
                raise BadMessage("too many publishers")
            known = self._sources[source] = _Source(
                process, self._clock(), allowance=self._limits.publisher_messages
            )
        now = self._clock()
        known.allowance = min(
            self._limits.publisher_messages,
            known.allowance + (now - known.seen_at) * self._limits.publisher_messages_s,
        )
        known.seen_at = now
        if len(messages) > known.allowance:
            self._missed += len(messages) - int(known.allowance)
            messages = messages[: int(known.allowance)]
        known.allowance -= len(messages)
        if known.state != "running":
            known.state = "running"
            self._source_changed(known, "running")
        for message in messages:
            self._accept(source, known, message)
        if leaving:
            self._sources.pop(source, None)
            self._source_changed(known, "ended")

    def _accept(self, source: str, known: _Source, message: object) -> None:
        if not isinstance(message, dict):
            raise BadMessage("a message is an object")
        members = cast("dict[str, object]", message)
        kind = members.get("type")
        run_id = _text(members, "run_id", 256)
        if kind == "event":
            _text(members, "name", 1_024)
            self.put({**members, "type": "event"})
            return
        if kind not in ("opened", "closed"):
            raise BadMessage(f"unknown type {str(kind)[:50]!r}")
        span_id, level = _text(members, "span_id", 64), _text(members, "level", 32)
        _text(members, "name", 4_096)
        number = members.get("started_at_us")
        if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= 2**53:
            raise BadMessage("started_at_us is an integer below 2**53")  # exact in JavaScript
        if kind == "closed":
            _text(members, "result", 64)
        if run_id not in known.runs and len(known.runs) >= self._limits.publisher_runs:
            self._missed += 1
            return
        run = self._run(run_id, source)
        known.runs.add(run_id)
        size = self._put({**members, "type": kind})
        if not size:
            return
        if kind == "opened":
            if level == "run":
                run.span = self._keep_state(run, "", members, size)
            elif span_id not in run.open and self._open_spans < self._limits.open_spans:
                kept = self._keep_state(run, span_id, members, size)
                if kept is not None:
                    run.open[span_id] = kept
                    self._open_spans += 1
            return
        if run.open.pop(span_id, None) is not None:
            self._open_spans -= 1
            self._free_state(run, span_id)
        if level == "phase" and len(run.closed) < 1_000:
            kept = self._keep_state(run, span_id, members, size)
            if kept is not None:
                run.closed[span_id] = kept
        if level == "run":
            run.span = self._keep_state(run, "", members, size)
            self._ended(run, known)

    def _keep_state(self, run: _Run, key: str, members: Members, size: int) -> Members | None:
        """Replace the state kept under ``key``; return ``members``, or None when there is no room."""
        self._free_state(run, key)
        if self._state_bytes + size > self._limits.state_bytes:
            run.closed.pop(key, None)
            return None
        run.sizes[key] = size
        self._state_bytes += size
        return members

    def _free_state(self, run: _Run, key: str) -> None:
        self._state_bytes -= run.sizes.pop(key, 0)

    def _run(self, run_id: str, source: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None or run.ended_at is not None:
            if len(self._runs) >= self._limits.runs:
                ended = sorted(
                    self._runs.values(),
                    key=lambda each: (each.ended_at is None, each.ended_at or each.changed_at),
                )
                self._forgotten += ended[0].ended_at is None
                self._forget(ended[0])
            run = self._runs[run_id] = _Run(run_id, source, changed_at=self._clock())
        return run

    def _ended(self, run: _Run, known: _Source) -> None:
        known.runs.discard(run.run_id)
        run.state, run.ended_at = "ended", self._clock()
        self._open_spans -= len(run.open)
        for key in run.open:
            self._free_state(run, key)
        run.open.clear()

    def _forget(self, run: _Run) -> None:
        self._open_spans -= len(run.open)
        self._state_bytes -= sum(run.sizes.values())
        del self._runs[run.run_id]
        source = self._sources.get(run.source)
        if source is not None:
            source.runs.discard(run.run_id)

    def put(self, message: Members) -> int:
        """Add a message for every client. Returns its id, 0 when it is too large."""
        return self._last_id if self._put(message) else 0

    def _put(self, message: Members) -> int:
        """Add a message; return the size of its text, 0 when it is too large."""
        identity = self._last_id + 1
        try:
            text = json.dumps({**message, "id": identity}, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            raise BadMessage("a message is plain JSON, without NaN") from None
        if len(text) > self._limits.message_bytes:
            self._missed += 1
            return 0
        self._last_id = identity
        self._ring.append(text)
        self._ring_bytes += len(text)
        while len(self._ring) > self._limits.ring_messages or (
            self._ring_bytes > self._limits.ring_bytes and len(self._ring) > 1
        ):
            self._ring_bytes -= len(self._ring.popleft())
        for waiter in tuple(self._waiters):
            waiter(message)
        self._news.set()
        self._news = anyio.Event()
        return len(text)

    # --- publishers -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Run the bridge's task, and disconnect the clients at the end: ``Starlette(lifespan=bridge.lifespan)``."""
        del app
        async with anyio.create_task_group() as group:
            group.start_soon(self.run)
            yield
            self.close()
            group.cancel_scope.cancel()

    async def run(self) -> None:
        """Read the attached buses and detect silent publishers, until cancelled."""
        looked_at = self._clock()
        while True:
            self.drain_inbox()
            if self._clock() - looked_at >= 0.25:
                looked_at = self._clock()
                self.check_publishers()
            await anyio.sleep(self._limits.pace_s)

    def check_publishers(self) -> None:
        """Update the state of silent publishers, drop old ended runs, and report dropped live runs."""
        now = self._clock()
        if self._forgotten:
            forgotten, self._forgotten = self._forgotten, 0
            self.put({"type": "forgotten", "count": forgotten})
        for name, source in list(self._sources.items()):
            silent_s = now - source.seen_at
            if silent_s < (
                self._limits.stalled_after_s
                if source.process is not None
                else self._limits.unknown_stalled_after_s
            ):
                continue
            if source.state == "running":
                source.state = "stalled"
                self._source_changed(source, "stalled")
            elif (
                source.process is not None
                and silent_s >= self._limits.gone_after_s
                and source.process.gone()
            ):
                del self._sources[name]
                self._source_changed(source, "killed")
            elif silent_s > (
                24 * 3600.0 if source.process is not None else self._limits.unknown_gone_after_s
            ):  # its process cannot be checked
                del self._sources[name]
                self._source_changed(source, "ended")
        for run in list(self._runs.values()):
            if run.ended_at is not None and now - run.ended_at > self._limits.ended_kept_s:
                self._forget(run)

    def _source_changed(self, source: _Source, state: LiveState) -> None:
        for run_id in sorted(source.runs):
            run = self._runs.get(run_id)
            if run is None or run.state == state:
                continue
            run.state, run.changed_at = state, self._clock()
            if state in ("killed", "ended"):
                run.ended_at = self._clock()
            self.put(
                {
                    "type": "run_state",
                    "run_id": run_id,
                    "state": state,
                    "at_us": time.time_ns() // 1_000,
                }
            )

    def drain_inbox(self) -> None:
        """Send the events of attached buses to the clients."""
        while self._inbox:
            try:
                event = self._inbox.popleft()
            except IndexError:
                break
            self._inbox_taken += 1
            try:
                self.put(self._messages.of(event))
            except Exception:  # the event may be any object; go on with the others
                self._missed += 1
        gone = self._inbox_put - self._inbox_taken - len(self._inbox)
        if gone > 0:
            self._inbox_taken += gone
            self._missed += gone
            self.put({"type": "dropped", "count": gone})

    # --- out --------------------------------------------------------------------------------------------------------------

    def live_runs(self) -> list[dict[str, object]]:
        """State of the live and the recently ended runs, sent first to each client."""
        return [
            {
                "run_id": run.run_id,
                "state": run.state,
                "span": run.span,
                "open": list(run.open.values()),
                "closed": list(run.closed.values()),
            }
            for run in self._runs.values()
        ]

    async def serve(self, websocket: WebSocket) -> None:
        """Serve a client until it disconnects: messages after ``?after=ID&epoch=EPOCH``, or from now on."""
        if self._clients >= self._limits.clients or self._closing:
            self._refused += 1
            await websocket.close(1013)
            return
        await websocket.accept()
        self._clients += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, websocket, group.cancel_scope)
                await self._send_all(websocket)
                group.cancel_scope.cancel()
        except* (WebSocketDisconnect, TimeoutError, OSError, RuntimeError):
            pass  # the client disconnected, or did not take a frame in time
        finally:
            self._clients -= 1

    async def _listen(self, websocket: WebSocket, scope: anyio.CancelScope) -> None:
        """Read until the client disconnects; its messages are ignored."""
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return

    async def _send_all(self, websocket: WebSocket) -> None:
        position = self._last_id
        resumed = False
        after = websocket.query_params.get("after", "")
        if (
            after.isascii()
            and after.isdigit()
            and len(after) < 20
            and websocket.query_params.get("epoch") == self.epoch
        ):
            position, resumed = min(int(after), self._last_id), True
        hello = {
            "v": VERSION,
            "type": "hello",
            "epoch": self.epoch,
            "last_id": position,
            "resumed": resumed,
            "runs": self.live_runs(),
        }
        await self._send(websocket, json.dumps(hello, separators=(",", ":")))
        while not self._closing:
            news = self._news
            oldest = self._last_id - len(self._ring)  # the id before the oldest in the ring
            behind = self._last_id - position
            if behind > self._limits.client_lag_messages and not resumed:
                oldest = max(oldest, self._last_id - self._limits.client_lag_messages // 2)
            if position < oldest:
                missed = oldest - position
                self._missed += missed
                position = oldest
                state = {
                    "v": VERSION,
                    "type": "missed",
                    "count": missed,
                    "next_id": oldest + 1,
                    "runs": self.live_runs(),
                }
                await self._send(websocket, json.dumps(state, separators=(",", ":")))
            elif position < self._last_id:
                position, frame = self._frames.after(position, self._last_id)
                await self._send(websocket, frame)
                resumed = resumed and position < self._last_id
                await anyio.sleep(0 if resumed else self._limits.pace_s)
            else:
                resumed = False
                await news.wait()
        await websocket.close(1012)

    async def _send(self, websocket: WebSocket, text: str) -> None:
        with anyio.fail_after(self._limits.send_timeout_s):
            await websocket.send_text(text)

    def close(self) -> None:
        """Disconnect every client with "service restart"; clients reconnect by themselves."""
        self._closing = True
        self._news.set()

    def statistics(self) -> LiveStatistics:
        return LiveStatistics(
            self._clients,
            self._refused,
            self._last_id,
            self._missed,
            self._ring_bytes,
            len(self._runs),
            len(self._sources),
        )

    def on_message(self, waiter: Callable[[Members], None]) -> Callable[[], None]:
        """Call ``waiter`` in the loop for every message; call the result to remove it."""
        self._waiters.add(waiter)
        return lambda: self._waiters.discard(waiter)


def _text(members: Members, name: str, limit: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise BadMessage(f"{name} is a text of at most {limit} characters")
    return value
