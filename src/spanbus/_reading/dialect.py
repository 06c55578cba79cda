"""Dialects: tables of rules that turn the events of a bus into facts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, cast

from spanbus._reading.facts import (
    ENGINE_HINTS,
    NO_HINTS,
    Ended,
    Fact,
    Hints,
    Noted,
    Rank,
    SpanEvent,
    Started,
    Verb,
)
from spanbus._reading.naming import RUN_OBJECTS, object_field, readable_name, word_of
from spanbus._reading.outcomes import EXIT_CODES, FAILURE_KEYS, HTTP_STATUSES, SUCCESS_KEYS, outcome
from spanbus._reading.places import Keys
from spanbus._reading.policy import Policy
from spanbus._reading.read import TYPES_OF_HEADERS, Raw, read
from spanbus._reading.rules import (
    IDENTITY,
    Candidate,
    Meaning,
    Names,
    ReadPlan,
    Rule,
    common,
    identity_of,
)
from spanbus._reading.shape import WITHOUT_FIELDS, getter, name_of, text_of, texts_of
from spanbus._reading.spelling import ends_with, normal, plain, subject
from spanbus._reading.states import States
from spanbus._reading.times import duration_ns_of
from spanbus._reading.topics import Topic, topic_of
from spanbus._semantics import Result

PLAIN_START: Final = frozenset({"type", "needs", "timestamp"})
"""A start whose payload has only these keys carries no further information."""
PLAIN_SUCCESS: Final = frozenset({"success", "duration", "attempts", "timestamp"})
"""The same for a successful end."""
_COMMON_KEYS: Final = frozenset(
    "success skipped result conclusion outcome verdict status state error exception error_message error_type stacktrace summary reason delay cached stage "
    "type needs timestamp max_attempts strategy phase errors exc_info".split()
).union(SUCCESS_KEYS, FAILURE_KEYS, EXIT_CODES, HTTP_STATUSES)
"""Keys that every dialect reads."""
_MEASURING_KEYS: Final = PLAIN_START | PLAIN_SUCCESS | {"stage", "strategy", "phase"}
_STAMPED_NAME: Final = re.compile(r"[_-]\d{9,}$")
_TYPES_CACHED: Final = 1_000
_PLANS_CACHED: Final = 1_000
_KEYS_CACHED: Final = 64
_RUN_OBJECTS: Final = frozenset(RUN_OBJECTS)
_EVENT: Final = Verb.EVENT  # saves the lookup of the member
_START: Final = Verb.START
_SUCCESS: Final = Result.SUCCESS


POSITIONS: Final = frozenset(("map_index", "index", "shard", "partition", "chunk"))
"""Identity keys that number the parts of one task; such an id is given with its key, ``index=3``."""
_TOPIC: Final = ReadPlan(
    (Candidate(None, (), frozenset()),), (), (), (), (), exact=False, may_be_state=False
)
"""Marks events whose type is a topic or sentence; they are read again with the plain type that it means."""


class Dialect:
    """A named table of rules. Reading has no side effects except caching, and no payload makes it raise."""

    def __init__(
        self,
        name: str,
        rules: tuple[Rule, ...],
        names: Names,
        keys: Keys,
        policy: Policy,
        states: States,
        *,
        error_means_failure: bool = False,
        own_rules: tuple[Rule, ...] = (),
    ) -> None:
        self.name = name
        self.rules = rules
        self._own_rules = own_rules
        """Those that it does not inherit."""
        self.names = names
        self.keys = keys
        self.policy = policy
        self.states = states
        self.error_means_failure = error_means_failure
        self._remembers = names.memory is not None
        self.keys.known = _COMMON_KEYS | {
            *names.run,
            *names.workflow,
            *names.phase,
            *names.alias,
            *names.durations,
            names.attempts,
            *((names.memory,) if names.memory is not None else ()),
            *names.identity,
            *states.keys,
            *states.further_keys,
            *TYPES_OF_HEADERS,
            *(key for rule in rules for key in (*rule.has, *rule.lacks, *rule.name)),
        }
        self._keys_of_hints = frozenset((*names.workflow, *RUN_OBJECTS, "stage"))
        self._keys_of_aliases = frozenset(names.alias)
        self._by_type: dict[str, tuple[Meaning, ...]] = {}
        self.phase_meanings: dict[str, Meaning | None] = {}
        """Cache of :meth:`phase_meaning` by event type."""
        self._plans: dict[tuple[object, ...], ReadPlan] = {}
        only = tuple(names.durations)
        self._duration_key = only[0]
        self._attempts_key = names.attempts
        self._only_duration = names.durations[only[0]] if len(only) == 1 else 0
        measuring = {*names.workflow, *names.alias, *names.durations, names.attempts}
        identity = {*names.run, *names.phase, "id"} - measuring - _MEASURING_KEYS
        none = (PLAIN_START | PLAIN_SUCCESS).isdisjoint((*names.workflow, *names.alias))
        self._plain_start = PLAIN_START | identity if none else None
        """Keys of a plain start, with those of its identity; None if the dialect reads more from one of them."""
        self._plain_success = PLAIN_SUCCESS | identity if none else None

    def read(self, event: object) -> Fact:
        """Return the fact that an event states. Raises ``ValueError`` when the event has no type."""
        return self.fact(read(event, self.keys))

    def candidates(self, event_type: str) -> tuple[Meaning, ...]:
        """Return the rules that this event type may match, in order; cached."""
        found = self._by_type.get(event_type)
        if found is None:
            kinds = frozenset((normal(event_type), plain(event_type)))
            found = tuple(
                Meaning(rule, rule.announced(kinds), str(event_type))
                for rule in self.rules
                if any(fnmatchcase(kind, pattern) for pattern in rule.types for kind in kinds)
                and (
                    not rule.words
                    or any(ends_with(kind, word) for word in rule.words for kind in kinds)
                )
                and (not rule.subjects or subject(event_type) in rule.subjects)
            )
            if len(self._by_type) < _TYPES_CACHED:  # bounded: types come from outside
                self._by_type[event_type] = found
        return found

    def phase_meaning(self, event_type: str) -> Meaning | None:
        """Return the meaning of all events of this type that name their phase and run; None if it is not unique."""
        if event_type in self.phase_meanings:
            return self.phase_meanings[event_type]
        found = self.candidates(event_type)
        rule = found[0].rule if found else None
        plain = rule is not None and rule.name == ("@phase",) and not rule.lacks
        only = found[0] if rule is not None and plain and rule.has in ((), ("@phase",)) else None
        if len(self.phase_meanings) < _TYPES_CACHED:
            self.phase_meanings[event_type] = only
        return only

    def _new_plan(self, event_type: str, keys: frozenset[str]) -> ReadPlan:
        names = self.names
        identity = keys & IDENTITY
        candidates = [
            Candidate(meaning, meaning.name, keys)
            for meaning in self.candidates(event_type)
            if keys.issuperset(meaning.rule.has) and identity.isdisjoint(meaning.rule.lacks)
        ]
        candidates.append(Candidate(None, names.phase, keys))
        objects = (
            names.workflow if _RUN_OBJECTS.isdisjoint(keys) else (*RUN_OBJECTS, *names.workflow)
        )
        return ReadPlan(
            tuple(candidates),
            common(names.run, keys),
            common(objects, keys),
            common(names.identity, keys),
            common(names.phase, keys),
            "step_id" in keys or "@phase" in keys,
            self.states.may_be_state(event_type, keys),
        )

    def _plan_of(self, raw: Raw) -> ReadPlan:
        payload = raw.payload
        key = (raw.event_type, raw.phase is None, raw.run_id is None, *payload)
        plan = self._plans.get(key)
        if plan is None:
            if self.states.subjects and self._topic(raw.event_type) is not None:
                return _TOPIC
            given = cast("Mapping[object, object]", payload)  # a foreign one
            keys = {key for key in given if isinstance(key, str) and key[:1] != "@"}
            if raw.phase is not None:
                keys.add("@phase")
            if raw.run_id is not None:
                keys.add("@run_id")
            if "id" in keys:
                keys.add("@id")
            plan = self._new_plan(raw.event_type, frozenset(keys))
            if len(key) <= _KEYS_CACHED:  # bounded: payloads come from outside
                if len(self._plans) >= _PLANS_CACHED:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def _topic(self, event_type: str) -> Topic | None:
        """The topic that a type is, where no rule names the type itself."""
        topic = topic_of(event_type)
        if topic is None:
            return None
        rules = [meaning.rule for meaning in self.candidates(event_type)]
        named = any(rule in self._own_rules and rule.types != ("*",) for rule in rules)
        return None if named else topic

    def _told_apart(self, raw: Raw) -> Raw:
        """An event on a topic as one of a plain type, with the names in its payload."""
        topic = topic_of(raw.event_type)
        assert topic is not None
        plain_raw = raw.copy()
        plain_raw.event_type = topic.event_type
        plain_raw.payload = {**topic.fields, **raw.payload, "topic": raw.event_type}
        return plain_raw

    def fact(self, raw: Raw) -> Fact:
        """Return the fact that ``raw`` states by the first matching rule, or :class:`Noted` if none matches."""
        event_type, plan, told_as_state = raw.event_type, self._plan_of(raw), False
        if plan is _TOPIC:
            raw = self._told_apart(raw)
            event_type, plan = raw.event_type, self._plan_of(raw)
        if plan.may_be_state:
            raw = self.states.read(raw)
            told_as_state, plan = raw.event_type is not event_type, self._plan_of(raw)
        payload, candidate = raw.payload, plan.only
        if candidate is None:
            candidate = next(one for one in plan.candidates if one.matches(raw))
        name: str | None = None
        for key in candidate.name:
            value = payload.get(key)
            if value is not None and (text := value if type(value) is str else name_of(value)):
                name = text
                break
        else:
            if candidate.name_elsewhere:
                name = _name_elsewhere(raw, candidate.name_elsewhere)
        run_key, shared = raw.run_id, False
        if run_key is None:
            for key in plan.run:
                value = payload.get(key)
                if value is not None and (text := value if type(value) is str else text_of(value)):
                    run_key, shared = text, key in self.names.shared_run
                    break
            else:
                if plan.run_object:
                    run_key = object_field(payload, plan.run_object, "id")
        event = SpanEvent(
            event_type, raw.at_ns, raw.event_id, raw.source, payload, raw.attempt or 1
        )
        meaning = candidate.meaning
        hints = self._hints_of(raw, plan, shared, name)
        if told_as_state or (meaning is not None and meaning.rule.of_open):
            hints = hints.copy()
            hints.state, hints.of_open = told_as_state, meaning is not None and meaning.rule.of_open
        if meaning is None:
            rank = Rank.PHASE if name is not None else Rank.RUN
            return Noted(event, rank, name, run_key, hints)
        fact = self.fact_of_meaning(meaning, event, name, run_key, hints, raw.run_id is not None)
        if meaning.workflow is not None and fact.hints.workflow is None:
            hints = fact.hints = fact.hints.copy()
            hints.workflow = meaning.workflow
        return fact

    def fact_of_meaning(
        self,
        meaning: Meaning,
        event: SpanEvent,
        name: str | None,
        run_key: str | None,
        hints: Hints,
        named_run: bool,
    ) -> Fact:
        """Return the fact of an event whose meaning is known; ``named_run`` if the event itself carries its run id."""
        verb, rank = meaning.verb, meaning.rank
        if verb is _EVENT:
            return Noted(event, rank, name, run_key, hints)
        payload = event.payload
        if verb is _START:
            known = self._plain_start
            if known is not None and known.issuperset(payload):  # a plain start
                task_type = payload.get("type")
                return Started(
                    event,
                    rank,
                    name,
                    run_key,
                    hints,
                    (task_type or None) if type(task_type) is str else text_of(task_type),
                    texts_of(payload.get("needs")),
                )
            return Started(
                event,
                rank,
                name,
                run_key,
                self._with_workflow_and_stage(rank, payload, hints, named_run),
                self._task_type(payload),
                texts_of(payload.get("needs")),
                self._aliases(payload, name),
            )
        get = payload.get
        attempts = get(self._attempts_key)
        tried = attempts if type(attempts) is int else 0
        known = self._plain_success
        if (
            meaning.announced is _SUCCESS
            and known is not None
            and known.issuperset(payload)
            and get("success") is not False
        ):
            lasted, unit_ns = get(self._duration_key), self._only_duration
            if unit_ns and type(lasted) is float and 0 < lasted < 1e9:
                duration_ns: int | None = round(lasted * unit_ns)
            else:
                duration_ns = self._duration_ns(payload)
            return Ended(
                event,
                verb,
                rank,
                name,
                run_key,
                hints,
                _SUCCESS,
                None,
                duration_ns,
                tried,
                meaning.final,
            )
        result, failure = outcome(
            payload, meaning.announced, error_means_failure=self.error_means_failure
        )
        return Ended(
            event,
            verb,
            rank,
            name,
            run_key,
            self._with_workflow_and_stage(rank, payload, hints, named_run),
            result,
            failure,
            None if payload.get("cached") is True else self._duration_ns(payload),
            tried,
            meaning.final,
            self._aliases(payload, name),
            self._task_type(payload),
            text_of(payload.get("reason")),
            duration_ns_of(payload.get("delay")) or 0,
        )

    def task_of(self, raw: Raw) -> str | None:
        """Return the task id of an event, if this dialect remembers names by task id."""
        key = self.names.memory
        return text_of(raw.payload.get(key)) if key is not None else None

    def _hints_of(self, raw: Raw, plan: ReadPlan, shared: bool, name: str | None) -> Hints:
        task = self.task_of(raw) if self._remembers else None
        subject_id = _subject_id(raw, plan, name) if self.names.identity else None
        if (
            raw.correlation
            is raw.traceparent
            is raw.tracestate
            is task
            is raw.odd_time
            is subject_id
            and subject_id is None
            and not shared
        ):
            return ENGINE_HINTS if plan.exact else NO_HINTS
        return Hints(
            plan.exact,
            shared,
            raw.correlation,
            task,
            raw.traceparent,
            raw.tracestate,
            raw.odd_time is not None,
            subject_id=subject_id,
        )

    def _with_workflow_and_stage(
        self, rank: Rank, payload: Mapping[str, object], hints: Hints, named_run: bool
    ) -> Hints:
        """Return the hints with the workflow's name and the stage of the payload, if any."""
        if self._keys_of_hints.isdisjoint(payload):
            return hints
        workflow = None
        if rank is Rank.RUN or named_run:
            by_id: str | None = None
            for key in self.names.workflow:
                if key == "name" and rank is not Rank.RUN:
                    continue
                value = payload.get(key)
                found = name_of(value) if value is not None else None
                if found:
                    if not isinstance(value, str) and found == text_of(getter(value)("id")):
                        by_id = by_id or found  # only an id: a later key may hold a name
                        continue
                    workflow = _STAMPED_NAME.sub("", found) or found
                    break
            else:
                workflow = object_field(payload, RUN_OBJECTS, "name") or by_id
        stage = text_of(payload.get("stage"))
        if workflow is None and stage is None:
            return hints
        hints = hints.copy()
        hints.workflow, hints.stage = workflow, stage
        return hints

    def _aliases(self, payload: Mapping[str, object], name: str | None) -> tuple[str, ...]:
        if self._keys_of_aliases.isdisjoint(payload):
            return ()
        found = [
            text
            for key in self.names.alias
            if (value := payload.get(key)) is not None and (text := text_of(value)) and text != name
        ]
        return tuple(found)

    def _duration_ns(self, payload: Mapping[str, object]) -> int | None:
        if self._only_duration:
            value = payload.get(self._duration_key)
            return duration_ns_of(value, self._only_duration) if value is not None else None
        for key, unit_ns in self.names.durations.items():
            value = payload.get(key)
            if value is not None:
                return duration_ns_of(value, unit_ns)
        return None

    @staticmethod
    def _task_type(payload: Mapping[str, object]) -> str | None:
        return (
            text_of(payload.get("type"))
            or text_of(payload.get("strategy"))
            or text_of(payload.get("phase"))
        )


