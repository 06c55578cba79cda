"""Optional integrations with outside systems: Celery, dramatiq, TaskIQ, NATS, MCP, WebSocket."""
