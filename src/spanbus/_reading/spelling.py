"""Spellings of event types: ``PipelineFailed``, ``pipeline:failed`` and ``PIPELINE_FAILED`` are equal to every rule."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from spanbus._patterns import pattern

_CAMEL_CASE: Final = pattern(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS: Final = pattern(r"[\s.:/_\-#|>@()]+")
_LEVELS: Final = pattern(r"[.:/#|>@()]+")
_DECORATIONS: Final = frozenset("event message signal notification".split())
_PREFIXES: Final = ("on.", "event.", "evt.")
_DOMAINS: Final = frozenset("com org net io dev".split())

STARTS: Final = (
    "start started starting begin began begun running executing enter entered prerun before".split()
)
ENDS: Final = "end ended complete completed done finish finished success succeeded successful ok passed exit exited postrun".split()
FAILURES: Final = "fail failed failure error errored crash crashed exception lost".split()
TIMEOUTS: Final = "timeout timed_out timedout expired".split()
CANCELLATIONS: Final = "cancel cancelled canceled aborted revoked interrupted".split()
SKIPS: Final = "skip skipped missed".split()
STOPS: Final = "stopped halted terminated killed rejected declined denied approved after".split()
"""Ends that count only for open work."""
RETRIES: Final = "retry retrying retried up_for_retry rescheduled".split()

_LIFE_CYCLE: Final = frozenset(
    word.replace("_", ".")
    for words in (STARTS, ENDS, FAILURES, TIMEOUTS, CANCELLATIONS, STOPS, SKIPS, RETRIES)
    for word in words
)
_CHANGES: Final = frozenset(
    "changed change updated update status state transition transitioned modified".split()
)
_SAY_NOTHING: Final = _CHANGES | frozenset(
    "progress event message notification signal info log lifecycle report notify callback data payload".split()
)
"""Generic words that only say that something is an event."""
_STATES: Final = {
    "in.progress": "running",
    "active": "running",
    "processing": "running",
    "omitted": "skipped",
    "not.built": "skipped",
    "upstream.failed": "skipped",
    "unstable": "failed",
}
_MAX_WORDS: Final = max(word.count(".") + 1 for word in _LIFE_CYCLE)
LEADING_WORDS: Final = frozenset(
    "start started starting begin began begun running finish finished finishing end ended complete completed "
    "succeeded fail failed timed.out aborted cancelled canceled interrupted skipped retrying retried".split()
)
"""Words that may precede their subject: ``start_task``, ``finished_run``. Other leading words are requests."""
_PREPOSITIONS: Final = {"before": "before", "pre": "before", "after": "after", "post": "after"}
"""Words of hooks: ``before_step``, ``post_run``."""
_RUNS: Final = frozenset(
    "run pipeline job flow workflow dag saga build batch workflow.run pipeline.run dag.run flow.run job.run "
    "workflow.execution pipeline.execution job.execution workflow.instance".split()
)
"""Words for a run, also behind an application or package name: ``shop.workflow.started``."""
_NAMED_RUNS: Final = frozenset("pipeline workflow dag".split())
"""Words for a run that may be prefixed with its name: ``CheckoutWorkflowStarted``."""
_PARTS: Final = frozenset(
    "sub child nested inner hooks steps tasks stages nodes activities phases".split()
)
_THINGS: Final = frozenset(
    "task step stage node activity phase job run pipeline flow workflow dag saga build session batch test hook".split()
)


@lru_cache(2_048)
def normal(text: str) -> str:
    """Return the normal spelling, in which rules are compared: lower-case words separated by dots."""
    if text.islower() and text.isascii() and all(word.isalnum() for word in text.split(".")):
        return text
    return _SEPARATORS.sub(".", _CAMEL_CASE.sub(".", text)).strip(".").lower()


@lru_cache(2_048)
def key_of(text: str) -> str:
    """Return a key in snake case: ``run_id`` for ``runId``, ``RunID`` and ``run-id``."""
    return normal(text).replace(".", "_")


def ends_with(text: str, word: str) -> bool:
    """Whether a normal text ends in a normal word (or words)."""
    return text == word or text.endswith("." + word)


@lru_cache(2_048)
def plain(text: str) -> str:
    """Return the normal spelling without decorations such as ``Event``, ``on_`` and versions.

    ``TaskStartedEvent``, ``on_task_started``, ``EVENT_TASK_STARTED``, ``task.started.v1`` and ``started_task`` are all
    ``task.started``.
    """
    kind = normal(text)
    words = kind.split(".")
    while len(words) > 1 and _is_decoration(words[-1]):
        words.pop()
    bare = ".".join(words)
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    if "." not in bare:
        return kind
    return bare if life_cycle_word(bare) is not None else _reordered(bare) or kind


def _reordered(kind: str) -> str | None:
    """Return ``task.started`` for ``started.task``, None if it is not a life-cycle word before its subject."""
    words = kind.split(".")
    for count in (2, 1):
        first, things = ".".join(words[:count]), words[count:]
        first = _PREPOSITIONS.get(first, first)
        if (
            (first in LEADING_WORDS or first in _PREPOSITIONS)
            and things
            and _THINGS.issuperset(things)
        ):
            return ".".join((*things, first))
    return None


def _is_decoration(word: str) -> bool:
    """Whether the word is a decoration, such as ``event`` or ``v1``."""
    return word in _DECORATIONS or word.removeprefix("v").isdecimal()


def life_cycle_word(kind: str) -> str | None:
    words = kind.split(".")
    for count in range(min(_MAX_WORDS, len(words)), 0, -1):
        last = ".".join(words[-count:])
        if last in _LIFE_CYCLE:
            return last
    return None


@lru_cache(2_048)
def ending(text: str) -> str | None:
    """Return the life-cycle word at the end of an event type (``started``, ``timed.out``), None if there is none."""
    return life_cycle_word(plain(text))


@lru_cache(2_048)
def subject(text: str) -> str:
    """Return the plain event type without its life-cycle word: ``pipeline`` for ``PipelineFailed``.

    The domain of a CloudEvents type and prefixes of a run are dropped: ``run`` for ``com.example.run.started``,
    ``pipeline`` for ``orca:pipeline:starting``.
    """
    word = ending(text)
    kind = plain(text)
    about = kind if word is None else kind[: -len(word)].rstrip(".")
    first, _, rest = about.partition(".")
    if first in _DOMAINS:
        about = rest.partition(".")[2] or about
    return about if word is None or about in _RUNS else _of_run(text, about)


def _of_run(text: str, about: str) -> str:
    """Return the word for a run without the name, application or package before it; else ``about``."""
    rest = about
    for head in filter(None, map(normal, _LEVELS.split(text))):
        if head in _THINGS or head in _PARTS:
            return about
        if not rest.startswith(head + "."):
            break
        rest = rest[len(head) + 1 :]
        if rest in _RUNS:
            return rest
    *before, last = rest.split(".")
    named = last in _NAMED_RUNS and _THINGS.isdisjoint(before) and _PARTS.isdisjoint(before)
    return last if named else about


@lru_cache(2_048)
def name_of_run(text: str) -> str | None:
    """Return the name of a run from its event type: ``checkout_workflow`` for ``CheckoutWorkflowStarted``."""
    parts = segments(text)
    name = parts[-2] if len(parts) > 1 else ""
    return (
        name
        if "." in normal(name) and normal(name) not in _RUNS and subject(text) in _NAMED_RUNS
        else None
    )


@lru_cache(2_048)
def changing(text: str) -> str | None:
    """Return the subject of a type that says only that it changed: ``task_instance`` for ``TaskInstanceStateChanged``."""
    words = plain(text).split(".")
    while words and words[-1] in _CHANGES:
        words.pop()
    return "_".join(words) or None


def is_generic(text: str) -> bool:
    """Whether a type does not name its subject: ``progress``, ``status_update``."""
    return _SAY_NOTHING.issuperset(normal(text).split("."))


def changed(text: str) -> bool:
    """Whether an event type reports a change: ``TaskUpdate``, ``job.status``."""
    kind = plain(text)
    return "." in kind and kind.rpartition(".")[2] in _CHANGES


@lru_cache(2_048)
def word_of_state(text: str) -> str | None:
    """Return the life-cycle word for a state, None for states before the start."""
    word = normal(text)
    word = _STATES.get(word, word)
    return word if word in _LIFE_CYCLE else None


@lru_cache(2_048)
def segments(text: str) -> tuple[str, ...]:
    """Return the parts of an event type as written, with the life-cycle word apart: ``fetch_data``, ``started``."""
    parts = [part for part in _LEVELS.split(text) if part]
    if not parts:
        return (text,)
    kind = plain(text)
    if kind != normal(text):
        if (
            len(parts) > 1
            and normal(parts[0]) in LEADING_WORDS
            and (word := ending(text)) is not None
        ):
            return kind[: -len(word) - 1].replace(".", "_"), word.replace(".", "_")  # "start:task"
        while len(parts) > 1 and all(map(_is_decoration, normal(parts[-1]).split("."))):
            parts.pop()
    last = parts.pop()
    word = ending(last)
    words = plain(last).split(".")
    if word is not None and len(words) > (taken := word.count(".") + 1):
        parts += ["_".join(words[:-taken]), word.replace(".", "_")]
    else:
        parts.append(last)
    return tuple(parts)
