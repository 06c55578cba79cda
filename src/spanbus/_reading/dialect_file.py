"""Load dialects from TOML: the built-in ones (``_reading/dialects/*.toml``) and those of users (docs/dialects.md)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from spanbus._reading.dialect import Dialect
from spanbus._reading.facts import Rank, Verb
from spanbus._reading.places import Keys
from spanbus._reading.policy import Policy
from spanbus._reading.rules import Names, Rule
from spanbus._reading.spelling import key_of, normal
from spanbus._reading.states import States
from spanbus._reading.times import UNITS, unit_ns, unit_ns_of
from spanbus._semantics import Result
from spanbus._suggest import did_you_mean
from spanbus._toml_document import document
from spanbus.errors import DialectError

_T = TypeVar("_T")

_MOST_BYTES = 1 << 20

BUILT_IN = ("spanbus", "crackerjack", "generic")

_RANKS = {rank.name.lower(): rank for rank in Rank}
_VERBS = {verb.name.lower(): verb for verb in Verb}
_RESULTS = {result.value: result for result in Result}
_TOP = {
    "name",
    "extends",
    "run_keys",
    "shared_run_keys",
    "workflow_keys",
    "phase_keys",
    "alias_keys",
    "type_keys",
    "payload_keys",
    "time_keys",
    "id_keys",
    "duration_keys",
    "attempts_key",
    "run",
    "run_ids",
    "restart",
    "error_means_failure",
    "name_memory",
    "identity_keys",
    "state_keys",
    "state_subjects",
    "rules",
    "after",
}
_IDENTITIES = ("@phase", "@run_id")
_NAMES = (*_IDENTITIES, "@thing", "@id")
_RULE = {
    "type",
    "subjects",
    "words",
    "has",
    "lacks",
    "level",
    "verb",
    "name",
    "result",
    "result_by_word",
    "final",
    "of_open",
}


DialectSource = str | Path | Mapping[str, object] | Dialect
"""Source of a dialect: a built-in name, a path, a mapping, or a dialect."""


def load(source: DialectSource) -> Dialect:
    """Load a dialect: built-in by name, a TOML file by path, a decoded mapping, or a dialect itself.

    Raises :class:`~spanbus.errors.DialectError`, which names the faulty rule and suggests the nearest known word.
    """
    if isinstance(source, Dialect):
        return source
    if isinstance(source, Mapping):
        return parse(source, where="the dialect")
    if isinstance(source, str) and source in BUILT_IN:
        return _built_in(source)
    path = Path(source)
    if not path.exists():
        hint = did_you_mean(str(source), BUILT_IN)
        raise DialectError(
            f"no dialect {str(source)!r}: neither built in ({', '.join(BUILT_IN)}) nor a file{hint}"
        )
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES} bytes")
        table = document(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise DialectError(f"{path}: {error}") from error
    return parse(table, where=str(path))


@cache
def _built_in(name: str) -> Dialect:
    text = (Path(__file__).parent / "dialects" / f"{name}.toml").read_text("utf-8")
    return parse(tomllib.loads(text), where=f"dialect {name}")


def parse(table: Mapping[str, object], *, where: str = "the dialect") -> Dialect:
    """Build a dialect from decoded TOML; ``where`` names the source in errors."""
    _known(table, _TOP, where)
    name = table.get("name", "")
    if not isinstance(name, str):
        raise DialectError(f"{where}: name must be a string, not {name!r}")
    base: Dialect | None = None
    extends = table.get("extends")
    if extends is not None:
        if not isinstance(extends, str) or extends not in BUILT_IN:
            raise DialectError(
                f"{where}: extends must be one of {', '.join(BUILT_IN)}, not {extends!r}"
            )
        base = _built_in(extends)
    own = _rules(table, "rules", where)
    after = _rules(table, "after", where)
    rules = own + (base.rules if base is not None else ()) + after
    if not rules:
        raise DialectError(f'{where}: no [[rules]]; write at least one, or extends = "crackerjack"')

    def keys(key: str, inherited: tuple[str, ...]) -> tuple[str, ...]:
        return _strings(table[key], f"{where}: {key}") if key in table else inherited

    usual = base.names if base is not None else Names()
    policy = base.policy if base is not None else Policy(unique_runs=False)
    looked = base.keys if base is not None else Keys()
    run = keys("run_keys", usual.run)
    phase = keys("phase_keys", usual.phase)
    return Dialect(
        name or where,
        rules,
        Names(
            run,
            frozenset(keys("shared_run_keys", tuple(usual.shared_run))),
            keys("workflow_keys", usual.workflow),
            phase,
            keys("alias_keys", usual.alias),
            _durations(table["duration_keys"], f"{where}: duration_keys")
            if "duration_keys" in table
            else usual.durations,
            keys("attempts_key", (usual.attempts,))[0],
            keys("name_memory", (usual.memory,) if usual.memory else ("",))[0] or None,
            keys("identity_keys", usual.identity),
        ),
        Keys(
            keys("type_keys", looked.types),
            keys("payload_keys", looked.payloads),
            keys("time_keys", looked.times),
            keys("id_keys", looked.ids),
            run,
        ),
        Policy(
            _one_of(table, "run_ids", {"unique": True, "reused": False}, policy.unique_runs, where),
            _one_of(
                table,
                "restart",
                {"attempt": True, "parallel": False},
                policy.restart_is_attempt,
                where,
            ),
            _one_of(table, "run", {"each": True, "announced": False}, policy.each, where),
        ),
        States(
            keys("state_keys", base.states.keys if base is not None else ()),
            frozenset(
                key_of(one)
                for one in keys(
                    "state_subjects", tuple(base.states.subjects) if base is not None else ()
                )
            ),
            phase,
        ),
        error_means_failure=_flag(
            table, "error_means_failure", base is not None and base.error_means_failure, where
        ),
        own_rules=own + after,
    )


def _one_of(
    table: Mapping[str, object], key: str, known: Mapping[str, bool], usual: bool, where: str
) -> bool:
    return _choice(table[key], known, f"{where}: {key}") if key in table else usual


def _flag(table: Mapping[str, object], key: str, usual: bool, where: str) -> bool:
    given = table.get(key, usual)
    if not isinstance(given, bool):
        raise DialectError(f"{where}: {key} must be true or false, not {given!r}")
    return given


def _durations(given: object, where: str) -> Mapping[str, int]:
    """Return duration keys with the nanoseconds of their unit, from a list (unit from the name) or a table of units."""
    if not isinstance(given, Mapping):
        return MappingProxyType({key: unit_ns_of(key) for key in _strings(given, where)})
    found: dict[str, int] = {}
    for key, unit in cast("Mapping[str, object]", given).items():
        size_ns = unit_ns(unit) if isinstance(unit, str) else None
        if size_ns is None:
            raise DialectError(f"{where}: {key} must be one of {', '.join(UNITS)}, not {unit!r}")
        found[key] = size_ns
    return MappingProxyType(found)


def _rules(table: Mapping[str, object], key: str, where: str) -> tuple[Rule, ...]:
    given = table.get(key, [])
    if not isinstance(given, list):
        raise DialectError(f"{where}: {key} must be an array of tables, [[{key}]]")
    return tuple(
        _rule(rule, f"{where}: {key}[{index}]")
        for index, rule in enumerate(cast("list[object]", given))
    )


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
    has, lacks = (
        _strings(rule.get("has", []), f"{where}: has"),
        _strings(rule.get("lacks", []), f"{where}: lacks"),
    )
    for asked, known in ((names, _NAMES), ((*has, *lacks), _IDENTITIES)):
        for name in asked:
            if name.startswith("@") and name not in known:
                raise DialectError(
                    f"{where}: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}"
                )
    by_word = rule.get("result_by_word", {})
    if not isinstance(by_word, Mapping):
        raise DialectError(f"{where}: result_by_word must be a table")
    words = cast("Mapping[str, object]", by_word)
    return Rule(
        types=tuple([normal(each) for each in _strings(rule["type"], f"{where}: type")]),
        words=frozenset(
            [normal(each) for each in _strings(rule.get("words", []), f"{where}: words")]
        ),
        subjects=frozenset(
            [normal(each) for each in _strings(rule.get("subjects", []), f"{where}: subjects")]
        ),
        has=has,
        lacks=lacks,
        rank=_choice(rule["level"], _RANKS, f"{where}: level"),
        verb=_choice(rule["verb"], _VERBS, f"{where}: verb"),
        name=names,
        result=_choice(rule["result"], _RESULTS, f"{where}: result") if "result" in rule else None,
        result_by_word=MappingProxyType(
            {
                normal(word): _choice(value, _RESULTS, f"{where}: result_by_word.{word}")
                for word, value in words.items()
            }
        ),
        final=_flag(rule, "final", False, where),
        of_open=_flag(rule, "of_open", False, where),
    )


def _known(table: Mapping[str, object], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise DialectError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")


def _strings(value: object, where: str) -> tuple[str, ...]:
    items: list[object] = cast("list[object]", value) if isinstance(value, list) else [value]
    strings = tuple(item for item in items if isinstance(item, str) and item)
    if len(strings) != len(items):
        raise DialectError(f"{where} must be a string or a list of strings, not {value!r}")
    return strings


def _choice(value: object, known: Mapping[str, _T], where: str) -> _T:
    if not isinstance(value, str) or value not in known:
        raise DialectError(
            f"{where} must be one of {', '.join(known)}, not {value!r}{did_you_mean(str(value), known)}"
        )
    return known[value]
