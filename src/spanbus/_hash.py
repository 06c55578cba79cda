"""BLAKE2b without ``hashlib``, which loads OpenSSL and would more than double the start time of a command."""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # not CPython
    from hashlib import blake2b

__all__ = ["blake2b"]
