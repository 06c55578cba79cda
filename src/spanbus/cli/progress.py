"""What a run is doing now: a live tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from typing import Protocol, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment, Segments
from rich.spinner import Spinner
from rich.style import Style
from rich.text import Text

from spanbus.cli.draw import glyphs, seconds, style
from spanbus.local.harmless import one_line
from spanbus.workflow.definition import Workflow
from spanbus.workflow.events import Event, WorkflowEvent

_ENDS = {
    WorkflowEvent.PHASE_COMPLETED: "success", WorkflowEvent.PHASE_FAILED: "failure", WorkflowEvent.PHASE_CANCELLED: "cancellation",
    WorkflowEvent.PHASE_SKIPPED: "skip",
}


_LINES_AT_ONCE = 2_000
_DIM = Style(dim=True)
_BESIDE_THE_NAME = 27  # a mark before it; behind it a result and a time


class Progress(Protocol):
    """Shows a run while it runs. ``seen`` is an observer of the bus; ``line`` takes the tools' output."""

    def __enter__(self) -> object: ...

    def __exit__(self, *args: object) -> None: ...

    def seen(self, event: Event) -> bool: ...

    def line(self, phase: str, tool: str, line: str) -> None: ...


def progress(workflow: Workflow, console: Console, *, quiet: bool) -> Progress:
    """The one that fits the terminal; ``quiet`` keeps the tools' output back until something fails."""
    return Tree(workflow, console, quiet=quiet) if console.is_terminal and not console.is_dumb_terminal else Lines(console, quiet=quiet)


def _end_of(event: Event) -> tuple[str, float] | None:
    result = _ENDS.get(cast("WorkflowEvent", event.event_type))
    if result is None:
        return None
    duration = event.payload.get("duration")
    return str(event.payload.get("result") or result), float(duration) if isinstance(duration, int | float) else 0.0


class Lines:
    """One line for each start and end."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._lock = threading.Lock()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is left to do."""

    def seen(self, event: Event) -> bool:
        phase = one_line(event.phase or "", 80)
        marks = glyphs(self._console).marks
        if event.event_type == WorkflowEvent.PHASE_STARTED:
            self._say(f"{phase}: started")
        elif event.event_type == WorkflowEvent.PHASE_RETRYING:
            self._say(f"{phase}: attempt {event.attempt} failed, trying again")
        else:
            end = _end_of(event)
            if end is not None:
                reason = event.payload.get("reason")
                why = f" ({one_line(str(reason), 120)})" if reason else ""
                self._say(f"{marks.get(end[0], ' ')} {phase}: {end[0]}{f' in {seconds(end[1])}' if end[0] != 'skip' else ''}{why}")
        return True

    def line(self, phase: str, tool: str, line: str) -> None:
        if not self._quiet:
            self._say(f"  {one_line(f'{phase}/{tool}', 60)} | {one_line(line, 2_000)}")

    def _say(self, line: str) -> None:
        with self._lock:
            self._console.file.write(line + "\n")
            self._console.file.flush()


def _fitted(name: str, width: int) -> str:
    return set_cell_size(name, width) if cell_len(name) <= width else set_cell_size(name, width - 1) + "…"


class _State:
    __slots__ = ("attempt", "began_s", "doing", "duration_s", "reason", "result")

    def __init__(self) -> None:
        self.result: str | None = None
        self.began_s: float | None = None
        self.duration_s = 0.0
        self.attempt = 1
        self.doing = ""
        self.reason = ""


class _Pouring(Live):
    """A live display that first pours out what has collected above it, at every refresh."""

    def __init__(self, tree: Tree, console: Console) -> None:
        self._tree = tree
        super().__init__(tree, console=console, refresh_per_second=10, transient=True)

    def refresh(self) -> None:
        self._tree.pour()
        super().refresh()


class Tree:
    """Every phase with a spinner, its time, its attempt and what it is doing; the tools' output scrolls above."""

    def __init__(self, workflow: Workflow, console: Console, *, quiet: bool) -> None:
        self._name = workflow.name
        self._console = console
        self._quiet = quiet
        self._states = {phase.name: _State() for phase in workflow.phases}
        self._spinner = Spinner("dots" if "utf" in (console.encoding or "").lower() else "line")
        self._lines: list[tuple[str, str]] = []
        self._lines_lock = threading.Lock()
        self._live = _Pouring(self, console)
        self._began_s = time.monotonic()

    def __enter__(self) -> Tree:
        self._live.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.pour()
        self._live.__exit__(None, None, None)

    def seen(self, event: Event) -> bool:
        state = self._states.get(event.phase or "")
        if state is None:
            return True
        if event.event_type == WorkflowEvent.PHASE_STARTED:
            state.began_s = time.monotonic()
        elif event.event_type == WorkflowEvent.PHASE_RETRYING:
            state.attempt = (event.attempt or 1) + 1
            state.doing = "waiting to try again"
        elif event.event_type == WorkflowEvent.HOOK_EXECUTION_STARTED:
            state.doing = one_line(str(event.payload.get("hook") or event.payload.get("executable") or ""), 40)
        else:
            end = _end_of(event)
            if end is not None:
                state.result, state.duration_s = end
                state.reason = one_line(str(event.payload.get("reason") or ""), 60)
        return True

    def line(self, phase: str, tool: str, line: str) -> None:
        if not self._quiet:
            with self._lines_lock:
                self._lines.append((tool, line))
                full = len(self._lines) >= _LINES_AT_ONCE
            if full:  # faster than a terminal can show; the tool waits, as it would for the terminal itself
                self.pour()

    def pour(self) -> None:
        """Print the lines that came since the last time: one drawing for many lines."""
        with self._lines_lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        names = {tool: f"{one_line(tool, 20)} | " for tool, _ in lines}
        width = self._console.width
        segments: list[Segment] = []
        for tool, line in lines:
            name = names[tool]
            segments += (Segment(name, _DIM), Segment(one_line(line, max(20, width - len(name) - 1))), Segment.line())
        self._console.print(Segments(segments), end="")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = glyphs(console).marks
        now_s = time.monotonic()
        names = {name: one_line(name, 40) for name in self._states}
        width = min(40, max(map(cell_len, names.values())), max(8, console.width - _BESIDE_THE_NAME))
        yield Text.assemble((one_line(self._name, 60), "bold"), f"  {seconds(now_s - self._began_s)}")
        shown = list(self._states.items())
        room = max(3, console.height - 4)
        if len(shown) > room:
            shown = [item for item in shown if item[1].began_s is not None and item[1].result is None][:room] or shown[:room]
        for name, state in shown:
            line = Text("  ", no_wrap=True, overflow="ellipsis")
            if state.result is not None:
                line.append(f"{marks.get(state.result, ' ')} {_fitted(names[name], width)} ", style(state.result))
                line.append(f"{state.result:<12}", style(state.result))
                line.append(f" {seconds(state.duration_s)}" if state.result != "skip" else f" {state.reason}", "dim")
            elif state.began_s is not None:
                spin = self._spinner.render(now_s)
                line.append_text(spin if isinstance(spin, Text) else Text(str(spin)))
                line.append(f" {_fitted(names[name], width)} ", "bold")
                line.append(f"{'running':<12} {seconds(now_s - state.began_s)}", "cyan")
                if state.attempt > 1:
                    line.append(f"  attempt {state.attempt}", "yellow")
                if state.doing:
                    line.append(f"  {state.doing}", "dim")
            else:
                line.append(f"  {_fitted(names[name], width)} waiting", "dim")
            yield line
