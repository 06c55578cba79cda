"""Integrations with other systems, each optional: Celery, Dramatiq, TaskIQ, NATS, MCP, WebSocket."""
