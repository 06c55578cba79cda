"""Outside systems that are used, one file each and each optional: Celery, NATS, MCP, WebSocket."""
