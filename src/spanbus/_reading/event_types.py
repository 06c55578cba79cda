"""The type of an event that has none in ``event_type``: from other fields, its class, or the kind of work and its state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, cast

from spanbus._reading.getters import has_type_method
from spanbus._reading.naming import is_subject, subject_among
from spanbus._reading.places import Places
from spanbus._reading.shape import Getter, mapping_of, text_of
from spanbus._reading.spelling import changed, ending, key_of, normal
from spanbus._workflow.events import WorkflowEvent

_STATES: Final = ("state", "status")
_CHANGES: Final = (
    "to",
    "to_state",
    "new_state",
    "new_status",
    "state",
    "status",
    "action",
    "transition",
)
"""Fields that may hold a new state."""
_SUBJECT_KEYS: Final = (
    "entity",
    "entity_type",
    "object",
    "object_type",
    "resource",
    "resource_type",
    "subject_type",
    "scope",
    "level",
)
"""Fields that may name a kind of work, ``task`` or ``run``."""
_MEMBER_VALUES: Final = {
    name: str(member.value) for name, member in WorkflowEvent.__members__.items()
}


def type_of(event: object, get: Getter, places: Places) -> str | None:
    """Return the type of an event, None if it has none in a field or in its class."""
    found: str | None = None
    for key in places.kind:
        found = text_of(get(key))
        if found:
            break
    if found and (word := ending(found)) is not None:
        return member_value(found) if word != found else _with_subject(get, None, found)
    rest = [text for key in places.name if (text := text_of(get(key)))]
    if not isinstance(event, Mapping):
        rest.append(type(event).__name__)
    life_cycle_name = next((text for text in rest if ending(text) is not None), None)
    if found:
        if life_cycle_name is not None and _is_in_type_field(get, life_cycle_name):
            return _with_subject(get, found, life_cycle_name)
        return member_value(found)
    if life_cycle_name is None:
        if (thing := _subject_in_field(get)) and any(get(key) is not None for key in _CHANGES):
            return f"{thing}.state"
        if (thing := _stateful_subject(cast("object", event))) is not None:
            return f"{thing}.state"
        if not isinstance(event, Mapping) and has_type_method(event):
            return None
        several = [text for text in rest if "." in normal(text)]
        named = isinstance(event, Mapping) or len(rest) > 1 or changed(rest[0])
        life_cycle_name = (several or rest)[0] if rest and named else None
    return _with_subject(get, None, life_cycle_name) if life_cycle_name is not None else None


def _with_subject(get: Getter, found: str | None, word: str) -> str:
    """Return a type; where it is no more than ``started``, with the kind of work that another field names."""
    if ending(word) == word:
        thing = found if found is not None and is_subject(found) else _subject_in_field(get)
        if thing is not None:
            return f"{thing}.{word}"
    return member_value(word)


def _subject_in_field(get: Getter) -> str | None:
    """Return the kind of work in a field such as ``entity``, as in ``{"entity": "task", "name": "fetch", "to": "running"}``."""
    texts = [text for key in _SUBJECT_KEYS if (text := text_of(get(key)))]
    return next((text for text in texts if is_subject(text)), None)


def _stateful_subject(event: object) -> str | None:
    """Return the innermost kind of work in an event that has a state and no type: ``{"job": "x", "state": "RUNNING"}``."""
    fields = mapping_of(event)
    if fields is None or not any(
        isinstance(value, str | Enum) and isinstance(key, str) and key_of(key).endswith(_STATES)  # pyright: ignore[reportUnnecessaryIsInstance] - foreign mappings
        for key, value in fields.items()
    ):
        return None
    names = {key_of(key) for key, value in fields.items() if value is not None}
    if not isinstance(event, Mapping):
        names.add(key_of(type(event).__name__))
    return subject_among(names)


def _is_in_type_field(get: Getter, text: str) -> bool:
    """Whether the text is the value of a type field, not only a class name."""
    return text in (text_of(get("event")), text_of(get("event_name")))


def member_value(event_type: str) -> str:
    """Return the value of one of our enum members given by name, as ``str()`` prints it; else the type itself."""
    if event_type[-1].isupper():
        return _MEMBER_VALUES.get(event_type.rpartition(".")[2], event_type)
    return event_type
