"""A stored run as a reader sees it: one model for terminal, page, report, MCP and JSON."""
