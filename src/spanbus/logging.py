"""Trace id, span id, run id and phase in the log records of the standard library.

Put the filter on a handler, and its names into the format::

    handler.addFilter(spanbus.logging.TraceContextFilter())
    handler.setFormatter(logging.Formatter("%(trace_id)s %(run_id)s %(phase)s %(message)s"))
"""

from __future__ import annotations

import logging
from typing import Final

from opentelemetry import trace

from spanbus._attaching.publication import innermost_active
from spanbus._correlation.span_state import SpanState
from spanbus._semantics import Level
from spanbus._workflow.current import current_scope

__all__ = ["FIELDS", "TraceContextFilter"]

FIELDS: Final = ("trace_id", "span_id", "run_id", "phase")
"""The attributes that a record gets."""


class TraceContextFilter(logging.Filter):
    """Lets every record pass and says on it where it was made; takes part in ``dictConfig`` as ``"()"``.

    ``trace_id`` (32 hexadecimal digits) and ``span_id`` (16) are those of the current span, or else of the phase that this
    task has announced on an instrumented bus; ``run_id`` and ``phase`` those of the workflow. What is not known is
    ``default``, and
    what a record has already, such as by ``extra``, stays. ``name`` is that of :class:`logging.Filter`. Never raises.
    """

    def __init__(self, name: str = "", *, default: str = "-") -> None:
        super().__init__(name)
        self._default = default
        self._nothing = (default,) * len(FIELDS)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            found = self._found()
        except Exception:  # somebody's span; a line without ids is better than none
            found = self._nothing
        said = record.__dict__
        for name, value in zip(FIELDS, found, strict=True):
            said.setdefault(name, value)
        return bool(super().filter(record))

    def _found(self) -> tuple[str, ...]:
        context = trace.get_current_span().get_span_context()
        scope, work = current_scope.get(), innermost_active()
        if not context.is_valid and scope is None and work is None:
            return self._nothing
        run_id = phase = trace_id = span_id = self._default
        if work is not None:
            run_id, phase = work.run_id or run_id, _phase_of(work) or phase
            trace_id, span_id = f"{work.trace_id:032x}", f"{work.span_id:016x}"
        if scope is not None:
            run_id, phase = scope.run_id, scope.phase or self._default
        if context.is_valid:
            trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return trace_id, span_id, run_id, phase


def _phase_of(work: SpanState) -> str | None:
    """The name of the phase that a span belongs to."""
    at: SpanState | None = work
    while at is not None and at.level is not Level.PHASE:
        at = at.parent
    return at.name if at is not None else None
