"""Numbers of examples: `make test` runs a part of those that `make test-slow` and plain pytest run."""

from __future__ import annotations

import os

QUICK = os.environ.get("TESTS") == "quick"


def examples(count: int) -> int:
    """The number of examples to run of a property test with ``count`` examples."""
    return max(15, count // 6) if QUICK else count
