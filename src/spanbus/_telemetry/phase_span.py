"""The current span inside a phase, which records what the phase's code adds to it.

Used when spans are exported by us. With a provider of the application, its live span is current instead.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from typing import cast

from opentelemetry.trace import Span, SpanContext, Status, StatusCode
from opentelemetry.util import types

from spanbus._correlation.span_state import ApiAdditions, SpanState
from spanbus._semantics import class_name, names
from spanbus._telemetry.redaction import REDACTED, Redactor, is_sensitive

_MAX_ITEMS = 128
_MAX_CHARS = 4_096


class PhaseSpan(Span):
    """Records on an open :class:`SpanState`. Never raises, as the API demands. Texts are redacted.

    ``end`` and ``update_name`` do nothing, because the events of the workflow end and name a phase.
    """

    def __init__(self, record: SpanState, context: SpanContext, redactor: Redactor) -> None:
        self._record, self._context, self._redactor = record, context, redactor

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self._record.result is None

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        if not self.is_recording() or not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
            return
        cleaned = self._clean(key, value)
        known = self._record.attributes
        if cleaned is not None and (key in known or len(known) < _MAX_ITEMS):
            self._record.describe(key, cast("str", cleaned))

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(
        self, name: str, attributes: types.Attributes = None, timestamp: int | None = None
    ) -> None:
        if not self.is_recording():
            return
        added = self._additions()
        if len(added.events) < _MAX_ITEMS:
            at_ns = timestamp if timestamp is not None else time.time_ns()
            added.events.append(
                (self._redactor.text(str(name)), at_ns, self._cleaned(attributes or {}))
            )

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        if not self.is_recording() or not context.is_valid:
            return
        added = self._additions()
        if len(added.links) < _MAX_ITEMS:
            link = (
                context.trace_id,
                context.span_id,
                context.is_remote,
                self._cleaned(attributes or {}),
            )
            added.links.append(link)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        try:
            message = str(exception)
        except Exception:  # a broken __str__ of a foreign exception
            message = ""
        found: dict[str, types.AttributeValue] = {
            names.EXCEPTION_TYPE: class_name(type(exception)),
            names.EXCEPTION_MESSAGE: message,
            names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(exception)),
        }
        found.update(attributes or {})
        self.add_event("exception", found, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if not self.is_recording():
            return
        if isinstance(status, Status):
            status, description = status.status_code, status.description
        additions = self._additions()
        if status is StatusCode.UNSET or (
            additions.status is not None and additions.status[0] == StatusCode.OK.value
        ):
            return  # like the SDK: unset is ignored, and OK is final
        text = self._redactor.text(description, _MAX_CHARS) if description else None
        additions.status = (status.value, text if status is StatusCode.ERROR else None)

    def update_name(self, name: str) -> None: ...

    def end(self, end_time: int | None = None) -> None: ...

    def _additions(self) -> ApiAdditions:
        added = self._record.added
        if added is None:
            added = self._record.added = ApiAdditions()
        return added

    def _cleaned(
        self, attributes: Mapping[str, types.AttributeValue]
    ) -> dict[str, types.AttributeValue]:
        found: dict[str, types.AttributeValue] = {}
        for key, value in list(attributes.items())[:_MAX_ITEMS]:
            cleaned = self._clean(str(key), value)
            if cleaned is not None:
                found[str(key)] = cleaned
        return found

    def _clean(self, key: str, value: object) -> types.AttributeValue | None:
        if self._redactor.enabled and is_sensitive(key):
            return REDACTED
        if isinstance(value, str):
            return self._redactor.text(str.__str__(value), _MAX_CHARS)
        if isinstance(value, bool | int | float):
            return value
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            items = list(cast("Sequence[object]", value))[:_MAX_ITEMS]
            if all(isinstance(item, str) for item in items):
                return tuple(self._redactor.text(str(item), _MAX_CHARS) for item in items)
            if all(isinstance(item, bool | int | float) for item in items):
                return cast("tuple[float, ...]", tuple(items))
        return None
