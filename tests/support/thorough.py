"""How thorough the tests are: `make test` takes a part of the examples that `make test-slow`, and pytest by itself, take."""

from __future__ import annotations

import os

QUICK = os.environ.get("TESTS") == "quick"


def examples(count: int) -> int:
    """The number of examples of a property test that has ``count`` of them."""
    return max(15, count // 6) if QUICK else count
