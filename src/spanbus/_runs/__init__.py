"""Stored runs for display: one model for terminal, page, report, MCP and JSON."""
