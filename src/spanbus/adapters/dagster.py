"""Dagster: a run is a run and each step a phase, from the events that an instance handles."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_OPEN_KEPT = 10_000
_INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt", "CancelledError")


def attach(instance: Any, handle: Handle) -> None:
    """Observe the events of an instance, or of all instances of this process if it is the class."""
    if not hasattr(instance, "handle_new_event"):
        raise InputError("instrument a DagsterInstance, or the class for all of them")
    events = _Events(handle)

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def handled(event: Any, *arguments: Any, **options: Any) -> Any:
            events.on_event(event)
            return method(event, *arguments, **options)

        return handled

    handle.add_undo(_watching.wrapped(instance, "handle_new_event", wrap))


class _Events:
    """Open runs and steps."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._open: dict[tuple[str, str | None], tuple[Work, Callable[[], None] | None]] = {}

    def on_event(self, entry: Any) -> None:
        try:
            event = entry.dagster_event
            if event is not None:
                self._apply(str(entry.run_id), event)
        except Exception as error:
            self._handle.failed(error)

    def _apply(self, run_id: str, event: Any) -> None:
        kind = str(event.event_type_value)
        subject, _, word = kind.partition("_")
        if subject == "PIPELINE":
            name, step = str(event.job_name), None
        elif subject == "STEP":
            name = step = str(event.step_key)
        else:
            return
        if word == "START":
            self._begin(
                Work(self._handle, "phase" if step else "run", name, {"run_id": run_id}), step
            )
        elif word == "SKIPPED":
            work = Work(self._handle, "phase", name, {"run_id": run_id})
            work.begin()
            work.skip()
        elif word in ("UP_FOR_RETRY", "RESTARTED", "SUCCESS", "FAILURE", "CANCELED"):
            self._update(run_id, step, word, event.event_specific_data)

    def _update(self, run_id: str, step: str | None, word: str, data: Any) -> None:
        work, leave = self._open.pop((run_id, step), (None, None))
        if leave is not None:
            leave()
        if work is None:
            return
        if word == "SUCCESS":
            work.end()
        elif word == "CANCELED":
            work.end(CancelledError())
        elif word == "UP_FOR_RETRY":
            work.retry(_error(data))
            self._open[run_id, step] = (work, None)
        elif word == "RESTARTED":
            self._begin(work, step)
        else:
            error = _error(data)
            if error.get("type") in _INTERRUPTS:
                work.end(CancelledError())
            else:
                work.fail(error)

    def _begin(self, work: Work, step: str | None) -> None:
        work.begin()
        self._open[str(work.run_id), step] = (work, work.enter())
        while len(self._open) > _OPEN_KEPT:
            del self._open[next(iter(self._open))]


def _error(data: Any) -> dict[str, str]:
    """Return the innermost error of an event, that of the step's function."""
    failed_step = getattr(data, "first_step_failure_event", None)
    error = getattr(failed_step.event_specific_data if failed_step else data, "error", None)
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    details = {"type": getattr(error, "cls_name", None), "message": getattr(error, "message", None)}
    return {key: str(value).strip() for key, value in details.items() if value}
