"""Readers of the shipped Grafana dashboards: their queries, the metrics and labels in them, and the values of variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/grafana/dashboards"
UIDS = ("spanbus-overview", "spanbus-phase", "spanbus-delivery", "spanbus-observers")

Json = dict[str, object]


def load(uid: str) -> Json:
    return cast("Json", json.loads((FOLDER / f"{uid}.json").read_text(encoding="utf-8")))


def panels(uid: str) -> list[Json]:
    """Return all panels, including those inside rows."""
    found: list[Json] = []
    for panel in cast("list[Json]", load(uid)["panels"]):
        found += [panel, *cast("list[Json]", panel.get("panels") or [])]
    return found


def variables(uid: str) -> list[Json]:
    return cast("list[Json]", cast("Json", load(uid)["templating"])["list"])


class Target(NamedTuple):
    """One query of one panel."""

    uid: str
    panel: str
    kind: str
    ref: str
    expr: str
    instant: bool
    exemplar: bool

    @property
    def name(self) -> str:
        return f"{self.uid}: {self.panel} {self.ref}"


def targets() -> Iterator[Target]:
    for uid in UIDS:
        for panel in panels(uid):
            for target in cast("list[Json]", panel.get("targets") or []):
                yield Target(
                    uid,
                    str(panel["title"]),
                    str(panel["type"]),
                    str(target["refId"]),
                    str(target["expr"]),
                    bool(target["instant"]),
                    bool(target["exemplar"]),
                )


def variable_query(variable: Json) -> tuple[str, str]:
    """Return selector and label of a ``label_values(selector, label)`` query."""
    query = str(cast("Json", variable["query"])["query"])
    match = re.fullmatch(r"label_values\((.+),\s*([a-zA-Z_]\w*)\)", query)
    assert match is not None, query
    return match[1], match[2]


def filled(expr: str, values: Mapping[str, str]) -> str:
    """Replace the variables of an expression, as Grafana does before it sends the query."""
    for name, value in values.items():
        expr = expr.replace(f"${{{name}}}", value)
        expr = re.sub(rf"\${name}\b", lambda _, value=value: value, expr)
    assert "$" not in expr, expr
    return expr


# --- PromQL: which metrics, with which labels ---------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
  | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]))
  | (?P<duration>(?:\d+(?:ms|[smhdwy]))+|\$__\w+)
  | (?P<name>[a-zA-Z_:][\w:]*)
  | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){}\[\],:@])
    """,
    re.VERBOSE,
)
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "offset", "bool", "inf", "nan"})


@dataclass(frozen=True)
class Asked:
    """Metrics and labels of a PromQL expression.

    ``selectors`` are pairs of a metric and the labels of its matchers; the metric is a pattern if ``__name__`` is matched.
    ``grouped`` are the labels of groupings.
    """

    selectors: tuple[tuple[str, frozenset[str]], ...]
    grouped: frozenset[str]


def asked(expr: str) -> Asked:
    """Parse an expression. An unknown token is an error, so that nothing is skipped."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(expr):
        match = _TOKEN.match(expr, at)
        assert match is not None, f"not understood: {expr[at : at + 30]!r} in {expr}"
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
        at = match.end()
    tokens.append(("end", ""))
    selectors: list[tuple[str, frozenset[str]]] = []
    grouped: set[str] = set()
    place = 0
    while place < len(tokens) - 1:
        kind, text = tokens[place]
        following = tokens[place + 1][1]
        if kind == "name" and text in _GROUPING:
            place += 2
            while tokens[place][1] != ")":
                if tokens[place][0] == "name":
                    grouped.add(tokens[place][1])
                place += 1
        elif (
            kind == "name" and text not in _WORDS and following not in ("(", *_GROUPING)
        ) or text == "{":
            metric = text if kind == "name" else ""
            labels: set[str] = set()
            if (kind == "name" and following == "{") or text == "{":
                place += 1 if kind == "name" else 0
                while tokens[place][1] != "}":
                    place += 1
                    if tokens[place][0] == "name":
                        if tokens[place][1] == "__name__":
                            metric = tokens[place + 2][1].strip("\"'")
                        else:
                            labels.add(tokens[place][1])
            selectors.append((metric, frozenset(labels)))
        place += 1
    return Asked(tuple(selectors), frozenset(grouped))
