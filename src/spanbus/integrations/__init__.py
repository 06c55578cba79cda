"""Optional integrations with outside systems, one module each: Celery, Dramatiq, TaskIQ, NATS, MCP, WebSocket."""
