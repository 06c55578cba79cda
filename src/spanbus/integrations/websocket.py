"""Serve the events of a bus to WebSocket clients of your own application (Starlette, FastAPI and others based on Starlette).

``docs/live.md`` describes the messages and how a client resumes. Needs the extra ``backend``.
"""

from spanbus._backend.live import EventBusWebSocketBridge
from spanbus._backend.live_limits import LiveLimits, LiveStatistics

__all__ = ["EventBusWebSocketBridge", "LiveLimits", "LiveStatistics"]
