"""A run as GitHub-flavoured Markdown: result, table of phases, output of failures."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import TypedDict, TypeVar

from spanbus._runs.format import MARKS, UNKNOWN_MARK, duration
from spanbus._runs.sanitize import block, one_line
from spanbus._runs.summary import RunSummary, SpanSummary
from spanbus._semantics import FAILED_RESULTS, Level, Result

MARKDOWN_LIMIT_CHARS = 900_000  # GitHub rejects a job summary of more than 1 MiB
_OUTPUT_LIMIT_CHARS = 4_096


_L = TypeVar("_L", bound="Line")


class Line(TypedDict):
    """A span as a row of the report."""

    depth: int
    level: str
    name: str
    result: str
    error_type: str
    error: str
    length: int
    attempts: int
    output: str


def markdown_of(run: RunSummary) -> str:
    """Return the report of a run that is not stored yet."""
    length_us = round(run.duration_s * 1e6)
    head: Line = {
        "depth": 0,
        "level": Level.RUN.value,
        "name": run.workflow,
        "result": run.result,
        "error_type": run.error_type or "",
        "error": "",
        "length": length_us,
        "attempts": 1,
        "output": "",
    }
    return markdown([head, *_lines(run.phases, 1)], run.workflow, length_us)


def _lines(spans: Sequence[SpanSummary], depth: int) -> Iterator[Line]:
    for span in spans:
        yield {
            "depth": depth,
            "level": span.kind,
            "name": span.name,
            "result": span.result,
            "error_type": span.error_type or "",
            "error": span.message or "",
            "length": round(span.duration_s * 1e6),
            "attempts": span.attempts,
            "output": span.output_tail or "",
        }
        yield from _lines(span.children, depth + 1)


def markdown(rows: Sequence[Line], title: str, length_us: int) -> str:
    """Return the report of rows in tree order, the first of which is the run."""
    name = one_line(title, 200)
    head = rows[0] if rows else None
    lines = [
        f"### {_mark(head['result'] if head else '')} {_code(name)}: {_word(head['result']) if head else 'no spans'}, {seconds_text(length_us)}",
        "",
    ]
    phases = phases_of(rows)
    if phases:
        lines += [
            "| Result | Phase | Duration | Attempts | Error |",
            "| --- | --- | ---: | ---: | --- |",
        ]
        lines += [
            f"| {_mark(row['result'])} {_word(row['result'])} | {_cell(row['name'])} | {took(row)} | {row['attempts']} | {_cell(row['error_type'])} |"
            for row in phases
        ]
        lines.append("")
    text = "\n".join(lines)
    for row in rows:
        output = block(failure_text(row))[-_OUTPUT_LIMIT_CHARS:].rstrip("\n")
        if not output:
            continue
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", output)), default=0))
        part = f"\n<details><summary>{html.escape(row['level'])} <code>{html.escape(one_line(row['name'], 100))}</code>: {_word(row['result'])}</summary>\n\n{fence}text\n{output}\n{fence}\n\n</details>\n"
        if len(text) + len(part) > MARKDOWN_LIMIT_CHARS:
            text += "\nMore failed; `spanbus show` has the rest.\n"
            break
        text += part
    return text if text.endswith("\n") else text + "\n"


def phases_of(rows: Sequence[_L]) -> Sequence[_L]:
    phases = [row for row in rows if row["level"] == "phase"]
    return phases or [row for row in rows if row["depth"] == 1]


def failure_text(row: Line) -> str:
    """Return the output of a failed row, otherwise its error message unless it is just the error type."""
    if row["result"] not in FAILED_RESULTS:
        return ""
    return row["output"] or (row["error"] if row["error"] != row["error_type"] else "")


def _word(result: str) -> str:
    """Return a known result or ``unknown``: results of other senders may contain markup."""
    return result if result in set(Result) else "unknown"


def _mark(result: str) -> str:
    return MARKS.get(result, UNKNOWN_MARK) if result else UNKNOWN_MARK


def took(row: Line) -> str:
    """Return the duration of a row, empty if it was skipped."""
    return "" if row["result"] == Result.SKIP else seconds_text(row["length"])


def seconds_text(us: int) -> str:
    return duration(us / 1e6)


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def _cell(text: str) -> str:
    """Format a table cell as code, in which markup and mentions have no effect. ``|`` must be escaped even there."""
    return _code(one_line(text, 200)).replace("|", "\\|") if text else ""
