"""Bytes to the collector: encoded once, spooled, sent."""
