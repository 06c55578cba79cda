"""Attach to a bus: the ways into any of them, the observer on it, the handle that a program gets."""
