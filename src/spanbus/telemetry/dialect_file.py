"""A dialect from TOML: those that are built in (``telemetry/dialects/*.toml``), and those that users write (docs/dialects.md)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from spanbus.errors import DialectError
from spanbus.telemetry.dialect import Dialect, Rule
from spanbus.telemetry.facts import Rank, Verb
from spanbus.telemetry.names import Result

_T = TypeVar("_T")

BUILT_IN = ("spanbus", "crackerjack", "generic")

_RANKS = {rank.name.lower(): rank for rank in Rank}
_VERBS = {verb.name.lower(): verb for verb in Verb}
_RESULTS = {result.value: result for result in Result}
_TOP = {"name", "extends", "run_keys", "shared_run_keys", "workflow_keys", "phase_keys", "alias_keys", "rules", "after"}
_IDENTITIES = ("@phase", "@run_id")
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
    name = table.get("name", "")
    if not isinstance(name, str):
        raise DialectError(f"{where}: name must be a string, not {name!r}")
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
        name or where,
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
    has, lacks = _strings(rule.get("has", []), f"{where}: has"), _strings(rule.get("lacks", []), f"{where}: lacks")
    for name in (*names, *has, *lacks):
        if name.startswith("@") and name not in _IDENTITIES:
            near = difflib.get_close_matches(name, _IDENTITIES, 1)
            raise DialectError(f"{where}: {name!r} is not one of {', '.join(_IDENTITIES)}{f'; did you mean {near[0]!r}?' if near else ''}")
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
        has=has,
        lacks=lacks,
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
