"""Rules of a dialect, and the read plan that they give for one kind of event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from spanbus._named_tuple import NamedTuple
from spanbus._reading.facts import Rank, Verb
from spanbus._reading.naming import expand_subject_keys, split_payload_keys
from spanbus._reading.read import Raw
from spanbus._reading.spelling import ends_with, name_of_run
from spanbus._semantics import Result

IDENTITY: Final = frozenset(("@phase", "@run_id"))
"""Rule keys that are read from the event's identity, not from its payload."""


class Rule(NamedTuple):
    """A rule: events of these types and with these keys have this level and verb. Types and words are in normal spelling."""

    types: tuple[str, ...]
    words: frozenset[str]
    subjects: frozenset[str]
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    rank: Rank
    verb: Verb
    name: tuple[str, ...]
    result: Result | None
    result_by_word: Mapping[str, Result]
    final: bool
    of_open: bool = False
    """The event is ignored unless the work that it ends is open."""

    def announced(self, kinds: Collection[str]) -> Result:
        """Return the result that an end event states by its type alone; ``kinds`` are spellings of the type."""
        if self.result is not None:
            return self.result
        words = [
            word for word in self.result_by_word if any(ends_with(kind, word) for kind in kinds)
        ]
        return self.result_by_word[max(words, key=len)] if words else Result.SUCCESS


class Meaning:
    """A rule applied to one event type, with the result that the type states."""

    __slots__ = ("announced", "event_type", "final", "name", "rank", "rule", "verb", "workflow")

    def __init__(self, rule: Rule, announced: Result, event_type: str) -> None:
        self.rule, self.rank, self.verb, self.final = rule, rule.rank, rule.verb, rule.final
        self.announced, self.event_type = announced, event_type
        self.workflow = name_of_run(event_type) if rule.rank is Rank.RUN and rule.subjects else None
        """Name of the run, if the event type contains it."""
        self.name = expand_subject_keys(rule.name, event_type)


class Candidate:
    """A possible meaning of the events of one plan, with the keys whose values decide whether it matches."""

    __slots__ = ("has", "lacks", "meaning", "name", "name_elsewhere")

    def __init__(
        self, meaning: Meaning | None, name: tuple[str, ...], keys: frozenset[str]
    ) -> None:
        self.meaning = meaning
        rule = meaning.rule if meaning is not None else None
        self.has = common(rule.has, keys - IDENTITY) if rule is not None else ()
        self.lacks = common(rule.lacks, keys) if rule is not None else ()
        asked = [key for key in name if key in keys or key[:5] == "word:"]
        self.name, self.name_elsewhere = split_payload_keys(tuple(asked))
        """Payload keys of the name, most reliable first; then all keys from the first other one (``@id``, ``word:1``)."""

    def matches(self, raw: Raw) -> bool:
        """Whether the values of an event satisfy the rule."""
        return all([_present(raw, key) for key in self.has]) and not any(
            [_present(raw, key) for key in self.lacks]
        )


class ReadPlan:
    """Cached read plan for one event type and set of payload keys: the possible meanings, and the keys to read."""

    __slots__ = (
        "candidates",
        "exact",
        "identity",
        "may_be_state",
        "only",
        "phase",
        "run",
        "run_object",
    )

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        run: tuple[str, ...],
        run_object: tuple[str, ...],
        identity: tuple[str, ...],
        phase: tuple[str, ...],
        exact: bool,
        may_be_state: bool,
    ) -> None:
        first = candidates[0]
        self.only = None if first.has or first.lacks else first
        """The meaning of all these events, if no value decides."""
        self.candidates = candidates
        """Otherwise the first candidate that matches; the last one always does."""
        self.run, self.run_object = run, run_object
        """Keys of the run id, and of objects that may be the run."""
        self.identity, self.phase = identity, phase
        """Keys of the task's id, and of objects that may be the task."""
        self.exact, self.may_be_state = exact, may_be_state


class Names(NamedTuple):
    """Payload keys of names, ids and durations, most reliable first."""

    run: tuple[str, ...] = ("run_id", "job_id", "workflow_id")
    shared_run: frozenset[str] = frozenset({"workflow_id"})
    workflow: tuple[str, ...] = ("workflow", "workflow_name", "workflow_id")
    phase: tuple[str, ...] = ("step_id", "phase", "strategy")
    alias: tuple[str, ...] = ("step_name", "phase", "strategy")
    durations: Mapping[str, int] = {"duration": 1_000_000_000}
    """Duration keys with the nanoseconds of their unit."""
    attempts: str = "attempts"
    memory: str | None = None
    """Key of the task id, if only the first event of a task carries its name."""
    identity: tuple[str, ...] = ()
    """Keys of the id that distinguishes tasks of the same name."""


def common(keys: tuple[str, ...], of: frozenset[str]) -> tuple[str, ...]:
    """Return the keys that are in ``of``, in their order."""
    return tuple([key for key in keys if key in of])


def identity_of(raw: Raw, key: str) -> object:
    """Return the event's own phase or run id, for the rule keys ``@phase`` and ``@run_id``."""
    return raw.phase if key == "@phase" else raw.run_id if key == "@run_id" else None


def _present(raw: Raw, key: str) -> bool:
    value = raw.payload.get(key)
    return value is not None and not (isinstance(value, str) and value == "")
