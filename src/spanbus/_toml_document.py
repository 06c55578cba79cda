"""A TOML text parsed once, though several readers look for different parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from spanbus._patterns import pattern

_MOST_PARTS = 64
_LONG_KEY = pattern(
    r"(?:\.[ \t]{0,9}(?:\"[^\"\n]{0,1000}\"|'[^'\n]{0,1000}'|[\w-]{1,1000}+)[ \t]{0,9})"
    f"{{{_MOST_PARTS}}}"
)
"""``tomllib`` takes time and memory by the square of the parts of a key."""


@lru_cache(maxsize=4)
def document(text: str) -> Mapping[str, object]:
    """The document, which is not to be changed. Raises ``tomllib``'s ``ValueError``, or ``RecursionError``."""
    for line in text.splitlines():
        if line.count(".") >= _MOST_PARTS and _LONG_KEY.search(line) is not None:
            raise ValueError(f"a key of more than {_MOST_PARTS} parts")
    import tomllib  # it compiles its patterns when it is loaded

    return tomllib.loads(text)
