"""A raw event of any bus becomes a canonical fact, by rules that are data.

The rules of a dialect are TOML (``telemetry/dialects/*.toml``; docs/dialects.md tells how to write one). Reading the
event itself, its type, payload, time and identity, is the same for all dialects and follows what was met in the wild:
types in ``metadata.event_type``, ``event_type``, ``type``, ``topic`` or ``kind``; naive timestamps that are local time.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
import tomllib
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar, cast

from spanbus.errors import DialectError
from spanbus.telemetry.facts import Fact, Rank, Verb
from spanbus.telemetry.names import ErrorType, Result
from spanbus.telemetry.records import Failure
from spanbus.workflow.events import EMPTY, Event

_T = TypeVar("_T")

BUILT_IN = ("spanbus", "crackerjack", "generic")

_RANKS = {rank.name.lower(): rank for rank in Rank}
_VERBS = {verb.name.lower(): verb for verb in Verb}
_RESULTS = {result.value: result for result in Result}
_STATUS = {
    **dict.fromkeys(("success", "succeeded", "passed", "pass", "ok", "completed", "done", "fixed"), Result.SUCCESS),
    **dict.fromkeys(("failed", "failure", "fail", "error", "errored", "broken"), Result.FAILURE),
    **dict.fromkeys(("timeout", "timed_out", "timed out"), Result.TIMEOUT),
    **dict.fromkeys(("cancelled", "canceled", "interrupted", "aborted"), Result.CANCELLATION),
    **dict.fromkeys(("skipped", "skip"), Result.SKIP),
}
_TIMED_OUT = re.compile(r"\btimed[ -]out\b|\btime-?out(error|expired)?\b(?!\s*[=:])", re.IGNORECASE)
_CANCELLED = re.compile(r"^\W*(?:asyncio\.)?(?:exceptions\.)?(CancelledError|KeyboardInterrupt|Cancelled)\b")
_CLASS = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Timeout|Failure))\s*(?:[:(]|$)", re.ASCII)
_STAMPED_NAME = re.compile(r"[_-]\d{9,}$")


class Raw(NamedTuple):
    """An event as it was read, before any rule."""

    event_type: str
    event_id: str
    at_ns: int
    source: str
    payload: Mapping[str, object]
    run_id: str | None = None
    phase: str | None = None
    attempt: int | None = None
    correlation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


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


class _OfPhase(NamedTuple):
    """How all events of one type are read that name their phase; ``announced`` is None for starts."""

    rule: Rule
    event_type: str
    announced: Result | None


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
        self._of_phases: dict[str, _OfPhase | None] = {}

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
            if value is not None and (alias := _text(value)) and alias != name:
                aliases.append(alias)
        for key in self.workflow_keys:
            value = get(key)
            if value is not None and (found := _text(value)):
                workflow = _STAMPED_NAME.sub("", found) or found
                break
        task_type = get("type")
        if type(task_type) is not str or not task_type:
            task_type = _text(task_type) or _text(get("strategy")) or _text(get("phase"))
        duration, delay, needs, stage = get("duration"), get("delay"), get("needs"), get("stage")
        return Fact(
            rule.verb, rule.rank, name, text, event.event_id, event.at_ns, event.source, payload, tuple(aliases), True, event.run_id, False, None, workflow, result,
            failure, announced is not None and rule.final, event.attempt, _seconds_ns(duration) if duration is not None and get("cached") is not True else None,
            (_seconds_ns(delay) or 0) if delay is not None else 0, None, task_type,
            tuple([str(need) for need in cast("list[object]", needs)]) if isinstance(needs, list | tuple) else (),
            _text(stage) if stage is not None else None, _text(reason) if reason is not None else None, event.traceparent, event.tracestate,
        )

    def _plan(self, kind: str) -> _OfPhase | None:
        """The rule of every event of this type that names its run and phase, where there is only one."""
        text = str(kind)
        rules = self._candidates(text)
        plan: _OfPhase | None = None
        if rules and rules[0].name == ("@phase",) and rules[0].has in ((), ("@phase",)) and not rules[0].lacks and rules[0].verb is not Verb.EVENT:
            rule = rules[0]
            announced = None if rule.verb is Verb.START else rule.result or rule.result_by_word.get(text.rpartition(".")[2]) or Result.SUCCESS
            plan = _OfPhase(rule, text, announced)
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
        reason = _text(payload.get("reason"))
        return fact._replace(result=result, failure=failure, final=rule.final, reason=reason)

    def _fact(self, raw: Raw, verb: Verb, rank: Rank, name: str | None, payload: Mapping[str, object]) -> Fact:
        run_key, shared = raw.run_id, False
        if run_key is None:
            for key in self.run_keys:
                value = payload.get(key)
                if value is not None and (text := _text(value)):
                    run_key, shared = text, key in self.shared_run_keys
                    break
        attempt = raw.attempt
        if verb is Verb.EVENT:
            return Fact(
                verb, rank, name, raw.event_type, raw.event_id, raw.at_ns, raw.source, payload, exact=raw.phase is not None,
                run_key=run_key, run_key_is_shared=shared, correlation=raw.correlation, attempt=attempt,
            )
        aliases = tuple(
            text for key in self.alias_keys if (value := payload.get(key)) is not None and (text := _text(value)) and text != name
        )
        task_type = _text(payload.get("type")) or _text(payload.get("strategy")) or _text(payload.get("phase"))
        needs = payload.get("needs")
        duration = payload.get("duration")
        cached = payload.get("cached") is True
        return Fact(
            verb, rank, name, raw.event_type, raw.event_id, raw.at_ns, raw.source, payload,
            aliases=tuple(alias for alias in aliases if alias is not None), exact=raw.phase is not None or "step_id" in payload, run_key=run_key, run_key_is_shared=shared,
            correlation=raw.correlation, workflow=self._workflow(raw, rank), attempt=attempt,
            duration_ns=None if cached else _seconds_ns(duration), delay_ns=_seconds_ns(payload.get("delay")) or 0, task_type=task_type,
            needs=tuple(str(need) for need in cast("list[object]", needs)) if isinstance(needs, list | tuple) else (),
            stage=_text(payload.get("stage")), traceparent=raw.traceparent, tracestate=raw.tracestate,
        )

    def _workflow(self, raw: Raw, rank: Rank) -> str | None:
        if rank is not Rank.RUN and raw.run_id is None:
            return None
        name = self._first(raw, self.workflow_keys)
        return _STAMPED_NAME.sub("", name) or name if name else None

    def _first(self, raw: Raw, keys: tuple[str, ...]) -> str | None:
        for key in keys:
            if key[0] == "@":
                text = _text(_identity(raw, key))
            elif key.startswith("word:"):
                words = raw.event_type.split(".")
                index = int(key[5:])
                text = words[index] if -len(words) <= index < len(words) else None
            else:
                text = _text(raw.payload.get(key))
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


def _text(value: object) -> str | None:
    """A name from outside as text; live objects have none, and their ``repr`` is not asked for."""
    if isinstance(value, str):
        return str(value.value) if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _seconds_ns(value: object) -> int | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:  # 0.0 on failure says nothing; NaN compares false
        return round(value * 1e9)
    return None


# --- outcomes ---------------------------------------------------------------------------------------------------------


def outcome(payload: Mapping[str, object], announced: Result) -> tuple[Result, Failure | None]:
    """How something ended, from what its end event says: semantics.md's table, for any emitter."""
    nested = payload.get("result")
    inner: Mapping[str, object] = cast("Mapping[str, object]", nested) if isinstance(nested, Mapping) else EMPTY
    result = announced
    named = _RESULTS.get(nested) if isinstance(nested, str) else None
    if announced in (Result.SUCCESS, Result.FAILURE):
        status = payload.get("status")
        said = _STATUS.get(status.lower()) if isinstance(status, str) else None
        if payload.get("skipped") is True or inner.get("skipped") is True:
            return Result.SKIP, None
        if payload.get("success") is False or inner.get("success") is False:
            result = Result.FAILURE
        if said is not None and (announced is Result.SUCCESS or said.failed or said is Result.CANCELLATION):
            result = said
        if named is not None and (named is not Result.SUCCESS or result is Result.SUCCESS):
            result = named
    if not result.failed:
        return result, None
    return _failure(payload, inner, result)


