"""A run as a person reads it in a terminal: tree, result in a word, duration, bar on the time axis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from spanbus.counted import counted
from spanbus.local.harmless import block, one_line
from spanbus.telemetry.names import FAILED_RESULTS
from spanbus.telemetry.summary import RunSummary, SpanSummary

STYLES = {
    "success": "green", "failure": "bold red", "timeout": "bold magenta", "error": "bold red", "cancellation": "yellow", "skip": "dim", "": "cyan",
}
MARKS = {"success": "✓", "failure": "✗", "timeout": "⏱", "error": "✗", "cancellation": "⊘", "skip": "–", "": "…"}
_ASCII_MARKS = {"success": "+", "failure": "x", "timeout": "x", "error": "x", "cancellation": "o", "skip": "-", "": "."}
_TAIL_LINES = 15


class Glyphs(NamedTuple):
    """Characters for lines and bars; plain ASCII where the terminal has no others."""

    branch: str
    last: str
    pipe: str
    bar: str
    tick: str
    marks: dict[str, str]


_UNICODE = Glyphs("├─ ", "└─ ", "│  ", "█", "▏", MARKS)
_PLAIN = Glyphs("|- ", "`- ", "|  ", "#", "|", _ASCII_MARKS)


def glyphs(console: Console) -> Glyphs:
    """Those that this terminal can show."""
    return _UNICODE if "utf" in (console.encoding or "").lower() else _PLAIN


def seconds(value: float) -> str:
    """A duration with a unit that keeps it short."""
    if value < 0.0995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours else f"{minutes} m {rest:02d} s"


def style(result: str) -> str:
    return STYLES.get(result, "")


def word(result: str) -> str:
    """A result as it is shown; a span that somebody else sent may say anything."""
    return one_line(result, 12)


class _Row(NamedTuple):
    indent: str
    span: SpanSummary
    depth: int


def _rows(spans: Sequence[SpanSummary], shapes: Glyphs, indent: str = "", depth: int = 0) -> Iterator[_Row]:
    for index, span in enumerate(spans):
        last = index == len(spans) - 1
        yield _Row(indent + (shapes.last if last else shapes.branch), span, depth)
        yield from _rows(span.children, shapes, indent + ("   " if last else shapes.pipe), depth + 1)


def label(span: SpanSummary) -> str:
    """A span's name as the tree shows it."""
    if span.kind == "attempt":
        return f"attempt {span.attempt}"
    name = one_line(span.name, 120)
    return name if span.kind == "phase" else f"{span.kind} {name}"


def remarks(span: SpanSummary) -> str:
    """What is worth saying beside the result."""
    said: list[str] = []
    if span.kind == "phase" and span.retries:
        said.append(f"{span.attempts} attempts")
    if span.error_type and span.error_type not in ("unsuccessful", "timeout", "_OTHER"):
        said.append(one_line(span.error_type, 60))
    if span.exit_code not in (None, 0):
        said.append(f"exit {span.exit_code}" if (span.exit_code or 0) > 0 else f"signal {-(span.exit_code or 0)}")
    said.extend(flag for flag in span.flags if flag != span.error_type)
    return ", ".join(said)


def waterfall(run: RunSummary, console: Console, *, width: int | None = None) -> Text:
    """The run as lines no wider than the terminal; at 40 columns the bars go, at 60 the event counts too."""
    shapes = glyphs(console)
    width = max(30, width or (console.width if console.is_terminal else 110))
    rows = list(_rows(run.phases, shapes))
    wanted = max([cell_len(row.indent) + cell_len(label(row.span)) for row in rows] + [10])
    fixed = 15 + 10
    name_width = min(wanted, max(12, min(44, width - fixed - 2)))
    said = min(28, max((cell_len(remarks(row.span)) for row in rows), default=0))
    bar_width = width - name_width - fixed - 4 - said
    bar_width = min(bar_width, 60) if bar_width >= 12 else 0
    start, total = run.started_at_ns, max(1, run.ended_at_ns - run.started_at_ns)
    text = Text(no_wrap=True, overflow="crop", end="")
    text.append(one_line(run.workflow, 60), "bold")
    text.append("  ")
    text.append(f"{shapes.marks.get(run.result, ' ')} {word(run.result)}", style(run.result))
    if run.error_type and run.error_type not in ("unsuccessful", run.result):
        text.append(f" ({one_line(run.error_type, 60)})", style(run.result))
    text.append(f"  {seconds(run.duration_s)}\n")
    for row in rows:
        span = row.span
        most = name_width * 2 // 3
        indent = row.indent if len(row.indent) <= most else "…" + row.indent[1 - most:]  # the name of what lies deep is still there
        line = Text.assemble((indent, "dim"))  # each line by itself: what is done to a text takes longer the longer it is
        room = name_width - cell_len(indent)
        name = label(span)
        if cell_len(name) > room:
            name = set_cell_size(name, max(1, room - 1)) + "…"
        line.append(set_cell_size(name, max(1, room)), "bold" if span.kind == "phase" else "")
        line.append(f" {shapes.marks.get(span.result, ' ')} {word(span.result):<12}", style(span.result))
        line.append(f"{seconds(span.duration_s) if span.result != 'skip' else '':>10}")
        if bar_width:
            line.append("  ")
            _bar(line, span, start, total, bar_width, shapes)
        more = remarks(span)
        if more and (bar_width or width - name_width - fixed - 3 >= cell_len(more)):
            line.append(" ")
            line.append(more, "dim" if span.result in ("success", "skip") else "")
        line.rstrip()
        text.append_text(line)
        text.append("\n")
    return text


