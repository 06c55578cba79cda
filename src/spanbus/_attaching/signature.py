"""Arguments for an unknown subscribing method that subscribe to all events, inferred from its signature.

``None`` or ``"*"`` means all types only if the signature shows it: by a default, or by an annotation that admits None. If
the signature cannot be read, the method is not used.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable
from inspect import Parameter
from typing import Literal

from spanbus._attaching.call import TYPE_NAMES
from spanbus._named_tuple import NamedTuple

HANDLER_NAMES = frozenset(
    (
        "handler",
        "handle",
        "callback",
        "callback_fn",
        "cb",
        "fn",
        "f",
        "func",
        "function",
        "h",
        "listener",
        "subscriber",
        "observer",
        "obs",
        "receiver",
        "slot",
        "sink",
        "consumer",
        "hook",
        "on_event",
        "callable",
        "target",
    )
)
_TYPE_NAMES = frozenset(
    (
        *TYPE_NAMES,
        "event_types",
        "types",
        "topics",
        "events",
        "event_class",
        "event_cls",
        "cls",
        "pattern",
        "filter",
        "mask",
        "queue",
    )
)
_ALL_TYPES = frozenset(("*", "**", "#", ">", "all", "any", "ALL", "ANY", ".*"))
_CONCURRENCY = 1_000

Role = Literal["observer", "sink", "listener", "on_error", "nothing"]


class SubscribingCall(NamedTuple):
    """Positional arguments and keywords, with a :class:`Slot` for each subscriber to fill in."""

    arguments: tuple[object, ...]
    options: dict[str, object]
    slot: Slot
    takes_wildcard: bool = False
    """The method takes an event type, and has a wildcard for all types."""


class Slot(NamedTuple):
    """Placeholder for a subscriber."""

    role: Role
    is_async: bool = False
    """The annotation demands a handler whose result is awaitable."""


NOTHING = Slot("nothing")
ON_ERROR = Slot("on_error")


def subscribing(method: Callable[..., object]) -> SubscribingCall | None:
    """Return a call that subscribes to all event types; None if the signature does not show how."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return None
    hints = _hints(method)
    named = [
        one
        for one in signature.parameters.values()
        if one.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    if any(one.name == "on_next" for one in named):
        return _reactive(named)
    handler = _handler_parameter(named, hints)
    if handler is None:
        return None
    slot = Slot(
        "sink" if handler.name == "sink" else "observer", _awaits(hints.get(handler.name, ""))
    )
    arguments: list[object] = []
    options: dict[str, object] = {}
    by_name = False
    for one in named:
        value: object = Parameter.empty
        if one is handler:
            value = slot
        elif one.name == "max_concurrent":
            options[one.name] = _CONCURRENCY
        elif one.name == "description":
            options[one.name] = "spanbus telemetry"
        elif one.name in ("weak", "weak_reference"):
            options[one.name] = False
        elif one.name in _TYPE_NAMES or one.default is Parameter.empty:
            every = _all_types_value(one, hints.get(one.name, ""))
            if every is None:
                return None
            value = every[0]
            if one.default is not Parameter.empty:
                if one.kind is Parameter.POSITIONAL_ONLY:
                    arguments.append(value)
                else:
                    by_name = True
                continue
        else:
            by_name = True
        if value is Parameter.empty:
            continue
        if one.kind is Parameter.KEYWORD_ONLY or (
            by_name and one.kind is not Parameter.POSITIONAL_ONLY
        ):
            options[one.name] = value
        else:
            arguments.append(value)
    takes_wildcard = any(one.name in _TYPE_NAMES for one in named if one is not handler)
    return SubscribingCall(tuple(arguments), options, slot, takes_wildcard)


def _reactive(named: list[Parameter]) -> SubscribingCall:
    slot = Slot("observer")
    roles = {"on_next": slot, "on_error": ON_ERROR, "on_completed": NOTHING}
    return SubscribingCall(
        (), {one.name: roles[one.name] for one in named if one.name in roles}, slot
    )


def _handler_parameter(named: list[Parameter], hints: dict[str, object]) -> Parameter | None:
    for one in named:
        if one.name in HANDLER_NAMES:
            return one
    for one in named:
        if one.name not in _TYPE_NAMES and _is_callable(hints.get(one.name, "")):
            return one
    required = [one for one in named if one.default is Parameter.empty]
    if len(named) == 1 and required and not hints and named[0].name not in _TYPE_NAMES:
        return named[0] if len(named[0].name) <= 2 else None
    return None


def _all_types_value(one: Parameter, hint: object) -> tuple[object] | None:
    """Return the parameter's value for all types, in a tuple; None if the signature does not show it."""
    default: object = one.default
    if one.name == "mask":
        return None if default is Parameter.empty else (default,)
    if default is None or (isinstance(default, str) and default in _ALL_TYPES):
        return (default,)
    if default is Parameter.empty and one.name in _TYPE_NAMES and _admits_none(hint):
        return (None,)
    return None


def _hints(method: Callable[..., object]) -> dict[str, object]:
    try:
        return dict(typing.get_type_hints(method))
    except Exception:  # names imported for type checkers only: use the text of the annotation
        return dict(getattr(method, "__annotations__", {}))


def _admits_none(hint: object) -> bool:
    if isinstance(hint, str):
        return "None" in hint or "Optional" in hint
    return hint is None or type(None) in typing.get_args(hint)


def _is_callable(hint: object) -> bool:
    if isinstance(hint, str):
        return any(word in hint for word in ("Callable", "Handler", "Callback", "Listener"))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_callable(one) for one in typing.get_args(hint))
    return abc.Callable in (hint, typing.get_origin(hint))  # pyright: ignore[reportUnknownMemberType]


def _awaits(hint: object) -> bool:
    """Whether a handler with this annotation must return an awaitable."""
    if isinstance(hint, str):
        return "Awaitable[" in hint or "Coroutine[" in hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        some = [one for one in typing.get_args(hint) if one is not type(None)]
        return bool(some) and all(_awaits(one) for one in some)
    if not _is_callable(hint):
        return False
    result = (typing.get_args(hint) or (None,))[-1]
    return typing.get_origin(result) in (abc.Awaitable, abc.Coroutine)
