"""Many cases in one pytest test: one pytest test for each would take longer than the cases themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def of_each(cases: Mapping[str, T]) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Call the decorated test with every case, and raise an ExceptionGroup of all failures, each with the name of its case."""

    def decorate(test: Callable[[T], None]) -> Callable[[], None]:
        def of_all() -> None:
            failed: list[AssertionError] = []
            for name, case in cases.items():
                try:
                    test(case)
                except AssertionError as error:
                    error.add_note(f"the case is {name!r}")
                    failed.append(error)
            if failed:
                raise ExceptionGroup(f"{len(failed)} of {len(cases)} cases", failed)

        of_all.__name__, of_all.__qualname__ = test.__name__, test.__qualname__
        of_all.__doc__, of_all.__module__ = test.__doc__, test.__module__
        return of_all

    return decorate