def _bar(text: Text, span: SpanSummary, start_ns: int, total_ns: int, width: int, shapes: Glyphs) -> None:
    begin = min(width - 1, max(0, int((span.started_at_ns - start_ns) * width / total_ns)))
    length = max(0, round(span.duration_s * 1e9 * width / total_ns))
    length = min(length, width - begin)
    text.append("·" * begin if shapes is _UNICODE else " " * begin, "dim")
    if span.result == "skip":
        text.append(" " * (width - begin))
        return
    text.append(shapes.bar * length if length else shapes.tick, style(span.result))
    text.append(" " * (width - begin - max(1, length)))


def failures(run: RunSummary, console: Console) -> Text:
    """What failed, innermost, with the end of its output."""
    text = Text(end="")
    for path, span, message in _failed(run.phases, ()):
        text.append("\n")
        text.append(f"{glyphs(console).marks['failure']} {' / '.join(path)}", style(span.result))
        if message and message != span.error_type:
            text.append(f"  {one_line(message, 200)}")
        text.append("\n")
        lines = block(span.output_tail or "").rstrip().splitlines()
        if len(lines) > _TAIL_LINES:
            text.append(f"    … {counted(len(lines) - _TAIL_LINES, 'line', 'lines')} before\n", "dim")
        for line in lines[-_TAIL_LINES:]:
            text.append(f"    {line[:400]}\n")
    return text


def _failed(spans: Sequence[SpanSummary], above: tuple[str, ...], timed_out: str | None = None) -> Iterator[tuple[tuple[str, ...], SpanSummary, str]]:
    """Path, span and message. A tool that was ended because the time of what is above it was up counts with that message."""
    for span in spans:
        ended = timed_out is not None and span.result == "cancellation"
        if span.result not in FAILED_RESULTS and not ended:
            continue
        path = (*above, label(span))
        message = span.message or (timed_out if ended and timed_out is not None else "")
        inner = list(_failed(span.children, path, message if ended or span.result == "timeout" else None))
        if span.kind == "phase" and span.retries and inner:
            inner = [item for item in inner if item[1].attempt == span.attempts] or inner[-1:]
        if inner:
            yield from inner
        else:
            yield path, span, message


def timeline(run: RunSummary, console: Console) -> Text:
    """Every kept event of a run in the order of time, with what it belongs to."""
    found: list[tuple[int, str, str, dict[str, object]]] = [(at_ns, "", name, dict(attributes)) for name, at_ns, attributes in run.notes]
    _collect(run.phases, (), found)
    found.sort(key=lambda item: item[0])
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    wide = max([cell_len(path) for _, path, _, _ in found] + [5])
    wide = min(wide, 36, max(6, console.width - 44) if console.is_terminal else 36)  # the time, and an event's name, have room
    for at_ns, path, name, attributes in found:
        text.append(f"{(at_ns - run.started_at_ns) / 1e9:>10.3f} s  ", "dim")
        text.append(set_cell_size(path, wide))
        failing = name.endswith((".failed", "exception"))
        text.append(f"  {one_line(name, 60)}", "red" if failing else "cyan")
        said = "  ".join(f"{_key(key)}={one_line(_plainly(value), 60)}" for key, value in attributes.items() if _worth_saying(key))
        text.append(f"  {said}\n" if said else "\n", "dim")
    return text


def _plainly(value: object) -> str:
    """A text as it is, everything else as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _key(key: str) -> str:
    return key.removeprefix("spanbus.payload.")


def _worth_saying(key: str) -> bool:
    return key not in ("spanbus.event.id", "spanbus.event.source", "spanbus.payload.timestamp", "exception.stacktrace", "spanbus.payload.stacktrace", "spanbus.payload.output_tail")


def _collect(spans: Sequence[SpanSummary], above: tuple[str, ...], found: list[tuple[int, str, str, dict[str, object]]]) -> None:
    for span in spans:
        path = (*above, label(span))
        found.extend((at_ns, " / ".join(path), name, dict(attributes)) for name, at_ns, attributes in span.notes)
        _collect(span.children, path, found)
