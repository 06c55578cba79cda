"""Workflows of our own: definitions, the engine that runs them, the event bus on which it announces everything."""
