"""Work that an adapter wraps: a start and an end event are published, and its span is current inside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from spanbus._attaching.current import deepest
from spanbus._attaching.publication import Publication, enter, leave, publications
from spanbus._attaching.task_ends import ended_with
from spanbus._semantics import Result
from spanbus._telemetry.span_handle import context_of

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle

Kind = Literal["run", "phase", "job", "hook"]
ErrorInfo = str | Mapping[str, str]
"""An error as text, or as its ``type`` and ``message``."""

_TYPES: Mapping[Kind, str] = {
    "run": "run",
    "phase": "phase",
    "job": "job",
    "hook": "hooks.execution",
}
_KEYS: Mapping[Kind, str] = {"run": "workflow", "phase": "phase", "job": "job", "hook": "hook"}
_WORDS: Mapping[Result, str] = {
    Result.SUCCESS: "completed",
    Result.TIMEOUT: "timeout",
    Result.CANCELLATION: "cancelled",
}
_run_here: ContextVar[str | None] = ContextVar("spanbus_run_here", default=None)
"""Id of the enclosing run in this context."""


class Work:
    """A run, phase, job or hook. None of its methods raises.

    ``payload`` is sent with its events. Runs and jobs get an id unless ``payload`` has a ``run_id``; phases take that of the
    enclosing run. A ``traceparent`` in ``payload`` is the parent of a run. ``doer`` identifies the worker: it distinguishes the
    attempts of one phase from parallel phases of the same name, if task or thread do not. ``of_task``: without an end event,
    the end of the task that began the work ends it.
    """

    def __init__(
        self,
        handle: Handle,
        kind: Kind,
        name: str,
        payload: Mapping[str, object],
        *,
        doer: str | None = None,
        of_task: bool = False,
    ) -> None:
        self._doer, self._parent, self._of_task = doer, payload.get("traceparent"), of_task
        self._handle, self._type, self._payload = handle, _TYPES[kind], payload
        given = payload.get("run_id")
        self._outermost = kind in ("run", "job")
        if given is None:
            given = uuid4().hex if self._outermost else _run_here.get()
        self.run_id = None if given is None else str(given)
        self._identity: dict[str, object] = {_KEYS[kind]: name}
        if self.run_id is not None:
            self._identity["run_id"] = self.run_id
        self._publication: Publication | None = None
        self._inside: tuple[Publication, ...] = ()

    def begin(self) -> None:
        """Publish the start, in the task that does the work. After :meth:`retry`, publish the start of the next attempt."""
        publication = self._publication = Publication(self._handle.ref, "work")
        if not self._of_task:
            publication.task = None  # the end is published; a task may end between two attempts
        if self._doer is not None:
            publication.key = sha256(self._doer.encode()).hexdigest()[:16]
        before = publications.get()
        enter(publication, before)
        self._inside = publications.get()
        self._publish("started", self._payload)
        publications.set(before)

    @contextmanager
    def inside(self) -> Generator[None]:
        """Context manager: events and application spans inside belong to this work."""
        leave = self.enter()
        try:
            yield
        finally:
            leave()

    def enter(self) -> Callable[[], None]:
        """Enter the work's context; return a function that leaves it, to be called in this context. Leaving is optional."""
        before = publications.get(), _run_here.get()
        publications.set(self._inside)
        if self._outermost:
            _run_here.set(self.run_id)
        context = self._context()
        token = otel_context.attach(context) if context is not None else None

        def leave() -> None:
            if token is not None:
                otel_context.detach(token)
            publications.set(before[0])
            _run_here.set(before[1])

        return leave

    def end(self, error: BaseException | None = None, **payload: object) -> None:
        """Publish the end: success, or the result that ``error`` means."""
        word = _WORDS.get(ended_with(error)[0], "failed")
        self._finish(word, {**payload, "error": error} if error is not None else payload)

    def fail(self, error: ErrorInfo | None = None, **payload: object) -> None:
        """Publish a failure without an exception object."""
        self._finish("failed", {**payload, "error": error} if error else payload)

    def skip(self, **payload: object) -> None:
        """Publish that the work was skipped."""
        self._finish("skipped", payload)

    def retry(self, error: BaseException | ErrorInfo | None = None) -> None:
        """Publish that this attempt failed and another one follows."""
        self._finish("retrying", {"error": error} if error is not None else {})

    def _finish(self, word: str, payload: Mapping[str, object]) -> None:
        before = publications.get()
        publications.set(self._inside)
        self._publish(word, payload)
        if self._publication is not None:
            leave(self._publication)
        publications.set(before)

    def _context(self) -> Context | None:
        """Return a context in which the work's span is current, None if it has none."""
        opened = self._publication.opened if self._publication is not None else None
        try:
            return context_of(deepest(opened[-1]), otel_context.get_current()) if opened else None
        except Exception as error:
            self._handle.failed(error)
            return None

    def _publish(self, word: str, payload: Mapping[str, object]) -> None:
        publication = self._publication
        if publication is None:
            return
        publication.running = True
        event: dict[str, object] = {
            "event_type": f"{self._type}.{word}",
            "payload": {**payload, **self._identity},
        }
        if self._parent is not None:
            event["traceparent"] = self._parent
        self._handle.published(event, publication)
        publication.running = False


@contextmanager
def watched(
    handle: Handle, kind: Kind, name: str, payload: Mapping[str, object]
) -> Generator[Work]:
    """Context manager: the block is the work, and its exit or exception ends it."""
    work = Work(handle, kind, name, payload)
    work.begin()
    try:
        with work.inside():
            yield work
    except BaseException as error:
        work.end(error)
        raise
    work.end()
