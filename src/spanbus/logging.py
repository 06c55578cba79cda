"""Trace id, span id, run id and phase on log records of the standard library.

Add the filter to a handler, and its fields to the format::

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
"""The attributes that are added to a log record."""


class TraceContextFilter(logging.Filter):
    """Passes every record and adds :data:`FIELDS` to it; usable in ``dictConfig`` as ``"()"``.

    ``trace_id`` (32 hexadecimal digits) and ``span_id`` (16) are those of the current span, else of the phase whose start
    this task has published on an instrumented bus. ``run_id`` and ``phase`` are those of the workflow. Unknown values are
    ``default``; existing attributes, such as from ``extra``, are kept. ``name`` is that of :class:`logging.Filter`. Never
    raises.
    """

    def __init__(self, name: str = "", *, default: str = "-") -> None:
        super().__init__(name)
        self._default = default
        self._nothing = (default,) * len(FIELDS)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            found = self._values()
        except Exception:  # a foreign span class may raise; log the line without ids
            found = self._nothing
        attributes = record.__dict__
        for name, value in zip(FIELDS, found, strict=True):
            attributes.setdefault(name, value)
        return bool(super().filter(record))

    def _values(self) -> tuple[str, ...]:
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
    """Return the name of the phase that a record belongs to."""
    at: SpanState | None = work
    while at is not None and at.level is not Level.PHASE:
        at = at.parent
    return at.name if at is not None else None
