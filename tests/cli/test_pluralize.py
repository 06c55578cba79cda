"""Singular and plural: one record waits, two records wait."""

from __future__ import annotations

import pytest

from spanbus._pluralize import pluralize


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 records wait"), (1, "1 record waits"), (2, "2 records wait"), (21, "21 records wait")],
)
def test_pluralize_agrees_with_the_number(count: int, said: str) -> None:
    assert pluralize(count, "record waits", "records wait") == said
