"""Display of a run in a terminal: tree, result, duration and a bar on the time axis."""

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
from spanbus._runs.summary import RunSummary, SpanSummary, note_attribute
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
    """Our screen or rich's console."""

    @property
    def encoding(self) -> str: ...


class Glyphs(NamedTuple):
    """Characters for lines and bars, Unicode or ASCII."""

    branch: str
    last: str
    pipe: str
    bar: str
    tick: str
    marks: Mapping[str, str]


_UNICODE = Glyphs("├─ ", "└─ ", "│  ", "█", "▏", MARKS)
_PLAIN = Glyphs("|- ", "`- ", "|  ", "#", "|", ASCII_MARKS)


def glyphs(screen: Encoded) -> Glyphs:
    """Return the glyphs that this terminal can show."""
    return _UNICODE if "utf" in (screen.encoding or "").lower() else _PLAIN


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _padded(text: str, cells: int) -> str:
    """Pad or truncate ``text`` to exactly ``cells`` cells."""
    return f"{text:<{cells}}"[:cells] if text.isascii() else set_cell_size(text, cells)


def style(result: str) -> str:
    return STYLES.get(result, "")


def word(result: str) -> str:
    """Return a result for display; spans from other senders may contain anything."""
    return one_line(result, 12)


def _shown(spans: Sequence[SpanSummary]) -> Iterator[SpanSummary]:
    """Yield the spans to draw: without deselected phases, and with a single attempt merged into its phase."""
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
"""Limit of rows on a terminal. Of a larger run the failed spans and both ends are shown."""


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
    """Return the rows to show, and the number of rows left out by index of the row after the gap."""
    if len(rows) <= _ROWS_SHOWN:
        return rows, {}
    ends = _ROWS_SHOWN // 4
    kept = set(range(ends)) | set(range(len(rows) - ends, len(rows)))
    above: list[int] = []
    for at, row in enumerate(rows):
        del above[row.depth :]
        above.append(at)
        if row.span.result in FAILED_RESULTS and len(kept) < _ROWS_SHOWN:
            kept.update(above)  # including its ancestors
    shown = sorted(kept)
    gaps = {
        place: at - before - 1
        for place, (before, at) in enumerate(zip([-1, *shown], shown, strict=False))
        if at - before > 1
    }
    return [rows[at] for at in shown], gaps


def label(span: SpanSummary) -> str:
    """Return a span's name for the tree."""
    if span.kind == "attempt":
        return f"attempt {span.attempt}"
    name = one_line(span.name, 120)
    return name if span.kind == "phase" else f"{span.kind} {name}"


def description(span: SpanSummary) -> str:
    """Return the description of a phase from its start event."""
    text = note_attribute(span.notes, "workflow.phase.started", _DESCRIPTION)
    return one_line(str(text), 200) if text else ""


def remarks(span: SpanSummary, about: str = "") -> str:
    """Return the remarks beside the result, starting with the description."""
    parts: list[str] = [about] if about else []
    if span.kind == "phase" and span.retries:
        parts.append(f"{span.attempts} attempts")
    if span.error_type and span.error_type not in ("unsuccessful", "timeout", "_OTHER"):
        parts.append(one_line(span.error_type, 60))
    if span.exit_code not in (None, 0):
        parts.append(
            f"exit {span.exit_code}"
            if (span.exit_code or 0) > 0
            else f"signal {-(span.exit_code or 0)}"
        )
    parts.extend(flag for flag in span.flags if flag != span.error_type)
    if span.kind == "phase" and span.skip_reason:
        parts.append(one_line(span.skip_reason, 120))
    return ", ".join(parts)


def waterfall(
    run: RunSummary,
    screen: Screen,
    *,
    width: int | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> Text:
    """Return the run as lines no wider than the terminal. On a narrow terminal the bars are left out.

    ``descriptions`` of phases take precedence over the stored ones.
    """
    shapes = glyphs(screen)

    def remarks_of(span: SpanSummary) -> str:
        about = ""
        if span.kind == "phase":
            known = (descriptions or {}).get(span.name)
            about = one_line(known, 200) if known else description(span)
        return remarks(span, about)

    free = width is None and not screen.is_terminal
    """In a pipe or a file nothing is truncated."""
    width = max(30, width or (screen.width if screen.is_terminal else 110))
    rows: Sequence[_Row] = list(_rows(list(_shown(run.phases)), shapes))
    rows, gaps = (rows, {}) if free else _folded(rows)
    labels = [label(row.span) for row in rows]
    remarked = [remarks_of(row.span) for row in rows]
    wanted = max(
        [_cells(row.indent) + _cells(name) for row, name in zip(rows, labels, strict=True)] + [10]
    )
    fixed = 15 + 10
    most = max(44, width // 3)
    name_width = wanted if free else min(wanted, max(12, min(most, width - fixed - 2)))
    remark_width = max(map(_cells, remarked), default=0)
    remark_width = min(28 if free else max(28, width // 4), remark_width)
    bar_width = width - name_width - fixed - 4 - remark_width
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
        # leave room for the names of deeply nested spans
        indent = row.indent if len(row.indent) <= most else "…" + row.indent[1 - most :]
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
        text.rstrip()
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
    """Return the innermost failures of a run, with the end of their output."""
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
    """Yield path, span and message of the innermost failed spans."""
    return _failed(list(_shown(run.phases)), ())


def _failed(
    spans: Sequence[SpanSummary], above: tuple[str, ...], timed_out: str | None = None
) -> Iterator[tuple[tuple[str, ...], SpanSummary, str]]:
    """Like :func:`failed_spans`. A tool that was cancelled by the timeout of its parent counts, with the parent's message."""
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
    """Return all stored events of a run in order of time, with the path of their span."""
    found: list[tuple[int, str, str, dict[str, object]]] = [
        (at_ns, "", name, dict(attributes)) for name, at_ns, attributes in run.notes
    ]
    _collect(run.phases, (), found)
    found.sort(key=lambda item: item[0])
    longest = 60 if screen.is_terminal and screen.width < 200 else 4_096
    text = Text()
    wide = max([cell_len(path) for _, path, _, _ in found] + [5])
    # leave room for the time and the event's name
    wide = min(wide, 36, max(6, screen.width - 44) if screen.is_terminal else 36)
    for at_ns, path, name, attributes in found:
        text.append(f"{(at_ns - run.started_at_ns) / 1e9:>10.3f} s  ", "dim")
        text.append(set_cell_size(path, wide))
        failing = name.endswith((".failed", "exception"))
        text.append(f"  {one_line(name, 60)}", "red" if failing else "cyan")
        shown = "  ".join(
            f"{one_line(_key(key), 200)}={one_line(_value_text(value), longest)}"
            for key, value in attributes.items()
            if key not in _HIDDEN
        )
        text.append(f"  {shown}\n" if shown else "\n", "dim")
    return text


_HIDDEN = frozenset(
    (
        "spanbus.event.id",
        "spanbus.event.source",
        "spanbus.payload.timestamp",
        "exception.stacktrace",
        "spanbus.payload.stacktrace",
        "spanbus.payload.output_tail",
    )
)
"""Attributes that the timeline leaves out."""


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _key(key: str) -> str:
    return key.removeprefix("spanbus.payload.")


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
