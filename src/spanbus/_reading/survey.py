"""Survey of a recorded stream: each event type, and how a dialect reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from spanbus._reading.facts import Ended, Fact, Noted

_EXAMPLES = 3
_TYPES = 1_000


@dataclass(slots=True)
class Reading:
    """An event type with one meaning: how often, with which names, results and runs it was read."""

    event_type: str
    level: str
    verb: str
    events: int = 0
    names: list[str] = field(default_factory=list[str])
    results: list[str] = field(default_factory=list[str])
    runs: set[str] = field(default_factory=set[str])

    @property
    def meaning(self) -> str:
        """The meaning in words: ``phase start``, ``run end``; ``event`` if it neither starts nor ends anything."""
        return self.verb if self.verb == "event" else f"{self.level} {self.verb}"


def survey(facts: Iterable[Fact]) -> list[Reading]:
    """Return one reading for each event type and meaning, in the order of first occurrence; at most 1,000."""
    found: dict[tuple[str, str, str], Reading] = {}
    for fact in facts:
        level = "" if isinstance(fact, Noted) else fact.rank.name.lower()
        key = (fact.event.name, level, fact.verb.name.lower())
        reading = found.get(key)
        if reading is None:
            if len(found) >= _TYPES:
                continue
            reading = found[key] = Reading(*key)
        reading.events += 1
        _add(reading.names, fact.name)
        if isinstance(fact, Ended):
            _add(reading.results, str(fact.result))
        if fact.run_key is not None and len(reading.runs) < _TYPES:
            reading.runs.add(fact.run_key)
    return list(found.values())


def _add(examples: list[str], text: str | None) -> None:
    if text is not None and text not in examples and len(examples) < _EXAMPLES:
        examples.append(text)
