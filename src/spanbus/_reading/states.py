"""State-change events: the type names the subject, the payload its new state.

``task_instance_state_changed`` with the state ``FAILED`` is read as the failure of a task. Webhook bodies with a format of
their own (GitLab, Jenkins, ...) are read as such events too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import cast

from spanbus._reading.naming import subject_among
from spanbus._reading.read import Raw
from spanbus._reading.shape import WITHOUT_FIELDS, getter, text_of
from spanbus._reading.spelling import (
    changing,
    ending,
    is_generic,
    key_of,
    subject,
    word_of_state,
)
from spanbus._reading.webhooks import BODIES, event_of_body, is_body

_TYPES_CACHED = 1_000
_WORDS = (str, Enum)
_STATE_WORDS = ("state", "status")
"""Keys that may be prefixed with the subject: ``run_status``."""


class States:
    """Turns state-change events into start and end events, by the keys and subjects of a dialect."""

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        subjects: frozenset[str] = frozenset(),
        names: tuple[str, ...] = (),
    ) -> None:
        self.keys = keys
        """Payload keys of the state, most reliable first."""
        self.subjects = subjects
        """Subjects whose state changes are read."""
        self._names = names
        self._changing_subjects: dict[str, str | None] = {}
        self.further_keys = frozenset(
            f"{one}_{key}"
            for thing in subjects
            for one in _short_forms(thing)
            for key in _STATE_WORDS
        )

    def read(self, raw: Raw) -> Raw:
        """Return the event with the type that its state means, or the event itself if it reports no state."""
        if is_body(raw.payload):
            found = event_of_body(raw.event_type, raw.payload)
            if found is not None:
                raw = raw.copy()
                raw.event_type, raw.payload, raw.phase = found.event_type, found.payload, None
                return raw
            if "object_kind" in raw.payload:
                return raw
        changes = self._changing_subject(raw.event_type)
        if changes is None and is_generic(raw.event_type):
            changes = subject_among(raw.payload)
        return raw if changes is None else self._from_state(raw, changes) or raw

    def may_be_state(self, event_type: str, keys: Collection[str]) -> bool:
        """Whether an event of this type and with these payload keys may report a state."""
        return bool(self.subjects) and (
            not BODIES.isdisjoint(keys)
            or self._changing_subject(event_type) is not None
            or (is_generic(event_type) and subject_among(keys) in self.subjects)
        )

    def _changing_subject(self, event_type: str) -> str | None:
        """Return the subject of a type that says only that it changed, if it is one of ours; cached."""
        known = self._changing_subjects
        if event_type in known:
            return known[event_type]
        thing = changing(event_type) if ending(event_type) is None else None
        found = thing if thing in self.subjects else None
        if len(known) < _TYPES_CACHED:
            known[event_type] = found
        return found

    def _from_state(self, raw: Raw, changes: str) -> Raw | None:
        payload = raw.payload
        subject_fields = payload.get(changes)
        if isinstance(subject_fields, Mapping):
            payload = {**cast("Mapping[str, object]", subject_fields), **payload}
        elif subject_fields is not None and not isinstance(subject_fields, WITHOUT_FIELDS):
            get = getter(subject_fields)  # no more than its state: an object may hold anything
            state = next(
                (value for key in self.keys if isinstance(value := get(key), _WORDS)), None
            )
            payload = payload if state is None else {"status": state, **payload}
        further = tuple(f"{one}_{key}" for one in _short_forms(changes) for key in _STATE_WORDS)
        for key in (*self.keys, *further):
            value = payload.get(key)
            text = text_of(value) if isinstance(value, _WORDS) else None
            word = word_of_state(text) if text else None
            if text and word is None and key_of(subject(text)) in self.subjects:  # "step_started"
                changes, word = key_of(subject(text)), ending(text)
            if word is not None:
                raw = raw.copy()
                if key in self._names:  # here the key holds a state, not a name
                    payload = {one: value for one, value in payload.items() if one != key}
                    raw.phase = None if raw.phase == text else raw.phase
                elif key in further:
                    payload = {**payload, "status": text}
                # without the underscore: workflow.job would be a phase
                raw.event_type, raw.payload = f"{changes.replace('_', '')}.{word}", payload
                return raw
        return None


def _short_forms(thing: str) -> tuple[str, ...]:
    """Return a subject of several words, its last and its first word: ``job_run``, ``run``, ``job``."""
    words = thing.split("_")
    return (thing, words[-1], words[0]) if len(words) > 1 else (thing,)
