"""Workflows of spanbus: definitions, the engine, and its event bus."""
