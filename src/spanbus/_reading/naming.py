"""Names of runs and phases in an event: payload keys, words of the event type, ids that are readable names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from spanbus._patterns import pattern
from spanbus._reading.shape import WITHOUT_FIELDS, getter, text_of
from spanbus._reading.spelling import ending, key_of, plain, segments

_NAME = pattern(r"[a-zA-Z][a-zA-Z ._:/-]{2,63}\d{0,3}")
_THINGS = tuple(
    "task step stage node activity job build run pipeline flow workflow dag saga".split()
)
"""Kinds of work, the innermost first."""
RUN_OBJECTS = ("run", "workflow_run", "pipeline_run", "flow_run", "dag_run", "job_run", "build")
"""Payload keys whose object is the run itself, not its definition."""


def split_payload_keys(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the keys at the first one that is not a payload key (``@id``, ``word:1``)."""
    end = next(
        (at for at, key in enumerate(keys) if key[0] == "@" or key[:5] == "word:"), len(keys)
    )
    return keys[:end], keys[end:]


def expand_subject_keys(keys: tuple[str, ...], event_type: str) -> tuple[str, ...]:
    """Replace ``@thing`` by the keys named like the subject of the type: ``check``, ``check_name``, ... for ``check.started``."""
    if "@thing" not in keys:
        return keys
    at, word = keys.index("@thing"), word_of(event_type, -2)
    thing = key_of(word) if word is not None else ""
    subject_keys = (
        (thing, f"{thing}_name", f"{thing}Name", f"{thing}_id", f"{thing}Id") if thing else ()
    )
    return (*keys[:at], *subject_keys, *keys[at + 1 :])


def word_of(event_type: str, index: int) -> str | None:
    """Return a word of an event type by index, None if it has none.

    ``workflow_quality_started`` is split as ``workflow.quality.started`` if the first splitting has no such word.
    """
    for words in (segments(event_type), plain(event_type).split(".")):
        if -len(words) <= index < len(words):
            word = words[index]
            if index < 0 or word != words[-1] or ending(word) is None:
                return word
    return None


def readable_name(value: object) -> str | None:
    """Return the value if it is a readable name, not a number or a random id."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def object_field(payload: Mapping[str, object], keys: tuple[str, ...], field: str) -> str | None:
    """Return a field, such as ``id``, of the first object in the payload under one of these keys."""
    for key in keys:
        value = payload.get(key)
        if value is not None and not isinstance(value, WITHOUT_FIELDS):
            found = text_of(getter(value)(field))
            if found:
                return found
    return None


def subject_among(keys: Collection[str]) -> str | None:
    """Return the innermost kind of work that one of the keys names: ``task`` of ``task_name`` and ``run_id``."""
    for thing in _THINGS:
        if thing in keys or f"{thing}_id" in keys or f"{thing}_name" in keys:
            return thing
    return None


def is_subject(text: str) -> bool:
    """Whether a text names a kind of work: ``task``, ``Run``."""
    return key_of(text) in _THINGS
