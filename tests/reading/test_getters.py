"""Events with accessor methods for type and payload."""

from __future__ import annotations

from typing import Any

import pytest

from spanbus._reading.read import Unreadable, read


class Base:
    def __init__(self, kind: str = "task.started", **payload: object) -> None:
        self._kind, self._told = kind, payload


class Getters:
    def __init__(self, **payload: object) -> None:
        self._t, self._d = "task.started", payload

    def get_event_type(self) -> str:
        return self._t

    def get_payload(self) -> dict[str, object]:
        return self._d

    def get_timestamp(self) -> float:
        return 1_764_324_000.5


class JavaStyle(Base):
    def getType(self) -> str:
        return self._kind

    def getData(self) -> dict[str, object]:
        return self._told


class TaskEvent(Base):
    """The method ``name`` is more specific than the name of the class."""

    def name(self) -> str:
        return self._kind

    def to_dict(self, *, deep: bool = False) -> dict[str, object]:
        return self._told


class Attribute(Base):
    @property
    def payload(self) -> dict[str, object]:
        return self._told

    def type(self) -> str:
        return self._kind


@pytest.mark.parametrize("kind", [Getters, JavaStyle, TaskEvent, Attribute])
def test_type_and_payload_by_methods(kind: Any) -> None:
    raw = read(kind(task="fetch"))
    assert (raw.event_type, raw.payload) == ("task.started", {"task": "fetch"})
    assert raw.timed == (kind is Getters)


class Constant:
    """The class has the type, its objects the payload."""

    EVENT_TYPE = "task.started"

    def __init__(self, **payload: object) -> None:
        vars(self).update(payload)


class ConstantAndPayload(Constant):
    def payload(self) -> dict[str, object]:
        return vars(self)


class AsDictionary(Base):
    def to_dict(self) -> dict[str, object]:
        return {"type": self._kind, "payload": self._told}


class Hidden:
    def __init__(self, **payload: object) -> None:
        self._n, self._d = "task.started", payload

    def model_dump(self, *, mode: str = "python") -> dict[str, object]:
        return {"event_name": self._n, "data": self._d}


@pytest.mark.parametrize("kind", [Constant, ConstantAndPayload, AsDictionary, Hidden])
def test_type_by_a_constant_of_the_class_or_in_a_dictionary(kind: Any) -> None:
    raw = read(kind(task="fetch"))
    assert (raw.event_type, raw.payload) == ("task.started", {"task": "fetch"})


class WantsAnArgument:
    def name(self, of: object) -> str:
        raise AssertionError


class Raises:
    def get_type(self) -> str:
        raise OSError("closed")


class Coroutine:
    async def type(self) -> str:
        raise AssertionError


class ReturnsNoText:
    def kind(self) -> object:
        return object()


@pytest.mark.parametrize("kind", [WantsAnArgument, Raises, Coroutine, ReturnsNoText])
def test_methods_with_arguments_coroutines_or_errors_are_not_accessors(kind: Any) -> None:
    with pytest.raises(Unreadable, match="has no type"):
        read(kind())


def test_a_class_name_with_a_lifecycle_word_is_the_type() -> None:
    class TaskStarted:
        def __init__(self) -> None:
            self.task = "fetch"

        def name(self) -> str:
            raise AssertionError

    assert read(TaskStarted()).event_type == "TaskStarted"