def _failure(payload: Mapping[str, object], inner: Mapping[str, object], result: Result) -> tuple[Result, Failure | None]:
    error: object = None
    for key in ("error", "exception", "error_message"):
        error = payload.get(key) or inner.get(key)
        if error:
            break
    declared = _text(payload.get("error_type"))
    stack = payload.get("stacktrace")
    stacktrace = stack if isinstance(stack, str) else None
    message: str | None = None
    if isinstance(error, BaseException):
        message = _safe_str(error)
        declared = declared or class_name(type(error))
        if stacktrace is None and error.__traceback__ is not None:
            stacktrace = "".join(traceback.format_exception(error))
    elif isinstance(error, str):
        message = error
    elif isinstance(error, Mapping):
        fields = cast("Mapping[str, object]", error)
        message = _text(fields.get("message"))
        declared = declared or _text(fields.get("type"))
    if declared is None and message and (found := _CLASS.match(message)) is not None:
        declared = found[1]
    if result is not Result.TIMEOUT and result is not Result.ERROR and message is not None and _CANCELLED.match(message):
        return Result.CANCELLATION, None
    if result is Result.TIMEOUT or declared == ErrorType.TIMEOUT or (message is not None and declared is None and _TIMED_OUT.search(message)):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message, stacktrace)
    if declared is not None and _TIMED_OUT.search(declared.rpartition(".")[2]):
        return Result.TIMEOUT, Failure(ErrorType.TIMEOUT, message, stacktrace)
    return result, Failure(declared or (ErrorType.OTHER if message else ErrorType.UNSUCCESSFUL), message, stacktrace)


