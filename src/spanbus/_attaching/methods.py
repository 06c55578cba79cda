"""Inspect the methods of an unknown object without calling them.

``inspect.getattr_static`` finds them, so that neither properties nor ``__getattr__`` run. Whether a bus awaits its handlers
is inferred from its code: coroutine functions, and names such as ``create_task`` and ``gather``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from spanbus._loaded import is_instance_of

_PUBLISHING = re.compile(
    r"""(?: a_? | async_ )?
    (?: publish | emit | dispatch | send | fire | trigger | notify | raise_event | broadcast )
    (?: _ (?: async | nowait | sync | batch | many | all | event | events | message | messages
        | observers | listeners | subscribers | handlers | later | soon | threadsafe | robust | and_wait ) )*
    | sendMessage | sendEvent | publishEvent | emitEvent | fireEvent | raiseEvent | triggerEvent | notifyAll
    | notifyObservers | notifyListeners""",
    re.VERBOSE,
)
_AMBIGUOUS_PUBLISHING = re.compile(r"(?:post|push|announce|report)(?:_event|_message|Event)?")
_LISTENING = re.compile(
    r"(?:subscribe|register|on|listen|attach|connect|bind|watch|observe|add_?(?:listener|handler|observer|callback|subscriber))\w*",
    re.IGNORECASE,
)
"""Subscribing methods; only beside one of them is an ambiguous name such as ``post`` a publishing method."""
_HANDLERS_BY_NAME = ("on", "subscribe", "listen", "add_listener", "add_handler")
_SCHEDULING = frozenset(
    (
        "create_task",
        "ensure_future",
        "gather",
        "wait_for",
        "as_completed",
        "run_coroutine_threadsafe",
        "run_until_complete",
        "start_soon",
        "TaskGroup",
        "create_task_group",
        "open_nursery",
        "isawaitable",
        "iscoroutine",
        "iscoroutinefunction",
    )
)
_NOT_DELIVERING = re.compile(
    r"(un)?subscribe\w*|off\w*|remove\w*|a?close\w*|stop\w*|shutdown\w*|(dis)?connect\w*|__aexit__|__aenter__"
)
_INITIAL_STATE = ("initial", "initial_state", "current_state")
_TRANSITIONS = {"send", "dispatch", "trigger"}
"""Methods that trigger a transition of a state machine."""
_MISSING = object()
_NO_SUCH_NAME = "spanbus_has_no_such_name"
_MAX_ATTRIBUTES = 50


def has(thing: object, name: str) -> bool:
    """Whether ``thing`` has a callable of this name. Of its code, only a property of this name may run."""
    static = static_attribute(thing, name)
    if static is _MISSING:
        return False
    if isinstance(static, FunctionType | staticmethod | classmethod):
        return True
    try:
        return callable(getattr(thing, name, None))
    except Exception:
        return False


def static_attribute(thing: object, name: str) -> object:
    """Return the attribute without invoking descriptors, else a unique marker object."""
    try:
        return inspect.getattr_static(thing, name, _MISSING)
    except Exception:
        return _MISSING


def names_of(thing: object) -> list[str]:
    """Return the public names of an object and its classes; ``__dir__`` is not called."""
    found: dict[str, None] = dict.fromkeys(own_attributes(thing))
    kinds = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    for kind in kinds:
        if kind is not object:
            found.update(dict.fromkeys(vars(kind)))
    return [name for name in found if not name.startswith("_")]


def publishing_methods(thing: object) -> list[str]:
    """Return the names of the publishing methods."""
    names = names_of(thing)
    found = [name for name in names if _PUBLISHING.fullmatch(name) and has(thing, name)]
    found = [name for name in found if not _empties_a_queue(thing, name)]
    if not found and any(_LISTENING.fullmatch(name) and has(thing, name) for name in names):
        found = [
            name for name in names if _AMBIGUOUS_PUBLISHING.fullmatch(name) and has(thing, name)
        ]
        if "get" in names:  # beside `get`, `post` is an HTTP method of an application or client
            found = [name for name in found if name != "post"]
    if not found and not isinstance(thing, type) and _is_called_to_publish(thing, names):
        return ["__call__"]
    return found or _publishing_by_getattr(thing)


def _is_called_to_publish(thing: object, names: list[str]) -> bool:
    """Return whether a bus is called itself, as in ``bus("task.started", task="fetch")``."""
    listening = any(name in _HANDLERS_BY_NAME and has(thing, name) for name in names)
    return listening and isinstance(static_attribute(type(thing), "__call__"), FunctionType)


def _empties_a_queue(thing: object, name: str) -> bool:
    """Return whether the only parameter of a method is a queue, from which it takes the events."""
    try:
        parameters = list(inspect.signature(callable_of(thing, name)).parameters.values())
    except (TypeError, ValueError):
        return False
    if isinstance(thing, type):
        parameters = parameters[1:]
    return len(parameters) == 1 and parameters[0].name.lower().endswith("queue")


def is_state_machine(thing: object) -> bool:
    """Return whether an object has states, and events or a generated ``trigger`` that change the current one."""
    own = own_attributes(thing)
    if "state" in own and isinstance(own.get("trigger"), partial):
        return True
    names = set(names_of(thing))
    if not {"states", "events"} <= names or names.isdisjoint(_INITIAL_STATE):
        return False
    return not has(thing, "subscribe") and set(publishing_methods(thing)) <= _TRANSITIONS


def _publishing_by_getattr(thing: object) -> list[str]:
    """Return publishing methods that ``__getattr__`` provides, as in a proxy; none if it provides any name."""
    kind = type(thing)
    if static_attribute(kind, "__getattr__") is _MISSING or isinstance(thing, type | ModuleType):
        return []
    if generated_attribute(thing) is not None:
        return []
    try:
        found = [
            name for name in ("publish", "emit", "dispatch") if callable(getattr(thing, name, None))
        ]
    except Exception:
        return []
    return found


def generated_attribute(thing: object) -> object:
    """Return what ``__getattr__`` generates for an unknown name, None for most objects. Leaves no trace on the object."""
    if is_instance_of(thing, "unittest.mock", "NonCallableMock"):
        return thing  # a mock provides any name, and records the access
    try:
        made = cast("object", getattr(thing, _NO_SUCH_NAME, None))
        if _NO_SUCH_NAME in own_attributes(thing):
            delattr(thing, _NO_SUCH_NAME)
    except Exception:
        return None
    return made


def is_coroutine_function(method: object) -> bool:
    """Whether calling ``method`` returns a coroutine; looks through partials and methods."""
    while isinstance(method, partial | MethodType | staticmethod | classmethod):
        inner = cast("Any", method)
        method = inner.func if isinstance(method, partial) else inner.__func__
    return inspect.iscoroutinefunction(method) or (
        not isinstance(method, FunctionType | type)
        and inspect.iscoroutinefunction(getattr(method, "__call__", None))  # noqa: B004
    )


def as_coroutine_function(function: Callable[..., object]) -> Callable[..., object]:
    """Mark ``function`` as a coroutine function for ``inspect`` and ``asyncio``, and return it."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    plain = cast("FunctionType", function)
    code = plain.__code__  # Python 3.11 checks only this flag
    plain.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    return plain


