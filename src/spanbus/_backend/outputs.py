"""Kept output of a run's commands for the page: a list, and one output from a position on, also while it runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from spanbus._store.output_reading import (
    KeptOutput,
    Reader,
    excerpt,
    is_running,
    kept_outputs,
    newest_line,
)

Document = dict[str, object]

MOST_BYTES = 512 * 1024
_NEWEST = 3
_FOLLOWED = 32
_LISTED = 1_000


class Outputs:
    """Documents about kept output in a state directory. Every method reads files and blocks."""

    def __init__(self, state_dir: Path | None, *, most_bytes: int = MOST_BYTES) -> None:
        self._state_dir = state_dir
        self._most_bytes = most_bytes
        self._followed: OrderedDict[Path, tuple[Reader, str]] = OrderedDict()
        self._lock = threading.Lock()

    def all(self, run_id: str) -> Document:
        """Commands of a run; empty without kept output."""
        found = kept_outputs(self._state_dir, run_id) if self._state_dir and run_id else []
        return {
            "v": 1,
            "outputs": [
                {
                    "file": kept.name,
                    "span_id": kept.span_id,
                    "phase": kept.phase,
                    "tool": kept.tool,
                    "attempt": kept.attempt,
                    "ended": kept.ended,
                    "exit_code": kept.exit_code,
                }
                for kept in found[:_LISTED]
            ],
        }

    def newest(self, run_id: str) -> Document:
        """Last line of each running command."""
        if not (self._state_dir and run_id and is_running(self._state_dir, run_id)):
            return {"v": 1, "lines": []}
        lines = [
            {"phase": kept.phase, "tool": kept.tool, "line": last[:500]}
            for kept in kept_outputs(self._state_dir, run_id)
            if not kept.ended and (last := self._newest_of(kept))
        ]
        return {"v": 1, "lines": lines[-_NEWEST:]}

    def _newest_of(self, kept: KeptOutput) -> str:
        """Read the lines since the last call, so that an output is not unpacked again each time.

        An output that is large at the first call is skipped; it shows when the run is opened.
        """
        with self._lock:
            if kept.path not in self._followed:
                if kept.size_bytes() > 4 * self._most_bytes:
                    return ""
                self._followed[kept.path] = Reader(kept), ""
                if len(self._followed) > _FOLLOWED:
                    self._followed.popitem(last=False)
            reader, last = self._followed[kept.path]
            last = newest_line(reader.more()) or last
            self._followed[kept.path] = reader, last
            self._followed.move_to_end(kept.path)
            return last

    def one(self, run_id: str, file: str, after: str) -> Document | None:
        """Output of one command after a position, only its end if it is large; None without kept output."""
        if self._state_dir is None or not run_id:
            return None
        running = is_running(self._state_dir, run_id)
        for kept in kept_outputs(self._state_dir, run_id):
            if kept.name == file:
                found = excerpt(kept, after, self._most_bytes)
                return {
                    "v": 1,
                    "text": found.text,
                    "at": found.at,
                    "left_out": found.left_out,
                    "running": running and not kept.ended,
                    "exit_code": kept.exit_code,
                }
        return None
