"""rich's console for tables and what moves, without markup, highlighting or emoji: what is shown is data."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from spanbus._sanitize import lines


class _Console(Console):
    """Spells out what would steer the terminal; a reader who leaves is a ``BrokenPipeError``."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment(lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def rich_console(*, to_stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    said = os.environ.get("COLUMNS", "")
    usable = (
        said.isascii() and said.isdigit() and int(said[:9]) > 0
    )  # of no columns nothing would be shown
    return _Console(
        stderr=to_stderr,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
        _environ=os.environ if usable else {**os.environ, "COLUMNS": ""},
    )
