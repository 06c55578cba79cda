"""Buses of every shape, each in its own process: each is observed completely, and none is disturbed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bus_shapes
import pytest
import touchy_shapes

RIGHT: dict[str, Any] = {
    "heard": 10,
    "seen": 10,
    "errors": [0, None],
    "runs": [1, 1],
    "phases": [3, 1],
    "retries": 1,
    "oddities": [0, 0, 0],
    "parents": [
        "RUN nightly < None",
        "build < RUN nightly",
        "fetch < RUN nightly",
        "fetch attempt 1 < fetch",
        "fetch attempt 2 < fetch",
        "test < RUN nightly",
    ],
}
WITHOUT_A_PUBLISHING_METHOD = {
    "on_any",
    "a_listener_with_a_mask",
    "subscribed_by_hand",
    "bound_signals",
    "a_subject",
    "handled_by_one_and_published_within",
    "a_method_for_each_type",
    "a_method_for_each_type_by_its_name",
    "a_method_for_each_type_that_is_awaited",
    "slots_that_handlers_are_added_to",
}
"""In ``wrap`` mode these are refused, or there is nothing to wrap."""


@functools.cache
def recorded(mode: str) -> dict[str, dict[str, Any]]:
    """What came of every shape: one process each, forked from one that has loaded what they need."""
    names = [
        name
        for name in bus_shapes.SHAPES
        if mode != "wrap" or name not in WITHOUT_A_PUBLISHING_METHOD
    ]
    done = subprocess.run(
        [sys.executable, str(Path(touchy_shapes.__file__)), mode, *names],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {line.pop("shape"): line for line in lines}
    assert done.stderr == "", done.stderr
    return found


@pytest.mark.parametrize("name", bus_shapes.SHAPES)
def test_a_shape_is_observed_and_unchanged(name: str) -> None:
    assert recorded("auto").get(name) == RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(bus_shapes.SHAPES.keys() - WITHOUT_A_PUBLISHING_METHOD))
def test_a_shape_is_observed_and_unchanged_in_wrap_mode(name: str) -> None:
    assert recorded("wrap").get(name) == RIGHT
