"""Records of ``logging`` as events: what the message says began or ended, with what ``extra`` told beside it."""

from __future__ import annotations

from collections.abc import Mapping
from logging import LogRecord
from typing import Final, cast

from spanbus._reading.shape import decoded
from spanbus._reading.spelling import ending
from spanbus._reading.topics import topic_of

_OWN: Final = frozenset(vars(LogRecord("", 0, "", 0, "", None, None))) | {
    "message",
    "asctime",
    "taskName",
}
_MAX_WORDS: Final = 3


def event_of_record(record: object) -> object:
    """Return the event that a record holds (a mapping, or JSON text), else one of its message and its extra fields.

    A message is the type of an event where it is short and ends in a word of a life cycle, or names what it speaks of; else
    the type is ``log``.
    """
    assert isinstance(record, LogRecord)
    message: object = record.msg
    if not isinstance(message, Mapping):
        try:
            message = decoded(record.getMessage())
        except Exception:  # arguments that do not fit the message: logging itself reports it
            message = decoded(str(record.msg))
    if isinstance(message, Mapping):
        return cast("Mapping[str, object]", message)
    text = str(message)
    fields = {key: value for key, value in vars(record).items() if key not in _OWN}
    if isinstance(record.args, Mapping):
        fields = {**record.args, **fields}
    if record.exc_info:
        fields["exc_info"] = record.exc_info
    short = len(text.split()) <= _MAX_WORDS and ending(text) is not None
    if not short and topic_of(text) is None:
        return {"event_type": "log", "payload": {"message": text, **fields}, "at": record.created}
    return {"event_type": text, "payload": fields, "at": record.created}