def _name_elsewhere(raw: Raw, keys: tuple[str, ...]) -> str | None:
    """Return the first name found in the event's identity, a word of its type, or its payload."""
    for key in keys:
        if key == "@id":
            text = readable_name(raw.payload.get("id"))
        elif key[0] == "@":
            text = text_of(identity_of(raw, key))
        elif key[:5] == "word:":
            text = word_of(raw.event_type, int(key[5:]))
        else:
            text = name_of(raw.payload.get(key))
        if text:
            return text
    return None


def _subject_id(raw: Raw, plan: ReadPlan, name: str | None) -> str | None:
    """Return the id of the task that an event is about: from the payload, the task object in it, or the event's ``id``."""
    payload, found = raw.payload, None
    for key in plan.identity:
        value = payload.get(key)
        if value is not None and (text := value if type(value) is str else text_of(value)):
            if key in POSITIONS:
                text = f"{key}={text}"
            if text != name or len(plan.identity) == 1:
                return text
            found = found or text  # the id of a definition: another key may tell which one it is
    if found is not None:
        return found
    for key in plan.phase:
        value = payload.get(key)
        if value is None:
            continue
        if type(value) is not str and not isinstance(value, WITHOUT_FIELDS):
            return text_of(getter(value)("id")) or raw.subject_id
        break
    return raw.subject_id
