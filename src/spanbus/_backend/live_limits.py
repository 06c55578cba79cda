"""Limits and statistics of the live bridge."""

from __future__ import annotations

from dataclasses import dataclass

from spanbus._named_tuple import NamedTuple


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Limits of a bridge in messages, bytes and seconds."""

    ring_messages: int = 20_000
    ring_bytes: int = 32 << 20
    client_lag_messages: int = 5_000
    """Messages that a client may lag behind before it is moved forward."""
    frame_bytes: int = 256 << 10
    message_bytes: int = 64 << 10
    clients: int = 1_000
    runs: int = 256
    open_spans: int = 20_000
    """Open spans of all live runs together."""
    state_bytes: int = 8 << 20
    """Kept spans of all live runs together. Spans above it are sent to the connected clients, but not kept for later ones."""
    publisher_messages: int = 20_000
    """Burst of messages from one publisher; messages above it are missed."""
    publisher_messages_s: int = 5_000
    """Sustained messages per second from one publisher."""
    publisher_runs: int = 128
    """Live runs of one publisher."""
    inbox: int = 20_000
    """Events of attached buses that wait for the next turn."""
    pace_s: float = 0.05
    """Shortest time between two frames to one client, so that many small messages become few frames."""
    stalled_after_s: float = 2.0
    gone_after_s: float = 3.5
    """Seconds of silence after which the process of a stalled publisher is checked."""
    unknown_stalled_after_s: float = 30.0
    """``stalled_after_s`` of a publisher without process id, which may send no heartbeats."""
    unknown_gone_after_s: float = 3_600.0
    """Seconds of silence after which such a publisher counts as gone, because its process cannot be checked."""
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
