"""Attach to a bus: subscription, tap or adapter, and the handle that a program gets."""
