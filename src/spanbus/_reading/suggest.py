"""Suggest a dialect for a recorded stream, as TOML with a comment on every guess.

The guesses follow from the order of events alone: the first event of a subject starts it, the last one ends it, and the
subject that encloses all others is the run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from spanbus._reading.read import Raw
from spanbus._reading.shape import text_of
from spanbus._reading.spelling import ending, normal, segments

_USUAL_RUN_KEYS = ("run_id", "job_id", "workflow_id")
_FAILING = frozenset(
    "jammed rejected broken dropped denied killed died refused bad invalid".split()
)
_ERRORS = ("error", "exception", "error_message")
_NOT_NAMES = frozenset(("timestamp", "duration", "status", "result", "success", *_ERRORS))
_VALUES = 5_000


_Roles = tuple[list[str], list[str], list[str]]
"""Event types that start, that end, and all others."""


@dataclass(slots=True)
class _Key:
    """A payload key: its values, and the event types that have it."""

    values: Counter[str] = field(default_factory=Counter[str])
    types: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class _Subject:
    """Event types that differ only in their last part: ``station.entered`` and ``station.left``."""

    types: list[str] = field(default_factory=list[str])
    first: int = 0
    last: int = 0


def suggest(name: str, events: Iterable[Raw]) -> str:
    """Return the text of a TOML file. Types with life-cycle words are left to ``generic``, which the file extends."""
    raws = list(events)
    keys = _keys(raws)
    subjects = _subjects(raws)
    run_keys = _run_keys(keys, raws)
    unknown = {
        subject: found
        for subject, found in subjects.items()
        if len(found.types) > 1 and not all(ending(each) for each in found.types)
    }
    outermost = _outermost(subjects, unknown)
    lines = [
        f"# A first dialect for {len(raws)} events. Every guess states its reason; correct the wrong ones, then check how each type is read:",
        "#   spanbus dialect check THIS-FILE THE-STREAM",
        "",
        f"name = {_text(name)}",
        'extends = "generic"  # its words (started, completed, failed ...) are read as well',
        *_about_runs(run_keys),
    ]
    phase_keys = [
        key
        for subject, found in unknown.items()
        if subject != outermost
        for key in _name_keys(found, keys, run_keys)[:1]
    ]
    if phase_keys:
        lines.append(
            f"phase_keys = {_list(dict.fromkeys(phase_keys))}  # an event with one of these belongs to the phase of that name"
        )
    if outermost is not None:
        lines += _about_names(unknown[outermost], keys, run_keys)
    names = {subject: _name_keys(found, keys, run_keys) for subject, found in unknown.items()}
    roles = {
        subject: _roles(found, (*run_keys, *_USUAL_RUN_KEYS), names[subject], raws)
        for subject, found in unknown.items()
    }
    failing = _failing_words(unknown, roles, raws)
    for subject in unknown:
        lines += _rules(
            subject, roles[subject], names[subject], failing, is_run=subject == outermost
        )
    read = [each for found in subjects.values() for each in found.types if ending(each)]
    rest = [
        each
        for subject, found in subjects.items()
        if subject not in unknown
        for each in found.types
        if not ending(each)
    ]
    if read:
        lines += ["", f"# Read already by their life-cycle words: {', '.join(read)}"]
    if rest:
        lines += [
            "",
            f"# These start and end nothing; they are events of whatever is open: {', '.join(rest)}",
        ]
    return "\n".join(lines) + "\n"


def _keys(raws: Sequence[Raw]) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    for raw in raws:
        for key, value in raw.payload.items():
            text = text_of(value)
            if not text or len(text) > 200:
                continue
            found = keys.setdefault(key, _Key())
            found.types.add(raw.event_type)
            if text in found.values or len(found.values) < _VALUES:
                found.values[text] += 1
    return keys


def _subjects(raws: Sequence[Raw]) -> dict[str, _Subject]:
    subjects: dict[str, _Subject] = {}
    for number, raw in enumerate(raws):
        subject = ".".join(_parts(raw.event_type)[:-1])
        found = subjects.setdefault(subject, _Subject(first=number))
        found.last = number
        if raw.event_type not in found.types:
            found.types.append(raw.event_type)
    return subjects


def _parts(event_type: str) -> tuple[str, ...]:
    """Return the parts of a type; where it has one only, the last word apart from the others: ``lauf``, ``gestartet``."""
    parts = segments(event_type)
    if len(parts) > 1:
        return parts
    *before, last = normal(event_type).split(".")
    return ("_".join(before), last) if before else parts


def _failing_words(
    unknown: Mapping[str, _Subject], roles: Mapping[str, _Roles], raws: Sequence[Raw]
) -> set[str]:
    """Return the last words of the ends that are failures of any subject."""
    found: set[str] = set()
    for subject in unknown:
        ends = roles[subject][1]
        failing = [each for each in ends if _fails(each, raws)] or _with_extra_keys(ends, raws)
        found.update(_parts(each)[-1] for each in failing)
    return found


def _run_keys(keys: Mapping[str, _Key], raws: Sequence[Raw]) -> list[str]:
    """Return the likely key of the run id: shared by most events, with few values for their number.

    Keys named like an id come first, then the key whose value changes least from event to event.
    """
    events = len(raws)
    if any(key in keys for key in _USUAL_RUN_KEYS):
        return []
    shared = [
        (
            not key.lower().endswith(("id", "uuid", "key")),
            _changes(key, raws),
            -sum(found.values.values()),
            key,
        )
        for key, found in keys.items()
        if key not in _NOT_NAMES
        and sum(found.values.values()) >= 0.9 * events
        and len(found.values) <= max(1, events // 4)
        and len(found.types) > 1
    ]
    return [key for *_, key in sorted(shared)][:1]


def _changes(key: str, raws: Sequence[Raw]) -> int:
    values = [text for raw in raws if (text := text_of(raw.payload.get(key)))]
    return sum(one != before for before, one in pairwise(values))


def _about_runs(run_keys: list[str]) -> list[str]:
    if not run_keys:
        return []
    return [
        f"run_keys = {_list(run_keys)}  # nearly every event has it, and its values repeat: the run's id",
    ]


def _about_names(run: _Subject, keys: Mapping[str, _Key], run_keys: Sequence[str]) -> list[str]:
    """Return the key of the workflow's name: the only one that nothing but the first events of runs has."""
    own = [
        key
        for key, found in keys.items()
        if found.types == {run.types[0]} and key not in (*run_keys, *_USUAL_RUN_KEYS, *_NOT_NAMES)
    ]
    if len(own) != 1:
        return []
    return [f"workflow_keys = {_list(own)}  # only the first event of a run has it: its name"]


