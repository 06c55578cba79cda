"""Records that a publication or a task opened; those that have ended are let go as more are added."""

from __future__ import annotations

from spanbus._correlation.span_state import SpanState

_PRUNED_AT = 16


class Opened(list[SpanState]):
    """Every record that is still open, oldest first, with some that have ended."""

    _prune_at = _PRUNED_AT

    def add(self, record: SpanState) -> None:
        """Append ``record``; a stream or a task that never ends adds many."""
        if len(self) >= self._prune_at:
            self[:] = [one for one in self if one.result is None]
            self._prune_at = max(_PRUNED_AT, 2 * len(self))
        self.append(record)
