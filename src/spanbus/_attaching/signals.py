"""Attach to signals like those of blinker, Celery, Django and PyQt. The name of a signal is the type of its events."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from spanbus._attaching.call import event_in, is_event, is_type, make_event, type_text
from spanbus._attaching.methods import (
    callable_of,
    generated_attribute,
    has,
    names_of,
    own_attributes,
    publishing_methods,
    static_attribute,
)
from spanbus._attaching.replace import is_function
from spanbus._attaching.signature import HANDLER_NAMES
from spanbus._attaching.treatment import treatment_of
from spanbus._reading.shape import getter
from spanbus._reading.spelling import ending
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle

_MAX_SIGNALS = 500
_CONTROL = ("signal", "sender", "dispatch_uid", "weak")


def is_signal(thing: object) -> bool:
    """Whether ``thing`` has a ``connect(receiver)`` and a sending method, or is a slot."""
    if is_slot(thing):
        return True
    if isinstance(thing, type | ModuleType) or not has(thing, "connect"):
        return False
    if not (sending_methods(thing) or has(thing, "disconnect")):
        return False
    try:
        parameters = list(inspect.signature(callable_of(thing, "connect")).parameters.values())
    except (TypeError, ValueError):  # PyQt signals are written in C++
        return "signal" in type(thing).__name__.lower()
    if any(one.default is one.empty and one.kind < one.VAR_POSITIONAL for one in parameters[1:]):
        return False  # the signal is another argument, as in Scrapy
    return bool(parameters) and (
        parameters[0].name in HANDLER_NAMES or "signal" in type(thing).__name__.lower()
    )


def is_slot(thing: object) -> bool:
    """Whether ``thing`` is a C#-style event: ``slot += handler`` subscribes, ``slot(...)`` calls the handlers."""
    kind = type(thing)
    return is_function(kind, "__iadd__") and is_function(kind, "__call__")


def signals_of(thing: object) -> dict[str, object]:
    """Return the signals of a mapping or namespace by name; at most 500 entries are examined."""
    if isinstance(thing, Mapping):
        named = list(cast("Mapping[object, object]", thing).items())[:_MAX_SIGNALS]
        return {name_of(one, str(name)): one for name, one in named if is_signal(one)}
    found: dict[str, object] = {}
    for name in names_of(thing)[:_MAX_SIGNALS]:
        static = inspect.getattr_static(thing, name, None)
        if static is None or (
            callable(static) and not hasattr(static, "connect") and not is_slot(static)
        ):
            continue
        if isinstance(static, property | classmethod | staticmethod):
            continue
        one = getattr(thing, name, None)
        if is_signal(one):
            found[name_of(one, name)] = one
    return found


def makes_signals(thing: object) -> str | None:
    """Return the method by which a namespace creates signals on demand: ``signal`` or ``__getattr__``; None if it does not."""
    if isinstance(thing, Mapping):
        return "signal" if has(cast("object", thing), "signal") else None
    if not is_function(type(thing), "__getattr__"):
        return None
    declared = static_attribute(thing, "__events__")
    gives = isinstance(declared, tuple | list) or any(map(is_slot, own_attributes(thing).values()))
    return "__getattr__" if gives or is_slot(generated_attribute(thing)) else None


def sending_methods(signal: object) -> list[str]:
    """Return the sending methods of a signal, including ``__call__``."""
    called = ("__call__",) if is_function(type(signal), "__call__") else ()
    return [*publishing_methods(signal), *called]


def name_of(signal: object, known_as: str | None = None) -> str:
    """Return the name of a signal: its own, ``known_as``, or that of a module variable; else ``signal``."""
    for key in ("name", "signal_name"):
        name = getattr(signal, key, None)
        if isinstance(name, str) and name:
            return name
    text = getattr(signal, "signal", None)  # PyQt: "2finished(QString)"
    if isinstance(text, str) and text:
        return text.lstrip("0123456789").partition("(")[0]
    if known_as is not None:
        return known_as
    modules = [one for one in list(sys.modules.values()) if type(one) is ModuleType]
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is signal and not name.startswith("_"):
                return name
    return "signal"


def connect(signal: object, name: str, handle: Handle) -> None:
    """Connect a receiver of its own to the signal, by a strong reference."""

    def receiver(*arguments: object, **options: object) -> object:
        return handle.observer(event_of(name, arguments, options))

    if is_slot(signal):
        _add(signal, receiver, handle)
        return
    method = callable_of(signal, "connect")
    options: dict[str, object] = {}
    try:
        if "weak" in inspect.signature(method).parameters:
            options["weak"] = False
    except (TypeError, ValueError):
        pass
    method(receiver, **options)

    def undo() -> None:
        if has(signal, "disconnect"):
            cast("Callable[[object], object]", getattr(signal, "disconnect"))(receiver)  # noqa: B009

    handle.add_undo(undo)


def _add(slot: object, receiver: Callable[..., object], handle: Handle) -> None:
    """Add a receiver to a slot. Raises if ``+=`` makes a new object, because others keep the old one."""
    if handle.answer_form == "plain" and treatment_of(slot, "__iadd__").uses_results:
        handle.answer_form = "nothing"
    changed: Any = slot
    changed += receiver
    if changed is not slot:
        raise InputError(f"{type(slot).__name__} makes another object of itself with each handler")

    def undo() -> None:
        if has(slot, "__isub__"):
            left: Any = slot
            left -= receiver

    handle.add_undo(undo)


def event_of(name: str, arguments: Sequence[object], options: Mapping[str, object]) -> object:
    """Return the event for one sending of a signal, or of a signal that a group of signals passes on."""
    if len(arguments) == 1 and not options:
        get = getter(arguments[0])
        signal, sent = get("signal"), get("args")
        if isinstance(sent, tuple) and is_signal(signal):
            return event_of(name_of(signal), cast("tuple[object, ...]", sent), {})
    if arguments and ending(name) is None and is_type(arguments[0]):
        kind = type_text(arguments[0])
        if isinstance(kind, str | Enum) and ending(str(kind)) is not None:
            return event_in(arguments, options)  # one signal for all event types
    payload = {key: value for key, value in options.items() if key not in _CONTROL}
    given = list(arguments)
    sender = options.get("sender")
    for one in (*given, *payload.values()):
        if one is not None and not isinstance(one, str) and is_event(one):
            return one
    if len(payload) == 1 and not arguments:
        only = next(iter(payload.values()))
        if isinstance(only, Mapping):
            return make_event(name, cast("object", only))
    if not payload:
        for one in given:
            if isinstance(one, Mapping):
                return make_event(name, cast("object", one))
    text = next((one for one in (sender, *given) if isinstance(one, str)), None)
    if text is not None:
        payload.setdefault("name", text)
    if not payload and len(given) == 1 and given[0] is not None:
        return make_event(name, given[0])
    return make_event(name, payload)
