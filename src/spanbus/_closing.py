"""Base class of objects that a ``with`` statement closes."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that calls :meth:`close` at its end."""

    def close(self) -> object:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
