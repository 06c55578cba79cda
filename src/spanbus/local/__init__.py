"""The embedded backend: a store, a receiver and a page in one process, without Docker."""
