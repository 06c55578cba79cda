"""Many cases of one statement as one test, because a pytest test for each takes longer than the case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def of_each(cases: Mapping[str, T]) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Call a test with every case, and report all failures by name."""

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