def class_name(kind: type[BaseException]) -> str:
    """The fully qualified name of an exception class, builtins without their module."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a broken __str__ of somebody's exception
        return f"<{type(error).__name__} without a text>"


# --- reading an event -------------------------------------------------------------------------------------------------


def read(event: object) -> Raw:
    """Type, payload, time and identity of an event of any bus: our own, an object, a mapping or one decoded JSON line.

    Raises ``ValueError`` when the event has no type: then nothing can be said of it.
    """
    if isinstance(event, Event):
        return Raw(
            str(event.event_type), event.event_id, event.at_ns, event.source, event.payload, event.run_id, event.phase, event.attempt,
            _text(event.metadata.get("correlation_id")) if event.metadata else None, event.traceparent, event.tracestate,
        )
    get = _getter(event)
    metadata = get("metadata")
    about = _getter(metadata) if metadata is not None else get
    event_type: str | None = None
    for key, source in (("event_type", about), ("event_type", get), ("type", get), ("topic", get), ("kind", get)):
        event_type = _text(source(key))
        if event_type:
            break
    if not event_type:
        raise ValueError("the event has no type (looked for metadata.event_type, event_type, type, topic, kind)")
    payload = _mapping(get("payload"))
    if payload is None:
        payload = _mapping(get("data")) or EMPTY
    at_ns = time_ns_of(get("at_ns"), scale=1)
    for value in (payload.get("timestamp"), about("timestamp"), get("metadata_timestamp"), get("timestamp"), get("time")):
        if at_ns is not None:
            break
        at_ns = time_ns_of(value)
    headers = _mapping(about("headers")) or EMPTY
    correlation = _text(about("correlation_id")) or _text(get("correlation_id"))
    for key in ("run_id", "run-id", "x-run-id"):
        correlation = correlation or _text(headers.get(key))
    attempt = get("attempt")
    return Raw(
        event_type,
        _text(about("event_id")) or _text(get("event_id")) or _text(get("id")) or "",
        at_ns if at_ns is not None else time.time_ns(),
        _text(about("source")) or _text(get("source")) or "",
        payload,
        _text(get("run_id")),
        _text(get("phase")),
        attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else None,
        correlation,
        _text(get("traceparent")) or _text(headers.get("traceparent")),
        _text(get("tracestate")) or _text(headers.get("tracestate")),
    )


def published_at_ns(event: Mapping[str, object]) -> int | None:
    """When a recorded event was published: the order of a stream, even where payload times differ a little."""
    metadata = _mapping(event.get("metadata")) or EMPTY
    payload = _mapping(event.get("payload")) or EMPTY
    at_ns = time_ns_of(event.get("at_ns"), scale=1)
    for value in (metadata.get("timestamp"), event.get("metadata_timestamp"), event.get("timestamp"), event.get("time"), payload.get("timestamp")):
        if at_ns is not None:
            break
        at_ns = time_ns_of(value)
    return at_ns


def _getter(source: object) -> Callable[[str], object]:
    if isinstance(source, Mapping):
        return cast("Mapping[str, object]", source).get
    return lambda key: getattr(source, key, None)


def _mapping(value: object) -> Mapping[str, object] | None:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    if value is not None and dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: cast("object", getattr(value, field.name, None)) for field in dataclasses.fields(value)}
    fields = getattr(value, "__dict__", None)
    if isinstance(fields, dict) and not isinstance(value, type):
        return cast("dict[str, object]", fields)
    return None


_EARLIEST_NS = 1_000_000_000 * 100_000_000  # 1973: smaller numbers are counters or durations


def time_ns_of(value: object, *, scale: int | None = None) -> int | None:
    """A moment as Unix nanoseconds: datetime (naive is local time), ISO 8601 text, or a number in s, ms, µs or ns."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        factor = scale or (1_000_000_000 if value < 1e11 else 1_000_000 if value < 1e14 else 1_000 if value < 1e17 else 1)
        at_ns = value * factor
        return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None
    if isinstance(value, float):
        if not 1e8 <= value < 1e18:
            return None
        at_ns = round(value * 1e9) if value < 1e11 else round(value * 1e6) if value < 1e14 else round(value)
        return at_ns if at_ns < 2**63 else None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        try:
            moment = value.astimezone()
            at_ns = round(moment.timestamp()) * 1_000_000_000 if moment.microsecond == 0 else (
                int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
            )
        except (OverflowError, ValueError, OSError):
            return None
        return at_ns if _EARLIEST_NS <= at_ns < 2**63 else None
    return None


