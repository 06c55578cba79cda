"""Treatment of subscribers by a bus, inferred from its source: whether an observer among them would be harmless.

A bus may do more than call its subscribers: return their results, stop at the first truthy one, pass one subscriber's
result to the next, or call methods of them. The source is parsed, nothing is executed. Without source nothing is known.
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
    self_name,
    tree_of,
    variables_of,
    with_callees,
)
from spanbus._named_tuple import NamedTuple

HOOK = re.compile(r"(?:on|handle|visit|before|after)(?:_\w+|[A-Z]\w*)")
"""Names of listener methods, each for one event type."""
_OBSERVER_METHODS = frozenset(("handle", "on_event", "handle_event"))
_TYPE_CHECKS = frozenset(
    "isawaitable iscoroutine iscoroutinefunction isfuture isinstance hasattr callable".split()
)
_CONTAINER_METHODS = frozenset(
    "append add remove discard pop copy clear items values keys get index sort extend insert".split()
)
"""Methods of lists and dictionaries of subscribers."""
_STORING = frozenset(("append", "add", "insert", "appendleft", "put", "setdefault", "extend"))
_CALLING = frozenset("submit run_in_executor to_thread run_sync apply call invoke".split())
"""Functions that call their argument."""
_MAX_DEPTH = 4
_LEAVING = (ast.Return, ast.Break, ast.Yield)
_Loop: TypeAlias = ast.For | ast.AsyncFor | ast.comprehension


class Treatment(NamedTuple):
    """Treatment of subscribers by a bus, inferred from its source."""

    known: bool = False
    """The source was read."""
    uses_results: bool = False
    """The bus returns or uses the results of subscribers, or their number."""
    results_decide: bool = False
    """A result decides whether further subscribers are called, or is passed to the next one."""
    methods: frozenset[str] = frozenset()
    """Methods of subscribers that it calls and that the observer lacks."""
    attributes: frozenset[str] = frozenset()
    """Other attributes of subscribers that it reads."""
    looks_up_methods: bool = False
    """It looks up methods of subscribers by computed names."""
    passed_to: frozenset[tuple[str, str]] = frozenset()
    """Pairs of an attribute of the bus and the method of it to which subscribers are passed on."""

    def merged_with(self, other: Treatment) -> Treatment:
        """Return the union of both treatments."""
        return Treatment(
            self.known or other.known,
            self.uses_results or other.uses_results,
            self.results_decide or other.results_decide,
            self.methods | other.methods,
            self.attributes | other.attributes,
            self.looks_up_methods or other.looks_up_methods,
            self.passed_to | other.passed_to,
        )

    @property
    def harmless(self) -> bool:
        """Whether a subscribed function that returns True changes nothing, as far as is known."""
        return not (self.uses_results or self.needs_more_than_call)

    @property
    def needs_more_than_call(self) -> bool:
        """Whether the bus needs more than a callable: methods or attributes."""
        return bool(self.methods or self.attributes or self.looks_up_methods)


_known: weakref.WeakKeyDictionary[type, dict[str, Treatment]] = weakref.WeakKeyDictionary()


def treatment_of(thing: object, subscribing: str) -> Treatment:
    """Return the treatment of the subscribers that ``thing.subscribing`` takes, including that of objects it passes them to."""
    found = Treatment()
    inner = [(thing, subscribing)]
    for _ in range(_MAX_DEPTH + 1):
        uses = [(one, method, _treatment_by_object(one, method)) for one, method in inner]
        for _, _, use in uses:
            found = found.merged_with(use)
        inner = [
            (other, further)
            for one, method, use in uses
            for attribute, further in use.passed_to
            if (other := _attribute_or_variable(one, method, attribute)) is not None
        ]
    return found


def _attribute_or_variable(thing: object, method: str, name: str) -> object:
    """Return an instance attribute, or a global or closure variable of a method; properties are not evaluated."""
    held = own_attributes(thing).get(name)
    if held is None and (function := function_of(static_attribute(thing, method))) is not None:
        held = variables_of(function).get(name)
    return held


def _treatment_by_object(thing: object, subscribing: str) -> Treatment:
    """Return the treatment by the source of the object's class, or of its own functions, as for a module."""
    own = own_attributes(thing).get(subscribing) if not isinstance(thing, type) else None
    if isinstance(own, MethodType) and own.__self__ is not thing:
        return treatment_of(own.__self__, own.__name__)
    if isinstance(own, FunctionType):
        held = [one for one in own_attributes(thing).values() if isinstance(one, FunctionType)]
        return _treatment_by_source(own, (*with_callees(held), *functions_of(type(thing))))
    return _treatment_by_class(thing, subscribing)


