"""The calls that a bus makes of its subscribers, read off its source: whether an observer among them would be harmless.

A bus may do more than call them: give back what they returned, stop at the first that answers, pass on what one made of the
event, call a method of theirs. Nothing is called to find that out; where there is no source, nothing is known.
"""

from __future__ import annotations

import ast
import re
import weakref
from collections.abc import Collection, Iterable
from types import FunctionType, MethodType, ModuleType
from typing import TypeAlias

from spanbus._attaching.methods import own_attributes, static_attribute
from spanbus._attaching.sources import (
    function_of,
    functions_of,
    itself_of,
    tree_of,
    variables_of,
    with_those_they_call,
)
from spanbus._named_tuple import NamedTuple

HOOK = re.compile(r"(?:on|handle|visit|before|after)(?:_\w+|[A-Z]\w*)")
"""Methods of a listener, each of which stands for one type of events."""
_OF_OBSERVERS = frozenset(("handle", "on_event", "handle_event"))
_ASKING = frozenset(
    "isawaitable iscoroutine iscoroutinefunction isfuture isinstance hasattr callable".split()
)
_OF_CONTAINERS = frozenset(
    "append add remove discard pop copy clear items values keys get index sort extend insert".split()
)
"""Methods of the lists and dictionaries in which they are kept by type."""
_STORING = frozenset(("append", "add", "insert", "appendleft", "put", "setdefault", "extend"))
_CALLING = frozenset("submit run_in_executor to_thread run_sync apply call invoke".split())
"""Functions that call what they are given."""
_DEEPEST = 4
_LEAVING = (ast.Return, ast.Break, ast.Yield)
_Loop: TypeAlias = ast.For | ast.AsyncFor | ast.comprehension


class Delivery(NamedTuple):
    """Use that the code of a bus makes of those that are subscribed on it."""

    known: bool = False
    """Its source was read."""
    minds: bool = False
    """Results of theirs go on to others, or decide on how it goes on."""
    decides: bool = False
    """They decide on how it goes on, or go on to the next of them."""
    methods: frozenset[str] = frozenset()
    """Methods of theirs that it calls, and that the observer does not have."""
    attributes: frozenset[str] = frozenset()
    """Other things of theirs that it looks at."""
    by_name: bool = False
    """It looks methods of theirs up by names that it makes."""
    handed: frozenset[tuple[str, str]] = frozenset()
    """Attributes of the bus, and methods of these that it gives them on to."""

    def plus(self, other: Delivery) -> Delivery:
        """The use that both make of them."""
        return Delivery(
            self.known or other.known,
            self.minds or other.minds,
            self.decides or other.decides,
            self.methods | other.methods,
            self.attributes | other.attributes,
            self.by_name or other.by_name,
            self.handed | other.handed,
        )

    @property
    def harmless(self) -> bool:
        """A function among them that returns True changes nothing, as far as is known."""
        return not (self.minds or self.wants_more)

    @property
    def wants_more(self) -> bool:
        """It wants more of them than to be called."""
        return bool(self.methods or self.attributes or self.by_name)


_known: weakref.WeakKeyDictionary[type, dict[str, Delivery]] = weakref.WeakKeyDictionary()


def delivery_of(thing: object, subscribing: str) -> Delivery:
    """Use that an object makes of those that its method ``subscribing`` takes, and that others make to which it gives them on."""
    found = Delivery()
    inner = [(thing, subscribing)]
    for _ in range(_DEEPEST + 1):
        uses = [(one, method, _of_one(one, method)) for one, method in inner]
        for _, _, use in uses:
            found = found.plus(use)
        inner = [
            (other, further)
            for one, method, use in uses
            for attribute, further in use.handed
            if (other := _held(one, method, attribute)) is not None
        ]
    return found


def _held(thing: object, method: str, name: str) -> object:
    """The object in an attribute, or in a variable that a method of it knows; no property is asked."""
    held = own_attributes(thing).get(name)
    if held is None and (function := function_of(static_attribute(thing, method))) is not None:
        held = variables_of(function).get(name)
    return held


def _of_one(thing: object, subscribing: str) -> Delivery:
    """Use that it makes of them by its source: that of its class, or of functions that it holds itself, as a module does."""
    own = own_attributes(thing).get(subscribing) if not isinstance(thing, type) else None
    if isinstance(own, MethodType) and own.__self__ is not thing:
        return delivery_of(own.__self__, own.__name__)
    if isinstance(own, FunctionType):
        held = [one for one in own_attributes(thing).values() if isinstance(one, FunctionType)]
        others = (*with_those_they_call(held), *functions_of(type(thing)))
        try:
            return _read(function_of(own), others)
        except (RecursionError, ValueError):
            return Delivery()
    return _of_class(thing, subscribing)


def _of_class(thing: object, subscribing: str) -> Delivery:
    """Use that its own class makes of them by its source; remembered."""
    kind = thing if isinstance(thing, type) else type(thing)
    of_class = _known.setdefault(kind, {})
    if subscribing not in of_class:
        try:
            takes = function_of(static_attribute(kind, subscribing))
            of_class[subscribing] = _read(takes, functions_of(kind))
        except (RecursionError, ValueError):
            of_class[subscribing] = Delivery()
    return of_class[subscribing]


