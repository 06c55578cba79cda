"""A run as a person reads it in a terminal: tree, result in a word, duration, bar on the time axis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from rich.cells import cell_len, set_cell_size

from spanbus._cli.screen import Screen, Text
from spanbus._named_tuple import NamedTuple
from spanbus._runs.format import ASCII_MARKS, MARKS
from spanbus._runs.format import duration as seconds
from spanbus._runs.sanitize import block, one_line
from spanbus._runs.summary import RunSummary, SpanSummary, noted
from spanbus._semantics import DESELECTED, FAILED_RESULTS, names

STYLES = {
    "success": "green",
    "failure": "bold red",
    "timeout": "bold magenta",
    "error": "bold red",
    "cancellation": "yellow",
    "skip": "dim",
    "": "cyan",
}
_DESCRIPTION = f"{names.EVENT_PAYLOAD_PREFIX}description"


class Encoded(Protocol):
    """A screen of ours or of rich."""

    @property
    def encoding(self) -> str: ...


class Glyphs(NamedTuple):
    """Characters for lines and bars; plain ASCII where the terminal has no others."""

    branch: str
    last: str
    pipe: str
    bar: str
    tick: str
    marks: Mapping[str, str]


_UNICODE = Glyphs("├─ ", "└─ ", "│  ", "█", "▏", MARKS)
_PLAIN = Glyphs("|- ", "`- ", "|  ", "#", "|", ASCII_MARKS)


def glyphs(screen: Encoded) -> Glyphs:
    """Those that this terminal can show."""
    return _UNICODE if "utf" in (screen.encoding or "").lower() else _PLAIN


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _padded(text: str, cells: int) -> str:
    """``text`` in exactly so many cells."""
    return f"{text:<{cells}}"[:cells] if text.isascii() else set_cell_size(text, cells)


def style(result: str) -> str:
    return STYLES.get(result, "")


def word(result: str) -> str:
    """A result as it is shown; a span that somebody else sent may say anything."""
    return one_line(result, 12)


def _shown(spans: Sequence[SpanSummary]) -> Iterator[SpanSummary]:
    """Without what the caller left out, which is told in one line; an only attempt is its phase."""
    for span in spans:
        if span.skip_reason == DESELECTED:
            continue
        attempts = [child for child in span.children if child.kind == "attempt"]
        if span.kind == "phase" and len(attempts) == 1 and span.attempts == 1:
            others = [child for child in span.children if child is not attempts[0]]
            yield span._replace(children=(*others, *attempts[0].children))
        else:
            yield span


_ROWS_SHOWN = 2_000
"""More lines than that nobody reads: of a larger run what failed is shown, and both ends."""


class _Row(NamedTuple):
    indent: str
    span: SpanSummary
    depth: int


def _rows(
    spans: Sequence[SpanSummary], shapes: Glyphs, indent: str = "", depth: int = 0
) -> Iterator[_Row]:
    for index, span in enumerate(spans):
        last = index == len(spans) - 1
        yield _Row(indent + (shapes.last if last else shapes.branch), span, depth)
        yield from _rows(
            span.children, shapes, indent + ("   " if last else shapes.pipe), depth + 1
        )


def _folded(rows: Sequence[_Row]) -> tuple[Sequence[_Row], dict[int, int]]:
    """Pick the rows that are shown, with how many are left out before which: of a very large run what failed, and both ends."""
    if len(rows) <= _ROWS_SHOWN:
        return rows, {}
    ends = _ROWS_SHOWN // 4
    kept = set(range(ends)) | set(range(len(rows) - ends, len(rows)))
    above: list[int] = []
    for at, row in enumerate(rows):
        del above[row.depth :]
        above.append(at)
        if row.span.result in FAILED_RESULTS and len(kept) < _ROWS_SHOWN:
            kept.update(above)  # with what it lies beneath
    shown = sorted(kept)
    gaps = {
        place: at - before - 1
        for place, (before, at) in enumerate(zip([-1, *shown], shown, strict=False))
        if at - before > 1
    }
    return [rows[at] for at in shown], gaps


def label(span: SpanSummary) -> str:
    """A span's name as the tree shows it."""
    if span.kind == "attempt":
        return f"attempt {span.attempt}"
    name = one_line(span.name, 120)
    return name if span.kind == "phase" else f"{span.kind} {name}"


def description(span: SpanSummary) -> str:
    """The description of a phase, from the event of its start."""
    said = noted(span.notes, "workflow.phase.started", _DESCRIPTION)
    return one_line(str(said), 200) if said else ""