def _treatment_by_class(thing: object, subscribing: str) -> Treatment:
    """Return the treatment by the source of the object's class; cached by class."""
    kind = thing if isinstance(thing, type) else type(thing)
    of_class = _known.setdefault(kind, {})
    if subscribing not in of_class:
        takes = static_attribute(kind, subscribing)
        of_class[subscribing] = _treatment_by_source(takes, functions_of(kind))
    return of_class[subscribing]


def _treatment_by_source(takes: object, functions: Iterable[FunctionType]) -> Treatment:
    """Return the treatment by the subscribing method ``takes`` and the functions beside it; unknown if not readable."""
    try:
        return _read(function_of(takes), functions)
    except (RecursionError, ValueError):
        return Treatment()


def _read(takes: FunctionType | None, functions: Iterable[FunctionType]) -> Treatment:
    tree = tree_of(takes)
    if takes is None or tree is None:
        return Treatment(known=takes is None)  # native code: nothing to read
    outside = {name for name, value in variables_of(takes).items() if _may_store(value)}
    storage, itself = _storage(tree, self_name(takes))
    counted = _presence_matters(tree, storage, _parameters(tree) - {self_name(takes)})
    found = Treatment(True, counted, passed_to=_passed_to(tree, outside, self_name(takes)))
    for function in functions:
        other = tree_of(function)
        if other is not None and function is not takes:
            read = _FunctionReader(other, self_name(function), storage, frozenset(outside), itself)
            found = found.merged_with(
                Treatment(
                    True,
                    read.uses_results,
                    read.results_decide,
                    read.methods,
                    read.attributes,
                    read.looks_up_methods,
                )
            )
    return found


def _may_store(value: object) -> bool:
    return not isinstance(value, ModuleType | type | FunctionType) and (
        isinstance(value, Iterable) or hasattr(value, "__dict__")
    )


def _storage(tree: ast.AST, own: str) -> tuple[frozenset[str], bool]:
    """Return the attributes that a subscribing method uses, and whether it stores the subscriber unwrapped."""
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