# --- loading ----------------------------------------------------------------------------------------------------------

_TOP = {"name", "extends", "run_keys", "shared_run_keys", "workflow_keys", "phase_keys", "alias_keys", "rules", "after"}
_RULE = {"type", "words", "has", "lacks", "level", "verb", "name", "result", "result_by_word", "final"}


def load(name_or_file: str | Path) -> Dialect:
    """A built-in dialect by name, or one from a TOML file.

    Raises :class:`~spanbus.errors.DialectError` that says what is wrong in which rule, with the nearest right word.
    """
    if isinstance(name_or_file, str) and name_or_file in BUILT_IN:
        return _built_in(name_or_file)
    path = Path(name_or_file)
    if not path.exists():
        near = difflib.get_close_matches(str(name_or_file), BUILT_IN, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DialectError(f"no dialect {str(name_or_file)!r}: neither built in ({', '.join(BUILT_IN)}) nor a file{hint}")
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DialectError(f"{path}: {error}") from error
    return parse(table, where=str(path))


@cache
def _built_in(name: str) -> Dialect:
    text = files("spanbus.telemetry").joinpath("dialects", f"{name}.toml").read_text("utf-8")
    return parse(tomllib.loads(text), where=f"dialect {name}")


def parse(table: Mapping[str, object], *, where: str) -> Dialect:
    """A dialect from decoded TOML; ``where`` names the source in errors."""
    _known(table, _TOP, where)
    base: Dialect | None = None
    extends = table.get("extends")
    if extends is not None:
        if not isinstance(extends, str) or extends not in BUILT_IN:
            raise DialectError(f"{where}: extends must be one of {', '.join(BUILT_IN)}, not {extends!r}")
        base = _built_in(extends)
    own = _rules(table, "rules", where)
    after = _rules(table, "after", where)
    rules = own + (base.rules if base is not None else ()) + after
    if not rules:
        raise DialectError(f"{where}: no [[rules]]; write at least one, or extends = \"crackerjack\"")

    def keys(key: str, inherited: tuple[str, ...]) -> tuple[str, ...]:
        return _strings(table[key], f"{where}: {key}") if key in table else inherited

    return Dialect(
        str(table.get("name") or where),
        rules,
        run_keys=keys("run_keys", base.run_keys if base else ("run_id", "job_id", "workflow_id")),
        shared_run_keys=frozenset(keys("shared_run_keys", tuple(base.shared_run_keys) if base else ("workflow_id",))),
        workflow_keys=keys("workflow_keys", base.workflow_keys if base else ("workflow", "workflow_name", "workflow_id")),
        phase_keys=keys("phase_keys", base.phase_keys if base else ("step_id", "phase", "strategy")),
        alias_keys=keys("alias_keys", base.alias_keys if base else ("step_name", "phase", "strategy")),
    )


def _rules(table: Mapping[str, object], key: str, where: str) -> tuple[Rule, ...]:
    given = table.get(key, [])
    if not isinstance(given, list):
        raise DialectError(f"{where}: {key} must be an array of tables, [[{key}]]")
    return tuple(_rule(rule, f"{where}: {key}[{index}]") for index, rule in enumerate(cast("list[object]", given)))


def _rule(given: object, where: str) -> Rule:
    if not isinstance(given, Mapping):
        raise DialectError(f"{where}: a rule is a table")
    rule = cast("Mapping[str, object]", given)
    _known(rule, _RULE, where)
    for needed in ("type", "level", "verb"):
        if needed not in rule:
            raise DialectError(f"{where}: {needed} is missing")
    names = _strings(rule.get("name", []), f"{where}: name")
    for name in names:
        if name.startswith("word:") and not re.fullmatch(r"word:-?\d+", name):
            raise DialectError(f"{where}: {name!r} must be word: and a number, such as word:1")
        if name.startswith("@") and name not in ("@phase", "@run_id"):
            raise DialectError(f"{where}: {name!r} is not one of @phase, @run_id")
    by_word = rule.get("result_by_word", {})
    if not isinstance(by_word, Mapping):
        raise DialectError(f"{where}: result_by_word must be a table")
    words = cast("Mapping[str, object]", by_word)
    final = rule.get("final", False)
    if not isinstance(final, bool):
        raise DialectError(f"{where}: final must be true or false, not {final!r}")
    return Rule(
        types=_strings(rule["type"], f"{where}: type"),
        words=frozenset(_strings(rule.get("words", []), f"{where}: words")),
        has=_strings(rule.get("has", []), f"{where}: has"),
        lacks=_strings(rule.get("lacks", []), f"{where}: lacks"),
        rank=_choice(rule["level"], _RANKS, f"{where}: level"),
        verb=_choice(rule["verb"], _VERBS, f"{where}: verb"),
        name=names,
        result=_choice(rule["result"], _RESULTS, f"{where}: result") if "result" in rule else None,
        result_by_word=MappingProxyType({word: _choice(value, _RESULTS, f"{where}: result_by_word.{word}") for word, value in words.items()}),
        final=final,
    )


def _known(table: Mapping[str, object], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise DialectError(f"{where}: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def _strings(value: object, where: str) -> tuple[str, ...]:
    items: list[object] = cast("list[object]", value) if isinstance(value, list) else [value]
    strings = tuple(item for item in items if isinstance(item, str) and item)
    if len(strings) != len(items):
        raise DialectError(f"{where} must be a string or a list of strings, not {value!r}")
    return strings


def _choice(value: object, known: Mapping[str, _T], where: str) -> _T:
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        raise DialectError(f"{where} must be one of {', '.join(known)}, not {value!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return known[value]
