"""Sharing of answers among concurrent scrapes."""

from __future__ import annotations

import anyio

from spanbus._named_tuple import NamedTuple

Answer = tuple[bytes, str]


class _Kept(NamedTuple):
    began_s: float
    accept: str
    answer: Answer


class Scrapes:
    """The newest answer, kept while clients wait. ``lock`` is held while an answer is made or taken."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self._kept: _Kept | None = None

    @property
    def waiting(self) -> int:
        """Number of clients waiting for an answer."""
        return self.lock.statistics().tasks_waiting

    def made_since(self, arrived_s: float, accept: str) -> Answer | None:
        """An answer for the same ``accept`` whose rendering began after this client arrived; else None."""
        kept = self._kept
        if not self.waiting:
            self._kept = None
        if kept is None or kept.began_s < arrived_s or kept.accept != accept:
            return None
        return kept.answer

    def keep(self, began_s: float, accept: str, answer: Answer) -> None:
        if self.waiting:
            self._kept = _Kept(began_s, accept, answer)
