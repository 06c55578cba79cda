"""Types that name what they speak of: the topic ``jobs/7/steps/build/started``, the sentence ``Task build started``.

They are read as events of a plain type, ``step.started``, whose payload has the names.
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
_THINGS: Final = frozenset(_SINGULAR.values())
_KNOWN: Final = _THINGS | frozenset(_SINGULAR)
_EXECUTIONS: Final = frozenset(("run", "execution", "build"))
"""Things that are a run of the pipeline, job or workflow named before them."""
_NO_NAMES: Final = frozenset("run execution instance state status event update".split())
_ID: Final = pattern(r".*\d.*")
_AUXILIARIES: Final = frozenset("has have was is been got".split())
_QUOTES: Final = "'\"`[]()"
_TAKING: Final = pattern(
    r"(?:(?:in|after|took) )?([\d.]+) ?(ms|s|sec|secs|seconds?|m|min|minutes?)"
)
_SECONDS: Final = {"ms": 0.001, "m": 60.0}
_LONGEST: Final = 512

Words = list[str]
Pair = tuple[str, str | None]
"""A thing with its name or id, where one follows it."""


class Topic(NamedTuple):
    """A plain type, and what stands in the payload of its events besides."""

    event_type: str
    fields: dict[str, object]


@lru_cache(2_048)
def topic_of(text: str) -> Topic | None:
    """The plain type of a topic or sentence that names what it speaks of, with the names; None for every other type."""
    if len(text) > _LONGEST:
        return None
    if " " in text:
        return _sentence(text.split())
    for separator in "/:.":
        if separator in text:
            return _path([part for part in text.split(separator) if part], separator == "/")
    return None


def _path(parts: Words, is_path: bool) -> Topic | None:
    """``jobs/7/steps/build/started``: things with their names or ids, the run first, and what is said of the last one."""
    *before, last = parts
    pairs = _pairs(before)
    runs = [(thing, name) for thing, name in pairs if thing not in _PHASES and name is not None]
    if not runs or not pairs:
        return None
    surely = is_path or not _SINGULAR.keys().isdisjoint(map(str.lower, before))
    if not surely and not _is_id(runs[0][1]) and pairs[-1][0] not in _PHASES:
        return None  # "workflow.config.started" is the start of something in a workflow
    fields: dict[str, object] = {}
    (thing, name), *rest = runs
    fields["run_id" if _is_id(name) else "workflow_id"] = name
    if rest and (rest[-1][0] in _EXECUTIONS or (_is_id(rest[-1][1]) and not _is_id(name))):
        fields = {"workflow": name, "run_id": rest.pop()[1]}
        thing = "run"
    inner = [(thing, name) for thing, name in pairs if thing in _PHASES]
    part: Pair | None = inner[-1] if inner else ("task", rest[-1][1]) if rest else None
    if part is not None:
        thing = part[0]
        if part[1] is not None:
            fields["task_id" if _is_id(part[1]) else thing] = part[1]
    return Topic(f"{thing}.{last}", fields)


def _pairs(parts: Words) -> list[Pair]:
    """The things of a path, each with its name: what follows it, unless that is a thing with a name of its own."""
    pairs: list[Pair] = []
    at = 0
    while at < len(parts):
        word = parts[at].lower()
        thing = _SINGULAR.get(word, word)
        at += 1
        if thing not in _THINGS:
            continue
        name = parts[at] if at < len(parts) else None
        named = name is not None and not _says(name)
        if named and word == thing and at + 1 < len(parts) and parts[at].lower() in _KNOWN:
            named = False
        pairs.append((thing, name if named else None))
        at += named
    return pairs


def _sentence(words: Words) -> Topic | None:
    """``Task build started``, ``Finished task build in 3 s``, ``Job 7 has failed: 2 of 40``."""
    word: str | None = None
    if words[0].lower() in LEADING_WORDS:
        word, words = words[0].lower(), words[1:]
    if len(words) < (3 if word is None else 2) or (thing := words[0].lower()) not in _THINGS:
        return None
    name, rest = words[1], words[2:]
    if word is not None and name.endswith(":"):
        rest = [":", *rest]
    name = name.rstrip(":.,").strip(_QUOTES)
    no_names = _NO_NAMES if thing in _PHASES else _NO_NAMES | _THINGS
    if not name or name.lower() in no_names or _says(name):
        return None
    if word is None:
        while rest and rest[0].lower() in _AUXILIARIES:
            del rest[0]
        word, rest = _spoken(rest)
        if word is None:
            return None
    fields: dict[str, object]
    if thing in _PHASES:
        fields = {"task_id" if name.isdecimal() else thing: name}
    else:
        fields = {"run_id" if _is_id(name) else "workflow_id": name}
    more = " ".join(rest)
    if more[:1] == ":":
        fields["error" if word in FAILURES else "message"] = more[1:].strip()
    elif took := _TAKING.fullmatch(more.strip("().! ")):
        unit = took[2] if took[2] in _SECONDS else took[2][:1]
        fields["duration_s"] = float(took[1]) * _SECONDS.get(unit, 1.0)
    elif more.strip(".! ").lower() not in ("", "successfully"):
        return None
    return Topic(f"{thing}.{word}", fields)


def _spoken(words: Words) -> tuple[str | None, Words]:
    """The words of a life cycle at the beginning, with what follows them."""
    for count in (3, 2, 1):
        said = " ".join(words[:count])
        text = said.rstrip(":.,!")
        word = normal(text)
        if text and life_cycle_word(word) == word:
            return word, ([":"] if said.endswith(":") else []) + words[count:]
    return None, words


def _is_id(name: str | None) -> bool:
    return name is not None and _ID.fullmatch(name) is not None


def _says(part: str) -> bool:
    """Whether a part is what is said of a thing, and no name."""
    word = normal(part)
    return life_cycle_word(word) == word or changed(f"x.{word}")
