"""Events of the engine and their ids."""

from __future__ import annotations

import copy
import os
import pickle
from types import MappingProxyType

from spanbus._workflow.events import Event, EventIds


def test_a_pickled_or_copied_event_is_equal_and_frozen() -> None:
    event = Event("orders.packed", "1", 5, {"parcels": 3}, "shop", "run-1", metadata={"shard": "a"})
    for again in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event), copy.copy(event)):
        assert again == event
        assert type(again) is Event
        assert isinstance(again.payload, MappingProxyType)


def test_ids_have_one_length_and_sort_by_creation() -> None:
    ids = EventIds()
    made = [ids() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {len("0123456789ab-01234567-0123456789")}


def test_a_forked_child_generates_different_ids() -> None:
    ids = EventIds()
    before = ids()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ids().encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    theirs = os.read(read, 100).decode()
    assert theirs.split("-")[1] != before.split("-")[1]
    os.close(read)
    os.close(write)
