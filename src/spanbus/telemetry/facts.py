"""The canonical fact: what one raw event of any bus says about a run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from spanbus.telemetry.names import Result
from spanbus.telemetry.records import Failure


class Rank(IntEnum):
    """Who speaks, from the outside in. A step, a phase and a strategy that mean the same work are one phase."""

    RUN = 0
    STEP = 1
    PHASE = 2
    STRATEGY = 3
    HOOK = 4


class Verb(IntEnum):
    """What the event does to the thing that it names."""

    EVENT = 0
    START = 1
    END = 2
    RETRY = 3
    SKIP = 4


class Fact(NamedTuple):
    """One event, understood. Times are Unix nanoseconds, durations nanoseconds; absent things are None."""

    verb: Verb
    rank: Rank
    name: str | None
    event_type: str
    event_id: str
    at_ns: int
    source: str
    payload: Mapping[str, object]
    aliases: tuple[str, ...] = ()
    exact: bool = False
    """The name is an identity (a step id, our engine's phase), not one that has to be looked for among aliases."""
    run_key: str | None = None
    run_key_is_shared: bool = False
    """The key is a definition's name or the like: concurrent and later runs bear the same one."""
    correlation: str | None = None
    workflow: str | None = None
    result: Result | None = None
    failure: Failure | None = None
    final: bool = False
    attempt: int | None = None
    duration_ns: int | None = None
    delay_ns: int = 0
    task: str | None = None
    """Who published it: the task or thread, where the bus tells."""
    task_type: str | None = None
    needs: tuple[str, ...] = ()
    stage: str | None = None
    reason: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
