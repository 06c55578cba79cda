"""Event types that contain names: the topic ``jobs/7/steps/build/started``, the sentence ``Task build started``.

They are split into a plain type, ``step.started``, and the names as payload fields.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from spanbus._named_tuple import NamedTuple
from spanbus._patterns import pattern
from spanbus._reading.spelling import FAILURES, LEADING_WORDS, changed, life_cycle_word, normal

_SINGULAR: Final = {
    **{f"{one}s": one for one in "run pipeline job flow workflow dag saga build execution".split()},
    **{f"{one}s": one for one in "task step stage node phase".split()},
    "batches": "batch",
    "activities": "activity",
}
_PHASES: Final = frozenset("task step stage node activity phase".split())
_KINDS: Final = frozenset(_SINGULAR.values())
_KIND_WORDS: Final = _KINDS | frozenset(_SINGULAR)
_EXECUTIONS: Final = frozenset(("run", "execution", "build"))
"""Words for a run of the pipeline, job or workflow before them."""
_NO_NAMES: Final = frozenset("run execution instance state status event update".split())
_ID: Final = pattern(r".*\d.*")
_AUXILIARIES: Final = frozenset("has have was is been got".split())
_QUOTES: Final = "'\"`[]()"
_DURATION: Final = pattern(
    r"(?:(?:in|after|took) )?(\d+(?:\.\d*)?) ?(ms|s|sec|secs|seconds?|m|min|minutes?)"
)
_SECONDS: Final = {"ms": 0.001, "m": 60.0}
_MAX_CHARS: Final = 512

Words = list[str]
Pair = tuple[str, str | None]
"""A kind of work, and the name or id that follows it, if any."""


class Topic(NamedTuple):
    """A plain event type, and the additional payload fields."""

    event_type: str
    fields: dict[str, object]


@lru_cache(2_048)
def topic_of(text: str) -> Topic | None:
    """Split a topic or sentence into its plain type and the names in it; return None for any other type. Cached."""
    if len(text) > _MAX_CHARS:
        return None
    if " " in text:
        words = text.split()
        return _sentence(words) if words else None
    for separator in "/:.":
        if separator in text:
            parts = [part for part in text.split(separator) if part]
            return _path(parts, separator == "/") if parts else None
    return None


def _path(parts: Words, is_path: bool) -> Topic | None:
    """Read ``jobs/7/steps/build/started``: kinds of work with their names or ids, outermost first, then a life-cycle word."""
    *before, last = parts
    pairs = _pairs(before)
    runs = [(kind, name) for kind, name in pairs if kind not in _PHASES and name is not None]
    if not runs or not pairs:
        return None
    unambiguous = is_path or not _SINGULAR.keys().isdisjoint(map(str.lower, before))
    if not unambiguous and not _is_id(runs[0][1]) and pairs[-1][0] not in _PHASES:
        return None  # "workflow.config.started" is the start of something in a workflow
    fields: dict[str, object] = {}
    (kind, name), *rest = runs
    fields["run_id" if _is_id(name) else "workflow_id"] = name
    if rest and (rest[-1][0] in _EXECUTIONS or (_is_id(rest[-1][1]) and not _is_id(name))):
        fields = {"workflow": name, "run_id": rest.pop()[1]}
        kind = "run"
    inner = [(kind, name) for kind, name in pairs if kind in _PHASES]
    part: Pair | None = inner[-1] if inner else ("task", rest[-1][1]) if rest else None
    if part is not None:
        kind = part[0]
        if part[1] is not None:
            fields["task_id" if _is_id(part[1]) else kind] = part[1]
    return Topic(f"{kind}.{last}", fields)


def _pairs(parts: Words) -> list[Pair]:
    """Return the kinds of work in a path with their names: the next part, unless that is a kind with its own name."""
    pairs: list[Pair] = []
    at = 0
    while at < len(parts):
        word = parts[at].lower()
        kind = _SINGULAR.get(word, word)
        at += 1
        if kind not in _KINDS:
            continue
        name = parts[at] if at < len(parts) else None
        named = name is not None and not _is_status(name)
        if named and word == kind and at + 1 < len(parts) and parts[at].lower() in _KIND_WORDS:
            named = False
        pairs.append((kind, name if named else None))
        at += named
    return pairs


def _sentence(words: Words) -> Topic | None:
    """Read ``Task build started``, ``Finished task build in 3 s``, ``Job 7 has failed: 2 of 40``."""
    word: str | None = None
    if words[0].lower() in LEADING_WORDS:
        word, words = words[0].lower(), words[1:]
    if len(words) < (3 if word is None else 2) or (kind := words[0].lower()) not in _KINDS:
        return None
    name, rest = words[1], words[2:]
    if word is not None and name.endswith(":"):
        rest = [":", *rest]
    name = name.rstrip(":.,").strip(_QUOTES)
    no_names = _NO_NAMES if kind in _PHASES else _NO_NAMES | _KINDS
    if not name or name.lower() in no_names or _is_status(name):
        return None
    if word is None:
        while rest and rest[0].lower() in _AUXILIARIES:
            del rest[0]
        word, rest = _leading_status(rest)
        if word is None:
            return None
    fields: dict[str, object]
    if kind in _PHASES:
        fields = {"task_id" if name.isdecimal() else kind: name}
    else:
        fields = {"run_id" if _is_id(name) else "workflow_id": name}
    more = " ".join(rest)
    if more[:1] == ":":
        fields["error" if word in FAILURES else "message"] = more[1:].strip()
    elif took := _DURATION.fullmatch(more.strip("().! ")):
        unit = took[2] if took[2] in _SECONDS else took[2][:1]
        fields["duration_s"] = float(took[1]) * _SECONDS.get(unit, 1.0)
    elif more.strip(".! ").lower() not in ("", "successfully"):
        return None
    return Topic(f"{kind}.{word}", fields)


def _leading_status(words: Words) -> tuple[str | None, Words]:
    """Return the life-cycle word at the beginning, None without one, and the words after it."""
    for count in (3, 2, 1):
        start = " ".join(words[:count])
        text = start.rstrip(":.,!")
        word = normal(text)
        if text and life_cycle_word(word) == word:
            return word, ([":"] if start.endswith(":") else []) + words[count:]
    return None, words


def _is_id(name: str | None) -> bool:
    return name is not None and _ID.fullmatch(name) is not None


def _is_status(part: str) -> bool:
    """Whether a part is a life-cycle word or reports a change, so that it is not a name."""
    word = normal(part)
    return life_cycle_word(word) == word or changed(f"x.{word}")
