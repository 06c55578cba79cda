"""Trace and span ids, which are hashes of run, phase and attempt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spanbus._workflow.identity import child_span_id, phase_span_id


@given(
    parent=st.integers(1, 2**64 - 1), name=st.text(max_size=20), occurrence=st.integers(1, 1_000)
)
def test_the_fast_path_for_phase_ids_gives_the_same_ids(parent: int, name: str, occurrence: int):
    assert phase_span_id(parent, name, occurrence) == child_span_id(
        parent, "phase", name, occurrence
    )
