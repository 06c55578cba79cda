"""Number of hypothesis examples: `make test` runs a sixth of those of `make test-slow` and of plain pytest."""

from __future__ import annotations

import os

QUICK = os.environ.get("TESTS") == "quick"


def examples(count: int) -> int:
    """Return the number of examples of a property test: ``count``, or a sixth of it (at least 15) with ``TESTS=quick``."""
    return max(15, count // 6) if QUICK else count