def _read(takes: FunctionType | None, functions: Iterable[FunctionType]) -> Delivery:
    tree = tree_of(takes)
    if takes is None or tree is None:
        return Delivery(known=takes is None)  # of native code nothing will ever be known
    outside = {name for name, value in variables_of(takes).items() if _may_hold(value)}
    kept, itself = _kept(tree, itself_of(takes))
    counted = _presence_matters(tree, kept, _parameters(tree) - {itself_of(takes)})
    found = Delivery(True, counted, handed=_handed(tree, outside, itself_of(takes)))
    for function in functions:
        other = tree_of(function)
        if other is not None and function is not takes:
            read = _Function(other, itself_of(function), kept, frozenset(outside), itself)
            found = found.plus(
                Delivery(
                    True,
                    read.minds,
                    read.decides,
                    read.methods,
                    read.attributes,
                    read.by_name,
                )
            )
    return found


def _may_hold(value: object) -> bool:
    return not isinstance(value, ModuleType | type | FunctionType) and (
        isinstance(value, Iterable) or hasattr(value, "__dict__")
    )


def _kept(tree: ast.AST, own: str) -> tuple[frozenset[str], bool]:
    """The attributes in which a subscribing method keeps what it is given, and whether it keeps that itself."""
    parameters = _parameters(tree)
    attributes = frozenset(
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == own
    )
    itself = False
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _STORING
        ):
            given = node.args
        elif isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name):
            given = [node.value]
        itself = itself or any(isinstance(one, ast.Name) and one.id in parameters for one in given)
    return attributes, itself


def _parameters(tree: ast.AST) -> set[str]:
    return {
        one.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for one in node.args
    }


