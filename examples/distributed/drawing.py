"""The trace on a time axis, with the process that recorded each span, and the counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text
from telemetry import Told

HOSTS = {"east": "cyan", "west": "magenta"}
_RESULTS = {
    "success": ("✓", "green"),
    "failure": ("✗", "red"),
    "error": ("☠", "red"),
    "timeout": ("⧖", "red"),
}
_OTHER = ("·", "dim")


def colour(process: str) -> str:
    """The colour of the span's host."""
    return next((each for host, each in HOSTS.items() if host in process), "")


def trace(console: Console, told: Sequence[Told]) -> None:
    """Draw one trace: the tree, the recording process and the time of each span."""
    rows = list(_rows(told))
    first_ns = min(span.begin_ns for span in told)
    last_ns = max(span.end_ns for span in told)
    names = max(cell_len(label) for label, _ in rows)
    tellers = max(cell_len(span.by) for span in told)
    width = max(10, console.width - names - tellers - 27)
    console.print(
        f"  {'':{names}}  {'told by':{tellers}}   {'took':>7}  waited", style="dim", soft_wrap=True
    )
    for label, span in rows:
        mark, style = _RESULTS.get(span.result, _OTHER)
        begin = round((span.begin_ns - first_ns) / (last_ns - first_ns) * (width - 1))
        long = max(1, round((span.end_ns - span.begin_ns) / (last_ns - first_ns) * width))
        line = Text("  ")
        line.append(set_cell_size(label, names), "bold" if span.level == "run" else "")
        line.append(f"  {span.by:{tellers}}", colour(span.by))
        line.append(f"  {mark}", style)
        line.append(f"{(span.end_ns - span.begin_ns) / 1e9:6.1f} s")
        line.append(f"{span.wait_s * 1e3:5.0f} ms" if span.wait_s is not None else " " * 8, "dim")
        bar = " " * begin + ("▄" if span.level == "execution" else "█") * min(long, width - begin)
        line.append(f"  {bar}", colour(span.by) if span.result != "failure" else "red")
        console.print(line, no_wrap=True, overflow="crop")


def _rows(told: Sequence[Told], above: str = "", indent: str = "") -> Iterator[tuple[str, Told]]:
    """Names as a tree, by prefix; a single attempt is merged with its phase."""
    known = {span.span_id for span in told}
    mine = [
        span
        for span in told
        if span.parent_id == above or (not above and span.parent_id not in known)
    ]
    mine.sort(key=lambda span: (span.begin_ns, span.name))
    for place, span in enumerate(mine):
        if not above:
            branch = after = ""
        else:
            last = place == len(mine) - 1
            branch, after = ("└─ ", "   ") if last else ("├─ ", "│  ")
        kind = "task " if span.level == "execution" else ""
        yield f"{indent}{branch}{kind}{span.name}", span
        yield from _rows(told, span.span_id, indent + after)


def counts(console: Console, rows: Sequence[tuple[str, int, int]]) -> bool:
    """Print expected and actual counts, and return whether they are equal."""
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for title, side in (("", "left"), ("wanted", "right"), ("there", "right"), ("", "left")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for what, wanted, there in rows:
        mark = Text("✓", "green") if wanted == there else Text("✗", "bold red")
        table.add_row(what, str(wanted), str(there), mark)
    console.print(table)
    return all(wanted == there for _, wanted, there in rows)
