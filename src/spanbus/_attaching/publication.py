"""Publications: calls of publishing methods, which relate events to the run and phase of the publishing task.

Each call of a tapped method is a :class:`Publication`. A context variable holds the publications of a task and of its parent
tasks as a tuple, oldest first; a new task inherits those made before it was created. A publication lists the records that
its event opened, once the event is received, directly or from a queue.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Protocol, cast

from spanbus._attaching.opened import Opened
from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.span_state import SpanState
from spanbus._loaded import current_task
from spanbus._reading.places import TYPE_KEYS
from spanbus._reading.shape import getter

if TYPE_CHECKING:
    from asyncio import Task

_MAX_STACK = 64
_PRUNE_FROM = 4
_NO_IDS: frozenset[int] = frozenset()
_MAX_QUEUED = 4_096
_TYPE_CLASSES = (str, Enum)


class Observing(Protocol):
    """The property of a handle that this module reads."""

    @property
    def detached(self) -> bool: ...


Owner = Callable[[], Observing | None]
Reader = Callable[[tuple[object, ...], Mapping[str, object]], object]
UnreadCall = tuple[Reader, tuple[object, ...], Mapping[str, object]]


class Publication:
    """A call of a publishing method, and the records that its event opened."""

    __slots__ = (
        "batch_ids",
        "before",
        "event",
        "key",
        "kind",
        "method",
        "opened",
        "owner",
        "pending",
        "received",
        "running",
        "task",
        "unread_call",
    )

    def __init__(self, owner: Owner, method: str, unread_call: UnreadCall | None = None) -> None:
        self.owner = owner
        """Weak reference to the handle that observes the bus."""
        self.method = method
        self.unread_call = unread_call
        """The call, and the function that finds the event in it; read only when needed."""
        self.kind: str | None = None
        self.event: object = None
        """Type of the event, and the event or its payload; set by :meth:`read`."""
        self.running = True
        self.received = 0
        """Number of events received from this call."""
        self.opened: Sequence[SpanState] = ()
        self.batch_ids = _NO_IDS
        """``id()`` of the events of a batch and of their payloads."""
        self.pending: object = None
        """The event, until it is reported to the handle."""
        self.before: tuple[Publication, ...] = ()
        """Earlier publications of the task, kept while the event is queued."""
        self.key: str = ""
        """Identifies the publishing task, else the thread."""
        self.task: Callable[[], Task[object] | None] | None = None
        task = current_task()
        if task is not None:
            self.key, self.task = _hex(id(task)), weakref.ref(task)
        else:
            self.key = _hex(_publisher_id())

    def add_opened(self, record: SpanState) -> None:
        """Add a record that the event opened."""
        if not isinstance(self.opened, Opened):
            self.opened = Opened()
        self.opened.add(record)

    def read(self) -> object:
        """Find the event in the call and set ``kind`` and ``event``. Returns the event, None on later calls."""
        if self.unread_call is None:
            return None
        find, arguments, options = self.unread_call
        event = find(arguments, options)
        self.unread_call, self.event = None, event
        if isinstance(event, dict):
            fields = cast("dict[str, object]", event)
            kind, payload = fields.get("event_type"), fields.get("payload")
            self.kind = str(kind) if kind is not None else None
            self.event = payload if payload is not None else fields
            return fields
        return event

    def as_event(self) -> dict[str, object] | None:
        """Return the event with the type and payload of the publishing call; None if the call has no type."""
        event = self.read()
        if self.kind is None and event is not None:
            self.kind = kind_of(event)
        return None if self.kind is None else {"event_type": self.kind, "payload": self.event}

    @property
    def is_finished(self) -> bool:
        """Whether every record that it opened has ended, or its handle is gone."""
        if self.running:
            return False
        if self.received > 0:
            for record in self.opened:
                if record.result is None:
                    break
            else:
                return True
        handle = self.owner()
        return handle is None or handle.detached


publications: ContextVar[tuple[Publication, ...]] = ContextVar("spanbus_publications", default=())


def enter(publication: Publication, stack: tuple[Publication, ...]) -> None:
    """Append ``publication`` to those of this context (``stack``); finished ones are pruned from time to time."""
    if len(stack) >= _PRUNE_FROM or publication in stack:
        kept = [one for one in stack if one is not publication and not one.is_finished]
        stack = tuple(kept[-_MAX_STACK:])
    publications.set((*stack, publication))


def leave(publication: Publication) -> None:
    """Remove ``publication`` from the context unless it opened something."""
    publication.running = False
    if publication.received and not publication.opened:
        stack = publications.get()
        if stack and stack[-1] is publication:
            publications.set(stack[:-1])


def innermost(owner: Owner, stack: tuple[Publication, ...]) -> SpanState | None:
    """Return the innermost active record that the task, or one of its parents, opened on the owner's bus."""
    for publication in reversed(stack):
        if publication.opened and publication.owner is owner:
            for record in reversed(publication.opened):
                if record.result is None and record.held is None:  # not resting, inlined
                    return record
    return None


def innermost_active() -> SpanState | None:
    """Return the innermost active record that this task, or one of its parents, opened on any bus."""
    for publication in reversed(publications.get()):
        for record in reversed(publication.opened):
            if not record.resting:
                return record
    return None


class QueuedPublications:
    """Publications whose events arrive later from a queue; looked up by event, payload or event type. At most 4,096."""

    def __init__(self) -> None:
        self._by_event: dict[int, Publication] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._by_event)

    def put(self, publication: Publication) -> None:
        publication.before = tuple(
            one for one in publications.get() if one is not publication and not one.is_finished
        )
        with self._lock:
            if len(self._by_event) >= _MAX_QUEUED:
                del self._by_event[next(iter(self._by_event))]
            self._by_event[id(publication.event)] = publication

    def forget(self, publication: Publication) -> None:
        with self._lock:
            if self._by_event.get(id(publication.event)) is publication:
                del self._by_event[id(publication.event)]

    def find(self, event: object) -> Publication | None:
        """Remove and return the publication of ``event``."""
        payload = payload_of(event)
        with self._lock:
            for known in (event, payload):
                found = self._by_event.get(id(known))
                if found is not None and found.event is known:
                    del self._by_event[id(known)]
                    return found
            kind = kind_of(event)
            if kind is None:
                return None
            for key, found in self._by_event.items():
                if (found.kind or kind_of(found.event)) == kind:
                    del self._by_event[key]
                    return found
        return None


def kind_of(event: object) -> str | None:
    """Return the type of an event as text, if it is in one of the usual fields."""
    get = getter(event)
    for key in TYPE_KEYS:
        value = get(key)
        if isinstance(value, _TYPE_CLASSES):
            return str(value)
    return None


def payload_of(event: object) -> object:
    """Return the payload of an event, if it is in one of the usual fields."""
    get = getter(event)
    payload = get("payload")
    return payload if payload is not None else get("data")


def _publisher_id() -> int:
    """Return the id of the trio task, else of the thread."""
    if "trio" in sys.modules:
        from trio.lowlevel import current_task as current_trio_task

        try:
            return id(current_trio_task())
        except RuntimeError:
            pass
    return threading.get_ident()


_hex: Callable[[int], str] = bounded_cache("{:x}".format, 256)


def weak_reference(thing: object) -> Callable[[], object]:
    """Return a weak reference to ``thing``, or a strong one if its class does not support weak references."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing
