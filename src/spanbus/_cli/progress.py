"""Live progress of a run: a tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Protocol, Self, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment, Segments
from rich.spinner import Spinner
from rich.style import Style
from rich.text import Text

from spanbus._cli.ci import Ci
from spanbus._cli.colour import coloured, plain, whole
from spanbus._cli.draw import glyphs, seconds, style
from spanbus._cli.plan import Plan, left_out_line
from spanbus._cli.rich_console import rich_console
from spanbus._cli.screen import Screen
from spanbus._runs.sanitize import one_line
from spanbus._workflow.events import Event, WorkflowEvent
from spanbus._workflow.results import DESELECTED
from spanbus._workflow.results import FAILED as _FAILED

_ENDS = {
    WorkflowEvent.PHASE_COMPLETED: "success",
    WorkflowEvent.PHASE_FAILED: "failure",
    WorkflowEvent.PHASE_CANCELLED: "cancellation",
    WorkflowEvent.PHASE_SKIPPED: "skip",
}


_LINES_AT_ONCE = 2_000
_DIM = Style(dim=True)
_BESIDE_THE_NAME = 27  # mark, result and time


class Progress(Protocol):
    """Display of a running workflow. ``on_event`` observes the bus; ``line`` takes the tools' output."""

    def __enter__(self) -> object: ...

    def __exit__(self, *args: object) -> None: ...

    def on_event(self, event: Event) -> bool: ...

    def line(self, phase: str, tool: str, line: str) -> None: ...


def progress(plan: Plan, screen: Screen, *, quiet: bool, server: Ci | None = None) -> Progress:
    """Return the display for this terminal or CI system. ``quiet`` hides the tools' output."""
    if screen.is_terminal and not screen.is_dumb_terminal and server is None:
        return Tree(plan, rich_console(to_stderr=screen.to_stderr), quiet=quiet)
    if server is not None and server.groups:
        return Groups(plan, screen, server, quiet=quiet)
    colours = server is not None or (screen.is_terminal and not screen.no_color)
    return Lines(plan, screen, quiet=quiet, colours=colours)


def _end_of(event: Event) -> tuple[str, float] | None:
    result = _ENDS.get(cast("WorkflowEvent", event.event_type))
    if result is None:
        return None
    duration = event.payload.get("duration")
    if event.payload.get("not_started"):
        result = "cancellation"
    return str(event.payload.get("result") or result), float(duration) if isinstance(
        duration, int | float
    ) else 0.0


class Lines:
    """One line for each start, end and output line; none is truncated."""

    def __init__(self, plan: Plan, screen: Screen, *, quiet: bool, colours: bool = False) -> None:
        self._plan = plan
        self._screen = screen
        self._quiet = quiet
        self._colours = colours
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        if self._plan.left_out:
            self._say(left_out_line([one_line(name, 200) for name in self._plan.left_out]))
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def on_event(self, event: Event) -> bool:
        phase = event.phase or ""
        with self._lock:
            if event.event_type == WorkflowEvent.PHASE_STARTED:
                self._started(phase)
            elif event.event_type == WorkflowEvent.PHASE_RETRYING:
                self._of(phase, f"{_name(phase)}: attempt {event.attempt} failed, trying again")
            elif event.payload.get("reason") != DESELECTED:
                end = _end_of(event)
                if end is not None:
                    self._ended(phase, end[0], self._end(phase, *end, event.payload))
        return True

    def line(self, phase: str, tool: str, line: str) -> None:
        if not self._quiet:
            shown = coloured(line) if self._colours else plain(line)
            with self._lock:
                self._of(phase, f"  {_name(phase)}/{_name(tool)} | {shown}")

    def _end(
        self, phase: str, result: str, duration_s: float, payload: Mapping[str, object]
    ) -> str:
        marks = glyphs(self._screen).marks
        reason = payload.get("reason")
        why = f" ({whole(str(reason))})" if reason else ""
        ran = result != "skip" and not payload.get("not_started")
        took = f" in {seconds(duration_s)}" if ran else ""
        return f"{marks.get(result, ' ')} {_name(phase)}: {result}{took}{why}"

    def _started(self, phase: str) -> None:
        self._say(f"{_name(phase)}: started")

    def _ended(self, phase: str, result: str, line: str) -> None:
        del phase, result
        self._say(line)

    def _of(self, phase: str, line: str) -> None:
        del phase
        self._say(line)

    def _say(self, line: str) -> None:
        with self._lock:
            self._screen.write(f"{line}\n")


class Groups(Lines):
    """The output of each phase in a group of the CI system. Of concurrent phases, one is shown live and the others later."""

    def __init__(self, plan: Plan, screen: Screen, server: Ci, *, quiet: bool) -> None:
        super().__init__(plan, screen, quiet=quiet, colours=True)
        self._server = server
        self._shown: str | None = None
        self._held: dict[str, list[str]] = {}
        self._ends: dict[str, tuple[str, str]] = {}

    def __exit__(self, *args: object) -> None:
        with self._lock:
            while self._shown is not None:
                self._ends.setdefault(self._shown, ("failure", f"{_name(self._shown)}: no end"))
                self._close()

    def line(self, phase: str, tool: str, line: str) -> None:
        del tool
        if not self._quiet:
            with self._lock:
                self._of(phase, coloured(line))

    def _started(self, phase: str) -> None:
        self._held[phase] = []
        if self._shown is None:
            self._open(phase)

    def _ended(self, phase: str, result: str, line: str) -> None:
        if phase not in self._held:  # it never started
            if self._shown is None:
                self._say(line)
            else:
                self._held[phase] = []
                self._ends[phase] = (result, line)
            return
        self._ends[phase] = (result, line)
        if phase == self._shown:
            self._close()

    def _of(self, phase: str, line: str) -> None:
        if phase == self._shown or phase not in self._held:
            self._say(line)
        else:
            self._held[phase].append(line)

    def _open(self, phase: str) -> None:
        self._shown = phase
        if opening := self._server.start(phase, _name(phase)):
            self._say(opening)
        for line in self._held[phase]:
            self._say(line)
        self._held[phase] = []

    def _close(self) -> None:
        """Close the shown group, print the groups that ended meanwhile, then show a running phase."""
        phase = self._shown
        while phase is not None:
            result, line = self._ends.pop(phase)
            del self._held[phase]
            if closing := self._server.end(phase, failed=result in _FAILED):
                self._say(closing)
            self._say(line)
            self._shown = None
            phase = next((each for each in self._held if each in self._ends), None) or next(
                iter(self._held), None
            )
            if phase is not None:
                self._open(phase)
                if phase not in self._ends:
                    return


def _name(name: str) -> str:
    return one_line(name, 200)


def _fitted(name: str, width: int) -> str:
    return (
        set_cell_size(name, width)
        if cell_len(name) <= width
        else set_cell_size(name, width - 1) + "…"
    )


class _State:
    __slots__ = (
        "attempt",
        "began_s",
        "description",
        "doing",
        "duration_s",
        "needs",
        "reason",
        "result",
    )

    def __init__(self) -> None:
        self.needs: tuple[str, ...] = ()
        self.description = ""
        self.result: str | None = None
        self.began_s: float | None = None
        self.duration_s = 0.0
        self.attempt = 1
        self.doing = ""
        self.reason = ""


class _TreeDisplay(Live):
    """A live display that prints pending output lines above itself before each refresh."""

    def __init__(self, tree: Tree, console: Console) -> None:
        self._tree = tree
        super().__init__(tree, console=console, refresh_per_second=10, transient=True)

    def refresh(self) -> None:
        self._tree.print_pending()
        super().refresh()


