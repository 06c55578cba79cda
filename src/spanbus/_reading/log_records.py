"""Read log records of ``logging`` as events: the message gives the event type, ``extra`` the payload."""

from __future__ import annotations

from collections.abc import Mapping
from logging import LogRecord
from typing import Final, cast

from spanbus._reading.shape import decoded
from spanbus._reading.spelling import ending
from spanbus._reading.topics import topic_of

_STANDARD_FIELDS: Final = frozenset(vars(LogRecord("", 0, "", 0, "", None, None))) | {
    "message",
    "asctime",
    "taskName",
}
_MAX_WORDS: Final = 3


def event_of_record(record: object) -> object:
    """Return the event in a log record (a mapping or JSON text as the message), else one of its message and extra fields.

    The message is the event type if it is short and ends in a life-cycle word, or if :func:`topic_of` can read it; otherwise
    the type is ``log``.
    """
    assert isinstance(record, LogRecord)
    message: object = record.msg
    if not isinstance(message, Mapping):
        try:
            message = decoded(record.getMessage())
        except Exception:  # arguments that do not match the message; logging reports that itself
            message = decoded(str(record.msg))
    if isinstance(message, Mapping):
        return cast("Mapping[str, object]", message)
    text = str(message)
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
    if isinstance(record.args, Mapping):
        fields = {**record.args, **fields}
    if record.exc_info:
        fields["exc_info"] = record.exc_info
    short = len(text.split()) <= _MAX_WORDS and ending(text) is not None
    if not short and topic_of(text) is None:
        return {"event_type": "log", "payload": {"message": text, **fields}, "at": record.created}
    return {"event_type": text, "payload": fields, "at": record.created}
