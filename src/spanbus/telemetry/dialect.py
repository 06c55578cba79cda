"""A raw event of any bus becomes a canonical fact, by rules that are data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

from spanbus.telemetry.facts import Fact, Rank, Verb
from spanbus.telemetry.names import Result
from spanbus.telemetry.outcomes import outcome
from spanbus.telemetry.raw import Raw, read, text_of
from spanbus.workflow.events import Event

_PHASES = (Rank.STEP, Rank.PHASE)
PLAIN_START = frozenset({"type", "needs", "timestamp"})
"""All that may stand in the payload of a start for it to be plain."""
PLAIN_SUCCESS = frozenset({"success", "duration", "attempts", "timestamp"})
"""The same of an end with success."""
_STAMPED_NAME = re.compile(r"[_-]\d{9,}$")


class Rule(NamedTuple):
    """If an event has one of these types and these keys, it means this."""

    types: tuple[str, ...]
    words: frozenset[str]
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    rank: Rank
    verb: Verb
    name: tuple[str, ...]
    result: Result | None
    result_by_word: Mapping[str, Result]
    final: bool


class OfPhase(NamedTuple):
    """How all events of one type are read that name their phase; ``announced`` is None for starts."""

    rule: Rule
    event_type: str
    announced: Result | None

    @property
    def begins(self) -> bool:
        """It starts a phase."""
        return self.rule.verb is Verb.START and self.rule.rank in _PHASES

    @property
    def succeeds(self) -> bool:
        """It ends a phase, and with success where the payload says nothing else."""
        return self.rule.verb is Verb.END and self.rule.rank in _PHASES and self.announced is Result.SUCCESS


class Dialect:
    """A named table of rules; ``fact(raw)`` is pure and never raises on what an event may hold."""

    def __init__(
        self, name: str, rules: tuple[Rule, ...], *, run_keys: tuple[str, ...], shared_run_keys: frozenset[str],
        workflow_keys: tuple[str, ...], phase_keys: tuple[str, ...], alias_keys: tuple[str, ...],
    ) -> None:
        self.name = name
        self.rules = rules
        self.run_keys = run_keys
        self.shared_run_keys = shared_run_keys
        self.workflow_keys = workflow_keys
        self.phase_keys = phase_keys
        self.alias_keys = alias_keys
        self._by_type: dict[str, tuple[Rule, ...]] = {}
        self._plain: dict[str, bool] = {}
        self._of_phases: dict[str, OfPhase | None] = {}
        self._keys_are_plain = (PLAIN_START | PLAIN_SUCCESS).isdisjoint((*workflow_keys, *alias_keys))

    def _candidates(self, event_type: str) -> tuple[Rule, ...]:
        found = self._by_type.get(event_type)
        if found is None:
            word = event_type.rpartition(".")[2]
            found = tuple(
                rule for rule in self.rules
                if any(fnmatchcase(event_type, pattern) for pattern in rule.types) and (not rule.words or word in rule.words)
            )
            if len(self._by_type) < 1_000:  # types come from outside: bounded
                self._by_type[event_type] = found
        return found

    def only_notes(self, event_type: str) -> bool:
        """Inside a phase, an event of this type is never more than an event, whatever its payload."""
        known = self._plain.get(event_type)
        if known is None:
            rules = self._candidates(event_type)
            known = bool(rules) and rules[0].verb is Verb.EVENT and rules[0].has == ("@phase",) and not rules[0].lacks
            if len(self._plain) < 1_000:
                self._plain[event_type] = known
        return known

    def of_phase(self, event_type: str) -> OfPhase | None:
        """How events of this type are read that name their run and phase, where that is always the same."""
        if self._keys_are_plain:
            return self._of_phases[event_type] if event_type in self._of_phases else self._plan(event_type)
        return None

    def of(self, event: Event) -> Fact:
        """What an event of our own bus says; the short way where its type and its phase alone tell which rule it is."""
        kind = event.event_type
        name = event.phase
        plan = self._of_phases[kind] if kind in self._of_phases else self._plan(kind)
        if plan is None or not name or event.run_id is None or event.metadata:
            return self.fact(read(event))
        rule, text, announced = plan
        payload = event.payload
        get = payload.get
        result = failure = reason = workflow = None
        if announced is not None:
            result, failure = outcome(payload, announced)
            reason = get("reason")
        aliases: list[str] = []
        for key in self.alias_keys:
            value = get(key)
            if value is not None and (alias := text_of(value)) and alias != name:
                aliases.append(alias)
        for key in self.workflow_keys:
            value = get(key)
            if value is not None and (found := text_of(value)):
                workflow = _STAMPED_NAME.sub("", found) or found
                break
        task_type = get("type")
        if type(task_type) is not str or not task_type:
            task_type = text_of(task_type) or text_of(get("strategy")) or text_of(get("phase"))
        duration, delay, needs, stage = get("duration"), get("delay"), get("needs"), get("stage")
        return Fact(
            rule.verb, rule.rank, name, text, event.event_id, event.at_ns, event.source, payload, tuple(aliases), True, event.run_id, False, None, workflow, result,
            failure, announced is not None and rule.final, event.attempt, seconds_ns(duration) if duration is not None and get("cached") is not True else None,
            (seconds_ns(delay) or 0) if delay is not None else 0, None, task_type,
            tuple([str(need) for need in cast("list[object]", needs)]) if isinstance(needs, list | tuple) else (),
            text_of(stage) if stage is not None else None, text_of(reason) if reason is not None else None, event.traceparent, event.tracestate,
        )

    def _plan(self, kind: str) -> OfPhase | None:
        """The rule of every event of this type that names its run and phase, where there is only one."""
        text = str(kind)
        rules = self._candidates(text)
        plan: OfPhase | None = None
        if rules and rules[0].name == ("@phase",) and rules[0].has in ((), ("@phase",)) and not rules[0].lacks and rules[0].verb is not Verb.EVENT:
            rule = rules[0]
            announced = None if rule.verb is Verb.START else rule.result or rule.result_by_word.get(text.rpartition(".")[2]) or Result.SUCCESS
            plan = OfPhase(rule, text, announced)
        if len(self._of_phases) < 1_000:  # types come from outside: bounded
            self._of_phases[text] = plan
        return plan

    def fact(self, raw: Raw) -> Fact:
        """What ``raw`` says by the first rule that matches; without one it is an event of whatever it belongs to."""
        payload = raw.payload
        for rule in self._candidates(raw.event_type):
            if all(_present(raw, key) for key in rule.has) and not any(_present(raw, key) for key in rule.lacks):
                return self._apply(rule, raw, payload)
        name = self._first(raw, self.phase_keys)
        rank = Rank.PHASE if name is not None else Rank.RUN
        return self._fact(raw, Verb.EVENT, rank, name, payload)

    def _apply(self, rule: Rule, raw: Raw, payload: Mapping[str, object]) -> Fact:
        name = self._first(raw, rule.name)
        fact = self._fact(raw, rule.verb, rule.rank, name, payload)
        if rule.verb is Verb.EVENT or rule.verb is Verb.START:
            return fact
        announced = rule.result or rule.result_by_word.get(raw.event_type.rpartition(".")[2])
        result, failure = outcome(payload, announced or Result.SUCCESS)
        reason = text_of(payload.get("reason"))
        return fact._replace(result=result, failure=failure, final=rule.final, reason=reason)

    def _fact(self, raw: Raw, verb: Verb, rank: Rank, name: str | None, payload: Mapping[str, object]) -> Fact:
        run_key, shared = raw.run_id, False
        if run_key is None:
            for key in self.run_keys:
                value = payload.get(key)
                if value is not None and (text := text_of(value)):
                    run_key, shared = text, key in self.shared_run_keys
                    break
        attempt = raw.attempt
        if verb is Verb.EVENT:
            return Fact(
                verb, rank, name, raw.event_type, raw.event_id, raw.at_ns, raw.source, payload, exact=raw.phase is not None,
                run_key=run_key, run_key_is_shared=shared, correlation=raw.correlation, attempt=attempt,
            )
        aliases = tuple(
            text for key in self.alias_keys if (value := payload.get(key)) is not None and (text := text_of(value)) and text != name
        )
        task_type = text_of(payload.get("type")) or text_of(payload.get("strategy")) or text_of(payload.get("phase"))
        needs = payload.get("needs")
        duration = payload.get("duration")
        cached = payload.get("cached") is True
        return Fact(
            verb, rank, name, raw.event_type, raw.event_id, raw.at_ns, raw.source, payload,
            aliases=tuple(alias for alias in aliases if alias is not None), exact=raw.phase is not None or "step_id" in payload, run_key=run_key, run_key_is_shared=shared,
            correlation=raw.correlation, workflow=self._workflow(raw, rank), attempt=attempt,
            duration_ns=None if cached else seconds_ns(duration), delay_ns=seconds_ns(payload.get("delay")) or 0, task_type=task_type,
            needs=tuple(str(need) for need in cast("list[object]", needs)) if isinstance(needs, list | tuple) else (),
            stage=text_of(payload.get("stage")), traceparent=raw.traceparent, tracestate=raw.tracestate,
        )

    def _workflow(self, raw: Raw, rank: Rank) -> str | None:
        if rank is not Rank.RUN and raw.run_id is None:
            return None
        name = self._first(raw, self.workflow_keys)
        return _STAMPED_NAME.sub("", name) or name if name else None

    def _first(self, raw: Raw, keys: tuple[str, ...]) -> str | None:
        for key in keys:
            if key[0] == "@":
                text = text_of(_identity(raw, key))
            elif key.startswith("word:"):
                words = raw.event_type.split(".")
                index = int(key[5:])
                text = words[index] if -len(words) <= index < len(words) else None
            else:
                text = text_of(raw.payload.get(key))
            if text:
                return text
        return None


def _identity(raw: Raw, key: str) -> object:
    return raw.phase if key == "@phase" else raw.run_id if key == "@run_id" else None


def _present(raw: Raw, key: str) -> bool:
    if key[0] == "@":
        return _identity(raw, key) is not None
    value = raw.payload.get(key)
    return value is not None and value != ""


def seconds_ns(value: object) -> int | None:
    """A duration of a payload in nanoseconds, None where it says nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:  # 0.0 on failure says nothing; NaN compares false
        return round(value * 1e9)
    return None
