"""Our named tuples are those of ``typing`` in everything that somebody may ask of one."""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from spanbus._named_tuple import NamedTuple


class Ours(NamedTuple):
    """A place."""

    name: str
    at: int = 3
    more: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        return f"{self.name}@{self.at}"

    @classmethod
    def nowhere(cls) -> Ours:
        return cls("nowhere", 0)


class Theirs(typing.NamedTuple):
    """A place."""

    name: str
    at: int = 3
    more: tuple[str, ...] = ()


class Empty(NamedTuple):
    """Nothing."""


def test_it_is_made_shown_and_compared_as_theirs() -> None:
    ours, theirs = Ours("a", more=("b",)), Theirs("a", more=("b",))
    assert ours == theirs == ("a", 3, ("b",))
    assert hash(ours) == hash(theirs)
    assert repr(ours).removeprefix("Ours") == repr(theirs).removeprefix("Theirs")
    assert (ours.name, ours.at, ours.more, ours.shown) == ("a", 3, ("b",), "a@3")
    assert Ours.nowhere() == ("nowhere", 0, ())
    assert (Ours._fields, Ours._field_defaults) == (Theirs._fields, Theirs._field_defaults)
    assert ours._asdict() == theirs._asdict()
    assert Ours._make(["x", 1, ()]) == Theirs._make(["x", 1, ()])
    assert ours._replace(at=4) == theirs._replace(at=4)
    assert type(ours._replace(at=4)) is Ours
    assert (Ours.__doc__, Ours.__module__, Ours.__name__) == ("A place.", __name__, "Ours")
    assert not hasattr(ours, "__dict__")
    assert Empty() == ()
    match ours:
        case Ours(name, at=3):
            assert name == "a"
        case _:
            pytest.fail("it matches")


def test_it_is_copied_and_pickled() -> None:
    ours = Ours("a", 1, ("b",))
    for made in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert (made, type(made)) == (ours, Ours)
    assert typing.get_type_hints(Ours)["more"] == tuple[str, ...]


def test_what_is_wrong_is_told_as_by_theirs() -> None:
    for wrong in ({}, {"name": "a", "nmae": "b"}, {"name": "a", "at": 1, "more": (), "x": 1}):
        for kind in (Ours, Theirs):
            with pytest.raises(TypeError):
                kind(**wrong)  # pyright: ignore[reportCallIssue]
    with pytest.raises((TypeError, ValueError)):
        Ours("a")._replace(nmae="b")  # pyright: ignore[reportCallIssue]
    with pytest.raises(AttributeError):
        Ours("a").name = "b"  # pyright: ignore[reportAttributeAccessIssue]
