"""Publications: the calls of publishing methods by which a task says to which run and phase its events belong.

Each call of a tapped method is a :class:`Publication`. Those of a task, and of the tasks it was made by, stand in a context
variable as a tuple, oldest first: a task made later inherits what had been published until then and no more. What the
event opened is written on its publication when it is heard, at once or from a queue.
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
from spanbus._correlation.span_state import SpanState
from spanbus._loaded import current_task
from spanbus._reading.places import TYPE_KEYS
from spanbus._reading.shape import getter
from spanbus._remembering import remembering

if TYPE_CHECKING:
    from asyncio import Task

_MAX_STACK = 64
_PRUNE_FROM = 4
_NO_IDS: frozenset[int] = frozenset()
_MAX_QUEUED = 4_096
_TYPE_CLASSES = (str, Enum)


class Observing(Protocol):
    """A handle."""

    @property
    def detached(self) -> bool: ...


Owner = Callable[[], Observing | None]
Reader = Callable[[tuple[object, ...], Mapping[str, object]], object]
UnreadCall = tuple[Reader, tuple[object, ...], Mapping[str, object]]


class Publication:
    """One call of a publishing method."""

    __slots__ = (
        "batch_ids",
        "before",
        "event",
        "heard",
        "key",
        "kind",
        "method",
        "opened",
        "owner",
        "pending",
        "running",
        "task",
        "unread_call",
    )

    def __init__(self, owner: Owner, method: str, unread_call: UnreadCall | None = None) -> None:
        self.owner = owner
        """Gives the handle that observes the bus."""
        self.method = method
        self.unread_call = unread_call
        """Gives the event, with the call that it is found in; few ask."""
        self.kind: str | None = None
        self.event: object = None
        """Type of the event, and the event or its payload, once it was asked for."""
        self.running = True
        self.heard = 0
        """Number of events that came of it."""
        self.opened: Sequence[SpanState] = ()
        self.batch_ids = _NO_IDS
        """Identities of the events of a batch."""
        self.pending: object = None
        """The event, until it is told."""
        self.before: tuple[Publication, ...] = ()
        """Publications before it, while its event waits in a queue."""
        self.key: str = ""
        """Tells the task that publishes from others, else the thread."""
        self.task: Callable[[], Task[object] | None] | None = None
        task = current_task()
        if task is not None:
            self.key, self.task = _hex(id(task)), weakref.ref(task)
        else:
            self.key = _hex(_publisher_id())

    def add_opened(self, record: SpanState) -> None:
        """Its event opened ``record``: few do."""
        if not isinstance(self.opened, Opened):
            self.opened = Opened()
        self.opened.add(record)

    def read(self) -> object:
        """Find out its event, where that was not done before: its type, if it is quickly told, and what it is known by."""
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
        """The event as the call that published it told it, where it said a type."""
        self.read()
        return None if self.kind is None else {"event_type": self.kind, "payload": self.event}

    @property
    def is_finished(self) -> bool:
        """Whether it is finished: every span that it opened has ended, or nobody observes its bus now."""
        if self.running:
            return False
        if self.heard > 0:
            for record in self.opened:
                if record.result is None:
                    break
            else:
                return True
        handle = self.owner()
        return handle is None or handle.detached


publications: ContextVar[tuple[Publication, ...]] = ContextVar("spanbus_publications", default=())


def enter(publication: Publication, here: tuple[Publication, ...]) -> None:
    """Put ``publication`` last in this context, where there are those of ``here``; now and then those that are over leave it."""
    if len(here) >= _PRUNE_FROM or publication in here:
        kept = [one for one in here if one is not publication and not one.is_finished]
        here = tuple(kept[-_MAX_STACK:])
    publications.set((*here, publication))


def leave(publication: Publication) -> None:
    """Take ``publication`` out again when nothing came of it that lasts."""
    publication.running = False
    if publication.heard and not publication.opened:
        here = publications.get()
        if here and here[-1] is publication:
            publications.set(here[:-1])


def innermost(owner: Owner, here: tuple[Publication, ...]) -> SpanState | None:
    """The innermost record that a task, or a task above it, has opened and that is at work now."""
    for publication in reversed(here):
        if publication.opened and publication.owner is owner:
            for record in reversed(publication.opened):
                if record.result is None and record.held is None:  # not resting
                    return record
    return None


def innermost_active() -> SpanState | None:
    """The innermost record that this task, or a task above it, has opened on any bus and that is at work now."""
    for publication in reversed(publications.get()):
        for record in reversed(publication.opened):
            if not record.resting:
                return record
    return None


class QueuedPublications:
    """Publications whose events come later, from a queue: found by the event itself, its payload, or else its type."""

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
        """The publication that ``event`` comes of, which waits no longer."""
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
    """The type of an event as text, where it is in one of the usual places."""
    get = getter(event)
    for key in TYPE_KEYS:
        value = get(key)
        if isinstance(value, _TYPE_CLASSES):
            return str(value)
    return None


def payload_of(event: object) -> object:
    """The payload of an event, where it is in one of the usual places."""
    get = getter(event)
    payload = get("payload")
    return payload if payload is not None else get("data")


def _publisher_id() -> int:
    """Identity of the running code, where it is no task of asyncio."""
    if "trio" in sys.modules:
        from trio.lowlevel import current_task as current_trio_task

        try:
            return id(current_trio_task())
        except RuntimeError:
            pass
    return threading.get_ident()


_hex: Callable[[int], str] = remembering("{:x}".format, 256)


def weak_reference(thing: object) -> Callable[[], object]:
    """A weak reference where one can be made, else a strong one."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing
