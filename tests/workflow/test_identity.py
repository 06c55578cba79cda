"""Ids are hashes of what they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spanbus._workflow.identity import child_span_id, phase_span_id


@given(
    parent=st.integers(1, 2**64 - 1), name=st.text(max_size=20), occurrence=st.integers(1, 1_000)
)
def test_the_short_way_to_the_id_of_a_phase_gives_the_same(parent: int, name: str, occurrence: int):
    assert phase_span_id(parent, name, occurrence) == child_span_id(
        parent, "phase", name, occurrence
    )
