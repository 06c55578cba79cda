"""Running runs for the MCP server, converted from messages of the live stream, with bounded values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from spanbus._runs.sanitize import block, one_line
from spanbus._timestamps import iso

if TYPE_CHECKING:
    from spanbus.integrations.mcp import Node, RunHead

TAIL_CHARS: Final = 2_000
NAME_CHARS: Final = 200
RUN_ID_CHARS: Final = 256
WORD_CHARS: Final = 20
_LONGEST_S: Final = 1e9
_MOST_ATTEMPTS: Final = 1_000_000
_RUNS_REMEMBERED: Final = 1_000
_LONGEST_WORKFLOW_CHARS: Final = 513
"""One more than the longest workflow name that can be waited for, so that truncation never causes a match."""


def live_head(message: Mapping[str, object], result: str, error_type: str | None = None) -> RunHead:
    """Return the head of a run that is not stored yet."""
    started = message.get("started_at_us")
    of_the_run = message.get("level") == "run"
    return {
        "run_id": one_line(str(message.get("run_id", "")), RUN_ID_CHARS),
        "workflow": one_line(str(message.get("workflow", "")), NAME_CHARS),
        "result": one_line(result, WORD_CHARS),
        "error_type": error_type
        or (
            one_line(str(message["error_type"]), NAME_CHARS)
            if of_the_run and message.get("error_type")
            else None
        ),
        "started_at": iso(started * 1_000) if of_the_run and isinstance(started, int) else "",
        "duration_s": _seconds(message.get("duration_s")) if of_the_run else 0.0,
    }


def _seconds(value: object) -> float:
    """Return a duration of the live stream, or 0 if it is out of range: the sender is not trusted."""
    if not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST_S:
        return 0.0
    return float(value)


def live_node(message: Mapping[str, object]) -> Node:
    """Return a failed node from a message of the live stream."""
    attempts = message.get("attempts")
    error_type, error = message.get("error_type"), message.get("error")
    return {
        "path": one_line(str(message.get("name", "")), NAME_CHARS),
        "kind": one_line(str(message.get("level", "")), WORD_CHARS),
        "result": one_line(str(message.get("result", "")), WORD_CHARS),
        "duration_s": _seconds(message.get("duration_s")),
        "attempts": max(0, min(attempts, _MOST_ATTEMPTS)) if isinstance(attempts, int) else 1,
        "error_type": one_line(str(error_type), NAME_CHARS) if error_type else None,
        "error": block(str(error)[:TAIL_CHARS]) if error else None,
        "output": None,
    }


_OF_A_RUN = ("run_id", "workflow", "level", "error_type", "started_at_us", "duration_s", "result")


def remember(
    runs: OrderedDict[object, Mapping[str, object]], message: Mapping[str, object]
) -> None:
    """Remember the head of a run; above the limit the least recently updated one is dropped."""
    run_id = message.get("run_id")
    runs[run_id] = {key: _short(message[key]) for key in _OF_A_RUN if key in message}
    runs.move_to_end(run_id)
    if len(runs) > _RUNS_REMEMBERED:
        runs.popitem(last=False)


def _short(value: object) -> object:
    return value[:_LONGEST_WORKFLOW_CHARS] if isinstance(value, str) else value
