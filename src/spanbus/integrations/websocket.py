"""Events of a bus for WebSocket clients of an application of one's own (Starlette, FastAPI, any ASGI framework on Starlette).

``docs/live.md`` describes the messages, and how a client resumes. Needs the extra ``backend``.
"""

from spanbus._backend.live import EventBusWebSocketBridge
from spanbus._backend.live_limits import LiveLimits, LiveStatistics

__all__ = ["EventBusWebSocketBridge", "LiveLimits", "LiveStatistics"]
