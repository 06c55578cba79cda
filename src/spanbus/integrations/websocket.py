"""Live events for WebSocket clients of your own application (Starlette, FastAPI, any ASGI framework based on Starlette).

``docs/live.md`` describes the messages, and how a client resumes. Needs the extra ``backend``.
"""

from spanbus._backend.live import EventBusWebSocketBridge
from spanbus._backend.live_limits import LiveLimits, LiveStatistics

__all__ = ["EventBusWebSocketBridge", "LiveLimits", "LiveStatistics"]
