"""Bounds and counts of the live bridge."""

from __future__ import annotations

from dataclasses import dataclass

from spanbus._named_tuple import NamedTuple


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Bounds of a bridge: what is kept, and how long it waits."""

    ring_messages: int = 20_000
    ring_bytes: int = 32 << 20
    client_lag_messages: int = 5_000
    """Messages that a client may fall behind before it is moved forward."""
    frame_bytes: int = 256 << 10
    message_bytes: int = 64 << 10
    clients: int = 1_000
    runs: int = 256
    open_spans: int = 20_000
    """Open spans of all live runs together."""
    state_bytes: int = 8 << 20
    """Spans of all live runs together, as they are kept for clients that come late; what is above is brought to those that
    are there, and is not kept."""
    publisher_messages: int = 20_000
    """Messages that one publisher may send at once; what is above is missed."""
    publisher_messages_s: int = 5_000
    """Messages that it may send in a second after that."""
    publisher_runs: int = 128
    """Live runs of one publisher."""
    inbox: int = 20_000
    """Events of an attached bus that wait for the next turn."""
    pace_s: float = 0.05
    """The shortest time between two frames to one client: many small messages become few frames."""
    stalled_after_s: float = 2.0
    gone_after_s: float = 3.5
    """Seconds of silence after which a stalled publisher's process is looked at."""
    unknown_stalled_after_s: float = 30.0
    """The same of a publisher that did not say which process it is, and perhaps knows nothing of heartbeats."""
    unknown_gone_after_s: float = 3_600.0
    """Seconds of silence after which such a publisher counts as gone, because its process cannot be looked at."""
    ended_kept_s: float = 60.0
    """Seconds that an ended run stays in the state for new clients."""
    send_timeout_s: float = 30.0


class LiveStatistics(NamedTuple):
    """Counts since the start."""

    clients: int
    clients_refused: int
    messages: int
    missed: int
    ring_bytes: int
    runs: int
    sources: int