def remarks(span: SpanSummary, about: str = "") -> str:
    """Notes beside the result, a description first."""
    said: list[str] = [about] if about else []
    if span.kind == "phase" and span.retries:
        said.append(f"{span.attempts} attempts")
    if span.error_type and span.error_type not in ("unsuccessful", "timeout", "_OTHER"):
        said.append(one_line(span.error_type, 60))
    if span.exit_code not in (None, 0):
        said.append(
            f"exit {span.exit_code}"
            if (span.exit_code or 0) > 0
            else f"signal {-(span.exit_code or 0)}"
        )
    said.extend(flag for flag in span.flags if flag != span.error_type)
    if span.kind == "phase" and span.skip_reason:
        said.append(one_line(span.skip_reason, 120))
    return ", ".join(said)


def waterfall(
    run: RunSummary,
    screen: Screen,
    *,
    width: int | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> Text:
    """The run as lines no wider than the terminal; at 40 columns the bars go, at 60 the event counts too.

    ``descriptions`` are those of the phases, where the workflow is at hand; else what was stored of them is told.
    """
    shapes = glyphs(screen)

    def failure_text(span: SpanSummary) -> str:
        about = ""
        if span.kind == "phase":
            known = (descriptions or {}).get(span.name)
            about = one_line(known, 200) if known else description(span)
        return remarks(span, about)

    free = width is None and not screen.is_terminal
    """In a pipe or a file nothing is shortened."""
    width = max(30, width or (screen.width if screen.is_terminal else 110))
    rows: Sequence[_Row] = list(_rows(list(_shown(run.phases)), shapes))
    rows, gaps = (rows, {}) if free else _folded(rows)
    labels = [label(row.span) for row in rows]
    remarked = [failure_text(row.span) for row in rows]
    wanted = max(
        [_cells(row.indent) + _cells(name) for row, name in zip(rows, labels, strict=True)] + [10]
    )
    fixed = 15 + 10
    most = max(44, width // 3)
    name_width = wanted if free else min(wanted, max(12, min(most, width - fixed - 2)))
    said = max(map(_cells, remarked), default=0)
    said = min(28, said) if free else min(max(28, width // 4), said)
    bar_width = width - name_width - fixed - 4 - said
    bar_width = max(12, bar_width) if free else bar_width if bar_width >= 12 else 0
    start, total = run.started_at_ns, max(1, run.ended_at_ns - run.started_at_ns)
    text = Text()
    text.append(one_line(run.workflow, 60), "bold")
    text.append("  ")
    text.append(f"{shapes.marks.get(run.result, ' ')} {word(run.result)}", style(run.result))
    if run.error_type and run.error_type not in ("unsuccessful", run.result):
        text.append(f" ({one_line(run.error_type, 60)})", style(run.result))
    text.append(f"  {seconds(run.duration_s)}\n")
    results = {
        result: f" {shapes.marks.get(result, ' ')} {word(result):<12}"
        for result in {row.span.result for row in rows}
    }
    for at, row in enumerate(rows):
        if at in gaps:
            text.append(f"… {gaps[at]:,} more; --json has all of them\n", "dim")
        span = row.span
        most = max(len(row.indent), name_width) if free else name_width * 2 // 3
        indent = (
            row.indent if len(row.indent) <= most else "…" + row.indent[1 - most :]
        )  # the name of what lies deep is still there
        text.append(indent, "dim")
        room = name_width - _cells(indent)
        name = labels[at]
        if _cells(name) > room:
            name = set_cell_size(name, max(1, room - 1)) + "…"
        text.append(_padded(name, max(1, room)), "bold" if span.kind == "phase" else "")
        text.append(results[span.result], style(span.result))
        took = "" if span.result == "skip" or span.skip_reason else seconds(span.duration_s)
        text.append(f"{took:>10}")
        if bar_width:
            text.append("  ")
            _bar(text, span, start, total, bar_width, shapes)
        more = remarked[at]
        if more and (bar_width or width - name_width - fixed - 3 >= cell_len(more)):
            text.append(" ")
            text.append(more, "dim" if span.result in ("success", "skip") else "")
        text.rstrip()  # not beyond the branch before the name
        text.append("\n")
    if left_out := [phase.name for phase in run.phases if phase.skip_reason == DESELECTED]:
        names = ", ".join(one_line(name, 120) for name in left_out)
        text.append(f"left out: {names}\n", "dim")
    if run.missing_spans:
        text.append(
            f"{run.missing_spans:,} spans are missing: the store kept the first and the newest (store_bytes)\n",
            "dim",
        )
    return text


def _bar(
    text: Text, span: SpanSummary, start_ns: int, total_ns: int, width: int, shapes: Glyphs
) -> None:
    begin = min(width - 1, max(0, int((span.started_at_ns - start_ns) * width / total_ns)))
    length = max(0, round(span.duration_s * 1e9 * width / total_ns))
    length = min(length, width - begin)
    text.append("·" * begin if shapes is _UNICODE else " " * begin, "dim")
    if span.result == "skip" or span.skip_reason:
        text.append(" " * (width - begin))
        return
    text.append(shapes.bar * length if length else shapes.tick, style(span.result))
    text.append(" " * (width - begin - max(1, length)))


def failures(run: RunSummary, screen: Screen) -> Text:
    """Innermost failures of a run, with the end of their output."""
    text = Text()
    for path, span, message in failed_spans(run):
        text.append("\n")
        text.append(f"{glyphs(screen).marks['failure']} {' / '.join(path)}", style(span.result))
        if message and message != span.error_type:
            limit = 200 if screen.is_terminal else len(message) * 10 + 1
            text.append(f"  {one_line(message, limit)}")
        text.append("\n")
        lines = block(span.output_tail or "").rstrip().splitlines()
        for line in lines:
            text.append(f"    {line}\n")
    return text


def failed_spans(run: RunSummary) -> Iterator[tuple[tuple[str, ...], SpanSummary, str]]:
    """The innermost spans that failed: path, span, message."""
    return _failed(list(_shown(run.phases)), ())


def _failed(
    spans: Sequence[SpanSummary], above: tuple[str, ...], timed_out: str | None = None
) -> Iterator[tuple[tuple[str, ...], SpanSummary, str]]:
    """Path, span and message. A tool that was ended because the time of what is above it was up counts with that message."""
    for span in spans:
        ended = timed_out is not None and span.result == "cancellation"
        if span.result not in FAILED_RESULTS and not ended:
            continue
        path = (*above, label(span))
        message = span.message or (timed_out if ended and timed_out is not None else "")
        inner = list(
            _failed(span.children, path, message if ended or span.result == "timeout" else None)
        )
        if span.kind == "phase" and span.retries and inner:
            inner = [item for item in inner if item[1].attempt == span.attempts] or inner[-1:]
        if inner:
            yield from inner
        else:
            yield path, span, message


def timeline(run: RunSummary, screen: Screen) -> Text:
    """Every kept event of a run in the order of time, with what it belongs to."""
    found: list[tuple[int, str, str, dict[str, object]]] = [
        (at_ns, "", name, dict(attributes)) for name, at_ns, attributes in run.notes
    ]
    _collect(run.phases, (), found)
    found.sort(key=lambda item: item[0])
    longest = 60 if screen.is_terminal and screen.width < 200 else 4_096
    text = Text()
    wide = max([cell_len(path) for _, path, _, _ in found] + [5])
    wide = min(
        wide, 36, max(6, screen.width - 44) if screen.is_terminal else 36
    )  # the time, and an event's name, have room
    for at_ns, path, name, attributes in found:
        text.append(f"{(at_ns - run.started_at_ns) / 1e9:>10.3f} s  ", "dim")
        text.append(set_cell_size(path, wide))
        failing = name.endswith((".failed", "exception"))
        text.append(f"  {one_line(name, 60)}", "red" if failing else "cyan")
        said = "  ".join(
            f"{one_line(_key(key), 200)}={one_line(_plainly(value), longest)}"
            for key, value in attributes.items()
            if _worth_saying(key)
        )
        text.append(f"  {said}\n" if said else "\n", "dim")
    return text


def _plainly(value: object) -> str:
    """A text as it is, everything else as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _key(key: str) -> str:
    return key.removeprefix("spanbus.payload.")


def _worth_saying(key: str) -> bool:
    return key not in (
        "spanbus.event.id",
        "spanbus.event.source",
        "spanbus.payload.timestamp",
        "exception.stacktrace",
        "spanbus.payload.stacktrace",
        "spanbus.payload.output_tail",
    )


def _collect(
    spans: Sequence[SpanSummary],
    above: tuple[str, ...],
    found: list[tuple[int, str, str, dict[str, object]]],
) -> None:
    for span in spans:
        path = (*above, label(span))
        found.extend(
            (at_ns, " / ".join(path), name, dict(attributes))
            for name, at_ns, attributes in span.notes
        )
        _collect(span.children, path, found)
