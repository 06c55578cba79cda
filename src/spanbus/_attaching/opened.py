"""Records that a publication or a task opened; ended ones are pruned as more are added."""

from __future__ import annotations

from spanbus._correlation.span_state import SpanState

_PRUNED_AT = 16


class Opened(list[SpanState]):
    """Open records, oldest first; some ended ones may remain."""

    _prune_at = _PRUNED_AT

    def add(self, record: SpanState) -> None:
        """Append ``record``. Prunes, because a stream or an endless task adds many."""
        if len(self) >= self._prune_at:
            self[:] = [one for one in self if one.result is None]
            self._prune_at = max(_PRUNED_AT, 2 * len(self))
        self.append(record)
