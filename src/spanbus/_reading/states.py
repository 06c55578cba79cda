"""States: events whose type says of what they are, and whose payload says in what state it is now.

``task_instance_state_changed`` of an instance whose state is ``FAILED`` is read as the failure of a task. Bodies of webhooks
that have a form of their own (GitLab, Jenkins) are read as such events too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import cast

from spanbus._reading.read import Raw
from spanbus._reading.shape import text_of
from spanbus._reading.spelling import changing, ending, word_of_state
from spanbus._reading.webhooks import BODIES, event_of_body, is_body

_TYPES_CACHED = 1_000
_WORDS = (str, Enum)
_STATE_WORDS = ("state", "status")
"""Keys that may be spelled with the thing before them: ``run_status``."""


class States:
    """Reads events of states as those of what they mean, by the keys and subjects of a dialect."""

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        subjects: frozenset[str] = frozenset(),
        names: tuple[str, ...] = (),
    ) -> None:
        self.keys = keys
        """Payload keys of the state, best first."""
        self.subjects = subjects
        """Things that have states."""
        self._names = names
        self._changing_subjects: dict[str, str | None] = {}
        self.further_keys = frozenset(
            f"{one}_{key}"
            for thing in subjects
            for one in _short_forms(thing)
            for key in _STATE_WORDS
        )

    def read(self, raw: Raw) -> Raw:
        """The event as its state makes it; itself where it tells of none."""
        if is_body(raw.payload):
            told = event_of_body(raw.event_type, raw.payload)
            if told is not None:
                raw = raw.copy()
                raw.event_type, raw.payload, raw.phase = told.event_type, told.payload, None
                return raw
            if "object_kind" in raw.payload:
                return raw
        changes = self._changing_subject(raw.event_type)
        return raw if changes is None else self._from_state(raw, changes) or raw

    def may_be_state(self, event_type: str, keys: Collection[str]) -> bool:
        """Whether an event of this type, with these keys in its payload, may be one of a state."""
        return bool(self.subjects) and (
            not BODIES.isdisjoint(keys) or self._changing_subject(event_type) is not None
        )

    def _changing_subject(self, event_type: str) -> str | None:
        """The thing that changes, where this type says no more than that it does."""
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
        if isinstance(about := payload.get(changes), Mapping):  # what it says of itself
            payload = {**cast("Mapping[str, object]", about), **payload}
        further = tuple(f"{one}_{key}" for one in _short_forms(changes) for key in _STATE_WORDS)
        for key in (*self.keys, *further):
            value = payload.get(key)
            text = text_of(value) if isinstance(value, _WORDS) else None
            word = word_of_state(text) if text else None
            if word is not None:
                raw = raw.copy()
                if key in self._names:  # it is no name here
                    payload = {one: value for one, value in payload.items() if one != key}
                    raw.phase = None if raw.phase == text else raw.phase
                elif key in further:
                    payload = {**payload, "status": text}
                # of two words: workflow.job is a phase of ours
                raw.event_type, raw.payload = f"{changes.replace('_', '')}.{word}", payload
                return raw
        return None


def _short_forms(thing: str) -> tuple[str, ...]:
    """A thing of two words by itself and by each of them: ``job_run``, ``run`` and ``job``."""
    words = thing.split("_")
    return (thing, words[-1], words[0]) if len(words) > 1 else (thing,)
