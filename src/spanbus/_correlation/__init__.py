"""Assign facts to runs, phases and attempts, and turn them into open and ended spans."""
