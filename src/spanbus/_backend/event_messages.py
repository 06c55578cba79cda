"""Live messages for events of a bus in this process, redacted as span events are."""

from __future__ import annotations

from spanbus._reading.facts import SpanEvent
from spanbus._reading.read import read
from spanbus._settings import load_settings
from spanbus._telemetry.event_fields import EventFields
from spanbus._telemetry.redaction import Redactor


class EventMessages:
    """Converter of bus events to live messages; ``redactor`` is applied as for span events."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._fields = EventFields(redactor)

    def of(self, event: object) -> dict[str, object]:
        """Convert an event; raises ValueError for an object that is not one."""
        raw, text = read(event), self._redactor.text
        note = SpanEvent(
            raw.event_type, raw.at_ns, raw.event_id, text(raw.source), raw.payload, raw.attempt or 1
        )
        return {
            "type": "event",
            "run_id": text(raw.run_id or "", 256),
            "span_id": "",
            "phase": text(raw.phase or ""),
            "attempt": note.attempt,
            "name": text(note.name),
            "event_id": note.event_id,
            "at_us": note.at_ns // 1_000,
            "source": note.source,
            "attributes": {
                text(key, 256): value for key, value in self._fields.attributes(note).items()
            },
        }


def redactor_of_settings() -> Redactor:
    """Redactor for the span events of this process."""
    settings = load_settings(strict=False)
    return Redactor(
        settings.redact, patterns=settings.redact_patterns, payload_allow=settings.payload_allow
    )