def _handed(tree: ast.AST, outside: Collection[str], itself: str) -> frozenset[tuple[str, str]]:
    """Calls ``self.attribute.method(handler)``, or ``variable.method(handler)``, with a parameter of the subscribing method."""
    parameters = _parameters(tree)
    return frozenset(
        (name, node.func.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (name := _holder(node.func.value, outside, itself)) is not None
        and node.func.attr not in _STORING
        and any(isinstance(one, ast.Name) and one.id in parameters for one in node.args)
    )


def _holder(node: ast.expr, outside: Collection[str], itself: str) -> str | None:
    """The attribute of the object itself, or the variable, that an expression is."""
    if isinstance(node, ast.Name):
        return node.id if node.id in outside else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == itself else None
    return None


class _Function:
    """One function that may call subscribers, which are in the attributes ``kept`` or in variables from outside."""

    def __init__(
        self,
        tree: ast.AST,
        own: str,
        kept: frozenset[str],
        outside: frozenset[str],
        itself: bool,
    ) -> None:
        self._tree, self._kept, self._outside = tree, kept, outside
        self._own = own
        """The name of the object itself."""
        self.minds = self.decides = self.by_name = False
        self.methods: frozenset[str] = frozenset()
        self.attributes: frozenset[str] = frozenset()
        self._alone: set[str] = set()
        """Variables that stand for one of them, and for nothing of what is kept with it."""
        self._each = self._subscribers()
        if not self._each:
            return
        self._parents = {one: node for node in ast.walk(tree) for one in ast.iter_child_nodes(node)}
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and (
                self._is_theirs(node.func)
                or (_name_of(node.func) in _CALLING and any(map(self._is_theirs, node.args)))
            )
        ]
        if itself:
            self._look_at_attributes()
        results = {name for call in calls for name in self._results(call)}
        self._look_at_names(results, calls)
        self.minds = self.minds or self.decides or bool(calls and self._counts_them())

    def _subscribers(self) -> set[str]:
        """Variables that stand for one of them, in a loop over what is kept or what was made of it."""
        some: set[str] = set()
        each: set[str] = set()
        nodes = list(ast.walk(self._tree))

        def mentions(node: ast.expr) -> bool:
            return any(
                (isinstance(one, ast.Attribute) and one.attr in self._kept)
                or (
                    isinstance(one, ast.Name)
                    and (one.id in some or one.id in each or one.id in self._outside)
                )
                for one in ast.walk(node)
            )

        for _ in range(2):  # what is made of it may be made before or after, as the walk goes
            for node in nodes:
                if isinstance(node, ast.Assign) and mentions(node.value):
                    some |= {name for target in node.targets for name in self._names(target)}
                elif isinstance(node, _Loop) and mentions(node.iter):
                    each |= self._names(node.target)
                    if isinstance(node.target, ast.Name):
                        self._alone.add(node.target.id)
                elif isinstance(node, ast.Call) and any(map(mentions, node.args)):
                    given = (*node.args, *(one.value for one in node.keywords))
                    functions = [one for one in given if isinstance(one, ast.Lambda)]
                    taken = {one.arg for function in functions for one in function.args.args}
                    each |= taken
                    self._alone |= taken
        return each

    def _is_theirs(self, function: ast.expr) -> bool:
        while isinstance(function, ast.Attribute | ast.Subscript):
            function = function.value
        if (
            isinstance(function, ast.Call)
            and _name_of(function.func) == "getattr"
            and function.args
        ):
            return self._is_theirs(function.args[0])
        return isinstance(function, ast.Name) and function.id in self._each

    def _look_at_attributes(self) -> None:
        methods: set[str] = set()
        attributes: set[str] = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in self._alone and not node.attr.startswith("__"):
                    parent = self._parents.get(node)
                    called = isinstance(parent, ast.Call) and parent.func is node
                    (methods if called else attributes).add(node.attr)
            elif (
                isinstance(node, ast.Call)
                and _name_of(node.func) == "getattr"
                and len(node.args) > 1
            ):
                whose, name = node.args[:2]
                if isinstance(whose, ast.Name) and whose.id in self._alone:
                    if not isinstance(name, ast.Constant):
                        self.by_name = True
                    elif len(node.args) == 2 and not str(name.value).startswith("__"):
                        attributes.add(str(name.value))
        self.methods = frozenset(methods - _OF_OBSERVERS - _OF_CONTAINERS)
        self.attributes = frozenset(attributes - _OF_OBSERVERS)

    def _results(self, call: ast.Call) -> set[str]:
        """Variables that hold what a call of them gave; whether it goes on at once is noted."""
        node: ast.AST = call
        while (parent := self._parents.get(node)) is not None:
            if isinstance(parent, ast.Return | ast.Yield):
                self.minds = True
            elif isinstance(parent, ast.Assign):
                return {name for target in parent.targets for name in self._names(target)}
            elif isinstance(parent, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                return self._names(parent.target)
            elif isinstance(parent, ast.If | ast.While) and node is parent.test:
                self.decides = self.decides or _leaves(parent)
            elif isinstance(parent, ast.comprehension):
                self.decides = True
            elif isinstance(parent, ast.Call):
                if _name_of(parent.func) in _ASKING:
                    return set()
                if _name_of(parent.func) in _STORING and isinstance(parent.func, ast.Attribute):
                    return self._names(parent.func.value)
            if isinstance(parent, ast.stmt):
                return set()
            node = parent
        return set()

    def _counts_them(self) -> bool:
        """Whether it tells how many there are, or does something else where there is none."""
        counted = {
            name
            for node in ast.walk(self._tree)
            if isinstance(node, _Loop) and not isinstance(node, ast.comprehension)
            for one in ast.walk(node)
            if isinstance(one, ast.AugAssign)
            for name in self._names(one.target)
        }
        returned = [
            node.value
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Return) and node.value is not None
        ]
        return (
            any(counted & self._names(value) for value in returned)
            or any(_mentions(value, self._kept) for value in returned)
            or _presence_matters(self._tree, self._kept, ())
        )

    def _look_at_names(self, results: set[str], calls: list[ast.Call]) -> None:
        """Note whether what they gave is given back, asked before going on, or passed to the next of them."""
        nodes = list(ast.walk(self._tree))
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                put = node.args if node.func.attr in _STORING else ()
                if any(results & self._names(one) for one in put):
                    results |= self._names(node.func.value)
            elif (
                isinstance(node, ast.Assign)
                and results & self._names(node.value)
                and not self._only_asks(node.value)
            ):
                results |= {name for target in node.targets for name in self._names(target)}
        given = {name for call in calls for one in call.args for name in self._names(one)}
        self.decides = self.decides or bool(results & given)
        for node in nodes:
            value = None
            if isinstance(node, ast.Return | ast.Yield):
                value = node.value
            elif isinstance(node, ast.If | ast.While) and _leaves(node):
                value = node.test
            if value is not None and results & self._names(value) and not self._only_asks(value):
                self.minds = True
                self.decides = self.decides or isinstance(node, ast.If | ast.While)

    def _names(self, node: ast.AST) -> set[str]:
        """Variables in it; the object itself is none."""
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - {self._own}

    @staticmethod
    def _only_asks(test: ast.expr) -> bool:
        return isinstance(test, ast.Call) and _name_of(test.func) in _ASKING


def _mentions(node: ast.AST, kept: Collection[str]) -> bool:
    """Whether what is kept is looked at."""
    return any(isinstance(one, ast.Attribute) and one.attr in kept for one in ast.walk(node))


def _presence_matters(tree: ast.AST, kept: Collection[str], apart: Collection[str]) -> bool:
    """Whether it is asked how many are kept, and something done or refused by that; not where a parameter is asked for."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.If) or not _mentions(node.test, kept):
            continue
        asked = {one.id for one in ast.walk(node.test) if isinstance(one, ast.Name)}
        if asked.isdisjoint(apart) and any(
            isinstance(one, ast.Raise) or (isinstance(one, ast.Return) and one.value is not None)
            for part in node.body
            for one in ast.walk(part)
        ):
            return True
    return False


def _leaves(node: ast.If | ast.While) -> bool:
    return any(
        isinstance(one, _LEAVING) for part in (*node.body, *node.orelse) for one in ast.walk(part)
    )


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
