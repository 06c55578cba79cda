"""Cached read plans: the cache for an event type and its payload keys does not change what an event means."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanbus._reading.dialect import Dialect
from spanbus._reading.dialect_file import BUILT_IN, load
from spanbus._reading.facts import Rank, Verb
from spanbus._reading.read import Raw
from spanbus._reading.rules import Rule

TYPES = st.sampled_from(
    "step.started step.completed task.failed pipeline.started workflow.failed build.started workflow.phase.started "
    "hooks.execution.completed hooks.strategy.started config.checked note".split()
)
KEYS = st.sampled_from(
    "run_id job_id workflow_id step_id step_name phase strategy step task name hook executable error @phase @run_id".split()
)
VALUES = st.sampled_from([None, "", "a", "fast_hooks", 7])
EVENTS = st.lists(
    st.tuples(
        TYPES,
        st.dictionaries(KEYS, VALUES, max_size=5),
        st.sampled_from([None, "lint"]),
        st.booleans(),
    ),
    max_size=12,
)


def raws(events: Iterable[tuple[str, dict[str, object], str | None, bool]]) -> list[Raw]:
    found: list[Raw] = []
    for number, (event_type, payload, phase, names_run) in enumerate(events):
        raw = Raw(event_type, f"e-{number}", 10**18 + number, "", payload)
        raw.phase, raw.run_id = phase, "r" if names_run else None
        found.append(raw)
    return found


def holds(rule: Rule, raw: Raw) -> bool:
    """Evaluate a rule literally: all keys of ``has`` are present, none of ``lacks``."""

    def there(key: str) -> bool:
        value = {"@phase": raw.phase, "@run_id": raw.run_id}.get(key) if key[0] == "@" else None
        return (raw.payload.get(key) if key[0] != "@" else value) not in (None, "")

    return all(map(there, rule.has)) and not any(map(there, rule.lacks))


@pytest.mark.parametrize("name", BUILT_IN)
@given(EVENTS)
def test_the_first_matching_rule_decides(
    name: str, events: list[tuple[str, dict[str, object], str | None, bool]]
) -> None:
    dialect = KNOWN[name]
    for raw in raws(events):
        meant = [one.rule for one in dialect.candidates(raw.event_type) if holds(one.rule, raw)]
        fact = dialect.fact(raw)
        if meant:
            assert (fact.rank, fact.verb) == (meant[0].rank, meant[0].verb)
        else:
            assert fact.verb is Verb.EVENT
            assert fact.rank is (Rank.PHASE if fact.name is not None else Rank.RUN)


@pytest.mark.parametrize("name", BUILT_IN)
@given(EVENTS)
def test_a_cached_read_plan_gives_the_same_facts_as_a_new_dialect(
    name: str, events: list[tuple[str, dict[str, object], str | None, bool]]
) -> None:
    for raw, again in zip(raws(events), raws(events), strict=True):
        assert repr(KNOWN[name].fact(raw)) == repr(
            load({"name": "anew", "extends": name}).fact(again)
        )


def test_events_beyond_the_size_of_the_plan_cache_are_read() -> None:
    dialect: Dialect = load("generic")
    for number in range(2_100):
        payload = {"run_id": "r", "step": "lint", f"field {number}": number}
        fact = dialect.fact(Raw("step.started", f"e-{number}", 10**18, "", payload))
        assert (fact.run_key, fact.name, fact.verb) == ("r", "lint", Verb.START)


KNOWN = {name: load(name) for name in BUILT_IN}