def _outermost(subjects: Mapping[str, _Subject], unknown: Mapping[str, _Subject]) -> str | None:
    """Return the subject whose events are the first and the last of the stream."""
    for subject, found in unknown.items():
        others = [each for name, each in subjects.items() if name != subject]
        if others and all(found.first < each.first and found.last > each.last for each in others):
            return subject
    return None


def _name_keys(found: _Subject, keys: Mapping[str, _Key], run_keys: Sequence[str]) -> list[str]:
    """Return the keys that all events of a subject have; those of the fewest event types and values first."""
    whole = [
        key
        for key, each in keys.items()
        if key not in run_keys
        and key not in _USUAL_RUN_KEYS
        and key not in _NOT_NAMES
        and each.types.issuperset(found.types)
    ]
    return sorted(whole, key=lambda key: (len(keys[key].types), len(keys[key].values)))


def _rules(
    subject: str, roles: _Roles, names: Sequence[str], failing: Collection[str], *, is_run: bool
) -> list[str]:
    starts, ends, between = roles
    level = "run" if is_run else "phase"
    why = ", because its events are the first and the last" if is_run else ""
    lines = ["", f"# {subject}: a {level}{why}"]
    if starts:
        lines += [
            "[[rules]]",
            f"type = {_list(starts)}  # the first event of each {subject}",
            f'level = "{level}"',
            'verb = "start"',
            *_named(names, is_run),
        ]
    if ends:
        words = {
            word: "failure" if word in failing else "success"
            for word in [_parts(each)[-1] for each in ends]
        }
        by_word = ", ".join(f"{_text(word)} = {_text(result)}" for word, result in words.items())
        lines += [
            "",
            "[[rules]]",
            f"type = {_list(ends)}  # the last event of each {subject}",
            f'level = "{level}"',
            'verb = "end"',
            *_named(names, is_run),
            f"result_by_word = {{ {by_word} }}  # a failure if its events have an error, or its word means one",
        ]
    if between:
        lines.append(f"# Neither first nor last, so events inside it: {', '.join(between)}")
    return lines


def _named(names: Sequence[str], is_run: bool) -> list[str]:
    if is_run or not names:
        return []
    return [f"name = {_list(names[:1])}  # all its events have this key"]


def _roles(
    found: _Subject, run_keys: Sequence[str], names: Sequence[str], raws: Sequence[Raw]
) -> _Roles:
    """Return the types of a subject's first events, of its last events, and the others."""
    first: dict[tuple[str, ...], str] = {}
    last: dict[tuple[str, ...], str] = {}
    for raw in raws:
        if raw.event_type not in found.types:
            continue
        of = tuple([text_of(raw.payload.get(key)) or "" for key in (*run_keys, *names[:1])])
        first.setdefault(of, raw.event_type)
        last[of] = raw.event_type
    starts = list(dict.fromkeys(first.values()))
    ends = [each for each in dict.fromkeys(last.values()) if each not in starts]
    known = {each for each in found.types if _fails(each, raws) and each not in starts}
    ends += [each for each in found.types if each in known and each not in ends]
    return starts, ends, [each for each in found.types if each not in (*starts, *ends)]


def _fails(event_type: str, raws: Sequence[Raw]) -> bool:
    if _parts(event_type)[-1].lower() in _FAILING:
        return True
    return any(
        raw.event_type == event_type and any(raw.payload.get(key) for key in _ERRORS)
        for raw in raws
    )


def _with_extra_keys(ends: Sequence[str], raws: Sequence[Raw]) -> list[str]:
    """Return the end types whose events have payload keys of their own: probably the error, in any language."""
    keys = {
        end: {key for raw in raws if raw.event_type == end for key in raw.payload} for end in ends
    }
    by_others = {end: set[str]().union(*(keys[one] for one in ends if one != end)) for end in ends}
    extra = [end for end in ends if keys[end] - by_others[end]]
    return extra if 0 < len(extra) < len(ends) else []


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
