"""The places in which an event names what it speaks of: keys of its payload, words of its type, an id that is a name."""

from __future__ import annotations

from collections.abc import Mapping

from spanbus._patterns import pattern
from spanbus._reading.shape import WITHOUT_FIELDS, getter, text_of
from spanbus._reading.spelling import ending, key_of, plain, segments

_NAME = pattern(r"[a-zA-Z][a-zA-Z ._:/-]{2,63}\d{0,3}")
RUN_OBJECTS = ("run", "workflow_run", "pipeline_run", "flow_run", "dag_run", "job_run", "build")
"""Objects that are a run, and not what it is a run of."""


def split_payload_keys(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of a payload that stand first, and the others, of which some ask the event's identity or type."""
    end = next(
        (at for at, key in enumerate(keys) if key[0] == "@" or key[:5] == "word:"), len(keys)
    )
    return keys[:end], keys[end:]


def expand_subject_keys(keys: tuple[str, ...], event_type: str) -> tuple[str, ...]:
    """With the keys that are called as the thing in a type: ``check`` and ``check_name`` of ``check.started``."""
    if "@thing" not in keys:
        return keys
    at, word = keys.index("@thing"), word_of(event_type, -2)
    thing = key_of(word) if word is not None else ""
    said = (thing, f"{thing}_name", f"{thing}Name", f"{thing}_id", f"{thing}Id") if thing else ()
    return (*keys[:at], *said, *keys[at + 1 :])


def word_of(event_type: str, index: int) -> str | None:
    """A word of a type; ``workflow_quality_started`` is read as ``workflow.quality.started`` where the first gives none."""
    for words in (segments(event_type), plain(event_type).split(".")):
        if -len(words) <= index < len(words):
            word = words[index]
            if index < 0 or word != words[-1] or ending(word) is None:
                return word
    return None


def readable_name(value: object) -> str | None:
    """A text that is a name, and no number or random id."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def object_field(payload: Mapping[str, object], keys: tuple[str, ...], field: str) -> str | None:
    """A field, such as ``id``, of the first object that the payload holds in one of these places."""
    for key in keys:
        value = payload.get(key)
        if value is not None and not isinstance(value, WITHOUT_FIELDS):
            found = text_of(getter(value)(field))
            if found:
                return found
    return None
