"""rich's console for tables and live displays, without markup, highlighting or emoji, because the text is data."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from spanbus._sanitize import lines


class _Console(Console):
    """A console that escapes control characters and raises ``BrokenPipeError`` for a closed pipe."""

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
    """Return a console on stdout or stderr. An unusable ``COLUMNS`` is ignored."""
    columns = os.environ.get("COLUMNS", "")
    usable = columns.isascii() and columns.isdigit() and int(columns[:9]) > 0
    return _Console(
        stderr=to_stderr,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
        _environ=os.environ if usable else {**os.environ, "COLUMNS": ""},
    )
