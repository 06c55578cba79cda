"""Rules of a dialect, and what they come to for the events of one make."""

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
"""Keys of rules that ask the event itself."""


class Rule(NamedTuple):
    """If an event has one of these types and these keys, it means this. Types and words are in their normal spelling."""

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
    """It matters only where what it ends is open."""

    def announced(self, kinds: Collection[str]) -> Result:
        """The result that an end of this type, in its spellings, states by its type alone."""
        if self.result is not None:
            return self.result
        words = [
            word for word in self.result_by_word if any(ends_with(kind, word) for kind in kinds)
        ]
        return self.result_by_word[max(words, key=len)] if words else Result.SUCCESS


class Meaning:
    """A rule as it reads for one event type, with the result that an end of this type states."""

    __slots__ = ("announced", "event_type", "final", "name", "rank", "rule", "verb", "workflow")

    def __init__(self, rule: Rule, announced: Result, event_type: str) -> None:
        self.rule, self.rank, self.verb, self.final = rule, rule.rank, rule.verb, rule.final
        self.announced, self.event_type = announced, event_type
        self.workflow = name_of_run(event_type) if rule.rank is Rank.RUN and rule.subjects else None
        """The name of the run that the type itself says."""
        self.name = expand_subject_keys(rule.name, event_type)


class Candidate:
    """A meaning that events of a make may have, with the keys of its rule whose values decide."""

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
        """Keys of its name, the surest first; and where it stands else, from the first that is no key of the payload."""

    def matches(self, raw: Raw) -> bool:
        """Whether the values of an event agree with the rule."""
        return all([_present(raw, key) for key in self.has]) and not any(
            [_present(raw, key) for key in self.lacks]
        )


class ReadPlan:
    """Events of one type whose payloads have the same keys: what they can mean, and where they say it.

    A payload is asked for nothing that it lacks.
    """

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
        """The one that all of them have, where no value decides."""
        self.candidates = candidates
        """Else it is the first of these that holds; the last one always does."""
        self.run, self.run_object = run, run_object
        """Keys of the run's id, and of objects that may be the run."""
        self.identity, self.phase = identity, phase
        """Keys of the id of what they speak of, and of objects that may be it."""
        self.exact, self.may_be_state = exact, may_be_state


class Names(NamedTuple):
    """Payload keys of names and measures, best first."""

    run: tuple[str, ...] = ("run_id", "job_id", "workflow_id")
    shared_run: frozenset[str] = frozenset({"workflow_id"})
    workflow: tuple[str, ...] = ("workflow", "workflow_name", "workflow_id")
    phase: tuple[str, ...] = ("step_id", "phase", "strategy")
    alias: tuple[str, ...] = ("step_name", "phase", "strategy")
    durations: Mapping[str, int] = {"duration": 1_000_000_000}
    """With the nanoseconds of their unit."""
    attempts: str = "attempts"
    memory: str | None = None
    """The key of a task's id, where names come with the first event of a task only."""
    identity: tuple[str, ...] = ()
    """Keys of the id of what an event speaks of, by which things of one name are told apart."""


def common(keys: tuple[str, ...], of: frozenset[str]) -> tuple[str, ...]:
    """Keys that are among these, in their order."""
    return tuple([key for key in keys if key in of])


def identity_of(raw: Raw, key: str) -> object:
    """The phase or run that an event itself tells, by the key of a rule that asks for it."""
    return raw.phase if key == "@phase" else raw.run_id if key == "@run_id" else None


def _present(raw: Raw, key: str) -> bool:
    value = raw.payload.get(key)
    return value is not None and not (isinstance(value, str) and value == "")
