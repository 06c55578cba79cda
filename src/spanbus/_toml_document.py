"""Cached parsing of TOML texts, for several readers of one file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from spanbus._patterns import pattern

_MOST_PARTS = 64
_LONG_KEY = pattern(
    r"(?:\.[ \t]{0,9}(?:\"[^\"\n]{0,1000}\"|'[^'\n]{0,1000}'|[\w-]{1,1000}+)[ \t]{0,9})"
    f"{{{_MOST_PARTS}}}"
)
"""``tomllib`` takes quadratic time and memory in the number of parts of a key."""


@lru_cache(maxsize=4)
def document(text: str) -> Mapping[str, object]:
    """Parse a TOML text; the result must not be changed. Raises ``tomllib``'s ``ValueError``, or ``RecursionError``."""
    for line in text.splitlines():
        if line.count(".") >= _MOST_PARTS and _LONG_KEY.search(line) is not None:
            raise ValueError(f"a key of more than {_MOST_PARTS} parts")
    import tomllib  # lazy: it compiles patterns at import

    return tomllib.loads(text)
