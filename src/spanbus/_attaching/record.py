"""Record the events of a bus: one redacted JSON line for each event, readable by ``spanbus replay``."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from spanbus._reading.places import Keys
from spanbus._reading.read import read
from spanbus._reading.shape import text_of
from spanbus._telemetry.redaction import REDACTED, Redactor, is_sensitive
from spanbus.errors import InputError

logger = logging.getLogger("spanbus")

_DEPTH = 6
_ITEMS = 200
_TEXT = 4_096


class Recorder:
    """Appends events to a file. Only the constructor raises: :class:`~spanbus.errors.InputError` if the file cannot be opened."""

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self._path, self._redactor = path, redactor
        self._lock = threading.Lock()
        try:
            self._file: IO[str] | None = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise InputError(f"record={str(path)!r} cannot be written: {error.strerror}") from error

    def record(self, event: object, keys: Keys) -> None:
        """Write one event, read by a dialect's ``keys``. The first write error ends the recording with a warning."""
        try:
            raw = read(event, keys)
            line = {
                "event_type": raw.event_type,
                "event_id": raw.event_id or None,
                "at_ns": raw.at_ns,
                "source": raw.source or None,
                "run_id": raw.run_id,
                "phase": raw.phase,
                "attempt": raw.attempt,
                "correlation_id": raw.correlation,
                "traceparent": raw.traceparent,
                "payload": self._plain("payload", raw.payload, _DEPTH),
            }
            kept = {key: value for key, value in line.items() if value is not None}
            text = json.dumps(kept, ensure_ascii=False)
            with self._lock:
                if self._file is not None:
                    self._file.write(text + "\n")
        except ValueError:  # not an event
            return
        except Exception as error:
            self.close()
            logger.warning("recording to %s ended: %s", self._path, error)

    def close(self) -> None:
        """End the recording. Idempotent."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()

    def _plain(self, key: str, value: object, depth: int) -> object:
        """Return a value as JSON data: secrets removed, live objects replaced by their class name."""
        if isinstance(value, Mapping) and depth:
            fields = list(cast("Mapping[object, object]", value).items())[:_ITEMS]
            return {str(name): self._plain(str(name), one, depth - 1) for name, one in fields}
        if value is None or isinstance(value, bool):
            return value
        if self._redactor.enabled and is_sensitive(key):
            return REDACTED
        if isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return self._redactor.text(str.__str__(value), _TEXT)
        if isinstance(value, list | tuple | set | frozenset) and depth:
            items = list(cast("list[object]", value))[:_ITEMS]
            return [self._plain(key, one, depth - 1) for one in items]
        return self._object(key, cast("object", value), depth)

    def _object(self, key: str, value: object, depth: int) -> object:
        if depth and dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return {
                name: self._plain(name, getattr(value, name, None), depth - 1) for name in names
            }
        cleaned = self._redactor.value(key, value)
        if cleaned is not None:
            return cleaned
        return text_of(value) or {"__type__": type(value).__name__}