def _passed_to(tree: ast.AST, outside: Collection[str], itself: str) -> frozenset[tuple[str, str]]:
    """Return calls ``self.attribute.method(handler)`` and ``variable.method(handler)`` with a parameter as an argument."""
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
    """Return the name in ``self.name``, or of a variable from outside; None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id if node.id in outside else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == itself else None
    return None


class _FunctionReader:
    """Analysis of one function that may call subscribers, held in the attributes ``storage`` or in outside variables."""

    def __init__(
        self,
        tree: ast.AST,
        own: str,
        storage: frozenset[str],
        outside: frozenset[str],
        itself: bool,
    ) -> None:
        self._tree, self._storage, self._outside = tree, storage, outside
        self._own = own
        """Name of the ``self`` parameter."""
        self.uses_results = self.results_decide = self.looks_up_methods = False
        self.methods: frozenset[str] = frozenset()
        self.attributes: frozenset[str] = frozenset()
        self._sole: set[str] = set()
        """Variables that hold exactly one subscriber, not a tuple with other data."""
        self._subscriber_names = self._find_subscribers()
        if not self._subscriber_names:
            return
        self._parents = {one: node for node in ast.walk(tree) for one in ast.iter_child_nodes(node)}
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and (
                self._is_subscriber(node.func)
                or (_name_of(node.func) in _CALLING and any(map(self._is_subscriber, node.args)))
            )
        ]
        if itself:
            self._find_attributes()
        results = {name for call in calls for name in self._results(call)}
        self._follow_results(results, calls)
        self.uses_results = (
            self.uses_results or self.results_decide or bool(calls and self._counts_subscribers())
        )

    def _find_subscribers(self) -> set[str]:
        """Return the variables that hold a subscriber: targets of loops over the storage or copies of it."""
        some: set[str] = set()
        each: set[str] = set()
        nodes = list(ast.walk(self._tree))

        def mentions(node: ast.expr) -> bool:
            return any(
                (isinstance(one, ast.Attribute) and one.attr in self._storage)
                or (
                    isinstance(one, ast.Name)
                    and (one.id in some or one.id in each or one.id in self._outside)
                )
                for one in ast.walk(node)
            )

        for _ in range(2):  # the walk may meet a loop before the assignment that feeds it
            for node in nodes:
                if isinstance(node, ast.Assign) and mentions(node.value):
                    some |= {name for target in node.targets for name in self._names(target)}
                elif isinstance(node, _Loop) and mentions(node.iter):
                    each |= self._names(node.target)
                    if isinstance(node.target, ast.Name):
                        self._sole.add(node.target.id)
                elif isinstance(node, ast.Call) and any(map(mentions, node.args)):
                    given = (*node.args, *(one.value for one in node.keywords))
                    functions = [one for one in given if isinstance(one, ast.Lambda)]
                    taken = {one.arg for function in functions for one in function.args.args}
                    each |= taken
                    self._sole |= taken
        return each

    def _is_subscriber(self, function: ast.expr) -> bool:
        while isinstance(function, ast.Attribute | ast.Subscript):
            function = function.value
        if (
            isinstance(function, ast.Call)
            and _name_of(function.func) == "getattr"
            and function.args
        ):
            return self._is_subscriber(function.args[0])
        return isinstance(function, ast.Name) and function.id in self._subscriber_names

    def _find_attributes(self) -> None:
        methods: set[str] = set()
        attributes: set[str] = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in self._sole and not node.attr.startswith("__"):
                    parent = self._parents.get(node)
                    called = isinstance(parent, ast.Call) and parent.func is node
                    (methods if called else attributes).add(node.attr)
            elif (
                isinstance(node, ast.Call)
                and _name_of(node.func) == "getattr"
                and len(node.args) > 1
            ):
                target, name = node.args[:2]
                if isinstance(target, ast.Name) and target.id in self._sole:
                    if not isinstance(name, ast.Constant):
                        self.looks_up_methods = True
                    elif len(node.args) == 2 and not str(name.value).startswith("__"):
                        attributes.add(str(name.value))
        self.methods = frozenset(methods - _OBSERVER_METHODS - _CONTAINER_METHODS)
        self.attributes = frozenset(attributes - _OBSERVER_METHODS)

    def _results(self, call: ast.Call) -> set[str]:
        """Return the variables that get the result of a subscriber's call; note if it is returned or tested directly."""
        node: ast.AST = call
        while (parent := self._parents.get(node)) is not None:
            if isinstance(parent, ast.Return | ast.Yield):
                self.uses_results = True
            elif isinstance(parent, ast.Assign):
                return {name for target in parent.targets for name in self._names(target)}
            elif isinstance(parent, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                return self._names(parent.target)
            elif isinstance(parent, ast.If | ast.While) and node is parent.test:
                self.results_decide = self.results_decide or _leaves(parent)
            elif isinstance(parent, ast.comprehension):
                self.results_decide = True
            elif isinstance(parent, ast.Call):
                if _name_of(parent.func) in _TYPE_CHECKS:
                    return set()
                if _name_of(parent.func) in _STORING and isinstance(parent.func, ast.Attribute):
                    return self._names(parent.func.value)
            if isinstance(parent, ast.stmt):
                return set()
            node = parent
        return set()

    def _counts_subscribers(self) -> bool:
        """Whether the function returns the number of subscribers, or behaves differently without any."""
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
            or any(_mentions(value, self._storage) for value in returned)
            or _presence_matters(self._tree, self._storage, ())
        )

    def _follow_results(self, results: set[str], calls: list[ast.Call]) -> None:
        """Follow the results: note if they are returned, decide on continuing, or are passed to the next subscriber."""
        nodes = list(ast.walk(self._tree))
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                put = node.args if node.func.attr in _STORING else ()
                if any(results & self._names(one) for one in put):
                    results |= self._names(node.func.value)
            elif (
                isinstance(node, ast.Assign)
                and results & self._names(node.value)
                and not self._is_type_check(node.value)
            ):
                results |= {name for target in node.targets for name in self._names(target)}
        given = {name for call in calls for one in call.args for name in self._names(one)}
        self.results_decide = self.results_decide or bool(results & given)
        for node in nodes:
            value = None
            if isinstance(node, ast.Return | ast.Yield):
                value = node.value
            elif isinstance(node, ast.If | ast.While) and _leaves(node):
                value = node.test
            if (
                value is not None
                and results & self._names(value)
                and not self._is_type_check(value)
            ):
                self.uses_results = True
                self.results_decide = self.results_decide or isinstance(node, ast.If | ast.While)

    def _names(self, node: ast.AST) -> set[str]:
        """Return the variables in an expression, without ``self``."""
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - {self._own}

    @staticmethod
    def _is_type_check(test: ast.expr) -> bool:
        return isinstance(test, ast.Call) and _name_of(test.func) in _TYPE_CHECKS


def _mentions(node: ast.AST, storage: Collection[str]) -> bool:
    """Whether an expression reads one of the ``storage`` attributes."""
    return any(isinstance(one, ast.Attribute) and one.attr in storage for one in ast.walk(node))


def _presence_matters(tree: ast.AST, storage: Collection[str], apart: Collection[str]) -> bool:
    """Whether the function returns or raises depending on the stored subscribers; tests of a parameter do not count."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.If) or not _mentions(node.test, storage):
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