def awaits_handlers(thing: object) -> bool:
    """Whether code of this object or of its attributes is asynchronous, so that results of handlers may be awaited."""
    made_of = list(own_attributes(thing).values())[:_MAX_ATTRIBUTES]
    return any(_is_asynchronous(part) for part in (thing, *made_of))


def _is_asynchronous(thing: object) -> bool:
    if isinstance(thing, FunctionType | MethodType):
        return is_coroutine_function(thing) or _schedules(thing)
    kind = cast("type[object]", thing if isinstance(thing, type) else type(thing))
    if isinstance(thing, ModuleType):
        return any(
            isinstance(value, FunctionType)
            and value.__module__ == thing.__name__
            and (is_coroutine_function(value) or _schedules(value))
            for value in vars(thing).values()
        )
    return any(
        _is_asynchronous_method(value)
        for one in kind.__mro__
        if one is not object and one.__module__ != "builtins"
        for name, value in cast("dict[str, object]", vars(one)).items()
        if not _NOT_DELIVERING.fullmatch(name)
    )


def _is_asynchronous_method(value: object) -> bool:
    if not isinstance(value, FunctionType | staticmethod | classmethod | property):
        return False
    method = cast("object", value)
    return is_coroutine_function(method) or _schedules(method)


def _schedules(function: object) -> bool:
    while isinstance(function, staticmethod | classmethod | MethodType | property):
        inner = cast("Any", function)
        function = inner.fget if isinstance(function, property) else inner.__func__
    code: object = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and any(
        not _SCHEDULING.isdisjoint(one.co_names) for one in codes(code)
    )


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code object and those of its nested functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def own_attributes(thing: object) -> dict[str, object]:
    """Return a copy of the instance dictionary; empty if there is none."""
    try:
        own = object.__getattribute__(thing, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return dict(cast("dict[str, object]", own))


def callable_of(thing: object, name: str) -> Callable[..., object]:
    """Return the bound method."""
    return cast("Callable[..., object]", getattr(thing, name))