class Tree:
    """Every phase with spinner, time, attempt and current hook; the tools' output scrolls above."""

    def __init__(self, plan: Plan, console: Console, *, quiet: bool) -> None:
        self._name = plan.workflow.name
        self._console = console
        self._quiet = quiet
        self._left_out = plan.left_out
        self._states: dict[str, _State] = {}
        for phase in plan.workflow.phases:
            if phase.name not in plan.left_out:
                state = self._states[phase.name] = _State()
                state.needs = phase.needs
                state.description = one_line(phase.description or "", 200)
        self._spinner = Spinner("dots" if "utf" in (console.encoding or "").lower() else "line")
        self._lines: list[tuple[str, str]] = []
        self._lines_lock = threading.Lock()
        self._live = _TreeDisplay(self, console)
        self._began_s = time.monotonic()

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.print_pending()
        self._live.__exit__(None, None, None)

    def on_event(self, event: Event) -> bool:
        state = self._states.get(event.phase or "")
        if state is None:
            return True
        if event.event_type == WorkflowEvent.PHASE_STARTED:
            state.began_s = time.monotonic()
        elif event.event_type == WorkflowEvent.PHASE_RETRYING:
            state.attempt = (event.attempt or 1) + 1
            state.doing = "waiting to try again"
        elif event.event_type == WorkflowEvent.HOOK_EXECUTION_STARTED:
            state.doing = one_line(
                str(event.payload.get("hook") or event.payload.get("executable") or ""), 40
            )
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
            if (
                full
            ):  # faster than the terminal: the tool waits, as it would for the terminal itself
                self.print_pending()

    def print_pending(self) -> None:
        """Print the lines since the last call at once."""
        with self._lines_lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        names = {tool: f"{one_line(tool, 20)} | " for tool, _ in lines}
        width = self._console.width
        segments: list[Segment] = []
        for tool, line in lines:
            name = names[tool]
            room = max(20, width - len(name) - 1)
            segments.append(Segment(name, _DIM))
            if "\x1b" in line and not self._console.no_color:
                text = Text.from_ansi(coloured(line))
                text.truncate(room, overflow="ellipsis")
                segments.extend(text.render(self._console))
            else:
                segments.append(Segment(one_line(plain(line), room)))
            segments.append(Segment.line())
        self._console.print(Segments(segments), end="")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = glyphs(console).marks
        now_s = time.monotonic()
        names = {name: one_line(name, 40) for name in self._states}
        width = min(
            40, max(map(cell_len, names.values())), max(8, console.width - _BESIDE_THE_NAME)
        )
        yield Text.assemble(
            (one_line(self._name, 60), "bold"), f"  {seconds(now_s - self._began_s)}"
        )
        shown = list(self._states.items())
        room = max(3, console.height - 4)
        if len(shown) > room:
            shown = [
                item for item in shown if item[1].began_s is not None and item[1].result is None
            ][:room] or shown[:room]
        for name, state in shown:
            line = Text("  ", no_wrap=True, overflow="ellipsis")
            if state.result is not None:
                line.append(
                    f"{marks.get(state.result, ' ')} {_fitted(names[name], width)} ",
                    style(state.result),
                )
                line.append(f"{state.result:<12}", style(state.result))
                line.append(
                    f" {state.reason}"
                    if state.result == "skip" or state.began_s is None
                    else f" {seconds(state.duration_s)}",
                    "dim",
                )
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
                line.append(f"  {_fitted(names[name], width)} waiting {self._for(state)}", "dim")
            if state.description:
                line.append(f"  {state.description}", "dim italic")
            yield line
        if self._left_out:
            yield Text(
                f"  {left_out_line(self._left_out)}", "dim", no_wrap=True, overflow="ellipsis"
            )

    def _for(self, state: _State) -> str:
        """Return what a phase waits for: unfinished needs, otherwise a free worker."""
        open_needs = [
            need
            for need in state.needs
            if need in self._states and self._states[need].result is None
        ]
        if open_needs:
            return f"for {', '.join(one_line(need, 40) for need in open_needs)}"
        running = sum(
            each.began_s is not None and each.result is None for each in self._states.values()
        )
        return f"for a free place ({running} running)" if running else ""
