"""A workflow as data: phases that need each other, checked when it is built."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from spanbus.errors import DefinitionError

When = Literal["success", "always", "failure"]
Condition = Callable[[Mapping[str, str]], bool]
PhaseFunction = Callable[..., object] | Callable[..., Awaitable[object]]

EMPTY_ENV: Mapping[str, str] = MappingProxyType({})
ACTIONS = ("fast_hooks", "code_cleaning", "comprehensive_hooks", "test_workflow", "command")
_PHASE_KEYS = ("name", "action", "hooks", "run", "shell", "needs", "timeout", "retries", "retry_backoff", "when", "env", "cwd")
_HOOK_KEYS = ("name", "run", "shell", "timeout", "env", "cwd")
_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+(?:\.\d+)?)ms)?")


def _no_env() -> Mapping[str, str]:
    return EMPTY_ENV


class UnusableDefinition(DefinitionError):
    """A workflow cannot be built; ``path`` says where in its definition, such as ``phases[2].needs``."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its arguments, or with ``shell`` one line for ``/bin/sh``."""

    argv: tuple[str, ...]
    shell: bool = False
    name: str | None = None
    timeout_s: float | None = None
    env: Mapping[str, str] = field(default_factory=_no_env)
    cwd: Path | None = None

    @property
    def executable(self) -> str:
        """The program's name without its path."""
        first = self.argv[0] if not self.shell else (self.argv[0].split() or ["sh"])[0]
        return Path(first).name or first


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase. ``action`` is the name of a built-in action or a function, plain or async.

    ``timeout_s`` is for each attempt; ``retries`` counts attempts after the first, with ``retry_backoff_s`` doubling. ``when``
    says when it runs: if what it needs succeeded (``success``), in any case, if something that it needs failed, or if a
    function of the results of what it needs (name to result) says so.
    """

    name: str
    action: str | PhaseFunction = "command"
    needs: tuple[str, ...] = ()
    hooks: tuple[Command, ...] = ()
    command: Command | None = None
    timeout_s: float | None = None
    retries: int = 0
    retry_backoff_s: float = 0.5
    when: When | Condition = "success"
    env: Mapping[str, str] = field(default_factory=_no_env)
    cwd: Path | None = None

    def __post_init__(self) -> None:
        name, action, when = cast("object", self.name), cast("object", self.action), cast("object", self.when)  # callers without types
        if not isinstance(name, str) or not name or name != name.strip():
            raise UnusableDefinition(f"a phase needs a name without blanks around it, not {name!r}", "name")
        if not isinstance(action, str) and not callable(action):
            raise UnusableDefinition(f"phase {name!r}: action must be a function or one of {', '.join(ACTIONS)}, not {action!r}", "action")
        if when not in ("success", "always", "failure") and not callable(when):
            raise UnusableDefinition(f"phase {name!r}: when must be success, always, failure or a function, not {when!r}", "when")
        for key, number in (("timeout_s", self.timeout_s), ("retries", self.retries), ("retry_backoff_s", self.retry_backoff_s)):
            if number is not None and (not isinstance(cast("object", number), int | float) or isinstance(number, bool)):
                raise UnusableDefinition(f"phase {name!r}: {key} must be a number, not {number!r}", key)
        if isinstance(self.action, str) and self.action not in ACTIONS:
            raise UnusableDefinition(f"phase {self.name!r}: unknown action {self.action!r}{_near(self.action, ACTIONS)}", "action")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UnusableDefinition(f"phase {self.name!r}: timeout must be more than nothing, not {self.timeout_s!r} s", "timeout")
        if self.retries < 0:
            raise UnusableDefinition(f"phase {self.name!r}: retries must be 0 or more, not {self.retries}", "retries")
        if self.retry_backoff_s < 0:
            raise UnusableDefinition(f"phase {self.name!r}: retry_backoff must be 0 or more, not {self.retry_backoff_s}", "retry_backoff")
        object.__setattr__(self, "needs", (self.needs,) if isinstance(self.needs, str) else tuple(self.needs))

    @property
    def type(self) -> str:
        """The value of ``cicd.pipeline.task.type``."""
        return self.action if isinstance(self.action, str) else "function"


@dataclass(frozen=True, slots=True)
class Workflow:
    """Phases that form a directed acyclic graph; :class:`~spanbus.errors.DefinitionError` says which does not fit."""

    name: str
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        if not self.name:
            raise UnusableDefinition("a workflow needs a name")
        if not self.phases:
            raise UnusableDefinition(f"workflow {self.name!r} has no phases", "phases")
        names: dict[str, int] = {}
        for index, phase in enumerate(self.phases):
            if phase.name in names:
                raise UnusableDefinition(f"workflow {self.name!r} has two phases named {phase.name!r}", f"phases[{index}].name")
            names[phase.name] = index
        for index, phase in enumerate(self.phases):
            for need in phase.needs:
                if need not in names:
                    raise UnusableDefinition(f"phase {phase.name!r} needs {need!r}, which is no phase{_near(need, names)}", f"phases[{index}].needs")
        try:
            TopologicalSorter({phase.name: phase.needs for phase in self.phases}).prepare()
        except CycleError as error:
            cycle = [str(name) for name in cast("Sequence[object]", error.args[1])]
            raise UnusableDefinition(
                f"workflow {self.name!r} goes in a circle: {' needs '.join(reversed(cycle))}", f"phases[{names[cycle[0]]}].needs"
            ) from None

    def phase(self, name: str) -> Phase:
        """The phase of this name. Raises :class:`~spanbus.errors.DefinitionError` with the nearest right one."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise UnusableDefinition(f"workflow {self.name!r} has no phase {name!r}{_near(name, [phase.name for phase in self.phases])}")

    @classmethod
    def from_mapping(cls, name: str, table: Mapping[str, object]) -> Workflow:
        """A workflow from decoded TOML, as README shows it. Raises :class:`UnusableDefinition` with the path of what is wrong."""
        _known(table, ("phases", "description"), "")
        phases = table.get("phases")
        if not isinstance(phases, list):
            raise UnusableDefinition("a workflow is a list of tables named phases", "phases")
        return cls(name, tuple(_phase(entry, f"phases[{index}]") for index, entry in enumerate(cast("list[object]", phases))))


def _phase(entry: object, path: str) -> Phase:
    if not isinstance(entry, Mapping):
        raise UnusableDefinition("a phase is a table", path)
    table = cast("Mapping[str, object]", entry)
    _known(table, _PHASE_KEYS, path)
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise UnusableDefinition("a phase needs a name", f"{path}.name")
    action = table.get("action", "command")
    if not isinstance(action, str):
        raise UnusableDefinition(f"action must be one of {', '.join(ACTIONS)}", f"{path}.action")
    hooks = table.get("hooks", [])
    if not isinstance(hooks, list):
        raise UnusableDefinition("hooks must be a list of tables", f"{path}.hooks")
    shell = _boolean(table.get("shell", False), f"{path}.shell")
    run = table.get("run")
    if action in ACTIONS and run is None and not hooks and (action == "command" or "hooks" not in table):
        missing = "hooks are missing" if action in ("fast_hooks", "comprehensive_hooks") else "run is missing"
        raise UnusableDefinition(f"phase {name!r} has nothing to do: {missing}", path)
    retries = table.get("retries", 0)
    if not isinstance(retries, int) or isinstance(retries, bool):
        raise UnusableDefinition(f"retries must be a whole number, not {retries!r}", f"{path}.retries")
    when = table.get("when", "success")
    if when not in ("success", "always", "failure"):
        raise UnusableDefinition(f"when must be success, always or failure, not {when!r}", f"{path}.when")
    backoff_s = duration_s(table.get("retry_backoff", 0.5), f"{path}.retry_backoff")
    try:
        return Phase(
            name, action, needs=_strings(table.get("needs", []), f"{path}.needs"),
            hooks=tuple(_hook(hook, f"{path}.hooks[{index}]") for index, hook in enumerate(cast("list[object]", hooks))),
            command=command(run, shell=shell, where=f"{path}.run") if run is not None else None,
            timeout_s=duration_s(table["timeout"], f"{path}.timeout") if "timeout" in table else None,
            retries=retries, retry_backoff_s=backoff_s, when=when, env=_environment(table.get("env", {}), f"{path}.env"),
            cwd=_path(table.get("cwd"), f"{path}.cwd"),
        )
    except UnusableDefinition as error:
        if error.path.startswith(path):
            raise
        raise UnusableDefinition(error.message, f"{path}.{error.path}") from None


def _hook(entry: object, path: str) -> Command:
    if not isinstance(entry, Mapping):
        raise UnusableDefinition("a hook is a table with name and run", path)
    table = cast("Mapping[str, object]", entry)
    _known(table, _HOOK_KEYS, path)
    if "run" not in table:
        raise UnusableDefinition("a hook needs run, the command to run", path)
    name = table.get("name")
    if name is not None and (not isinstance(name, str) or not name):
        raise UnusableDefinition(f"a hook's name must be a text, not {name!r}", f"{path}.name")
    made = command(
        table["run"], shell=_boolean(table.get("shell", False), f"{path}.shell"), where=f"{path}.run",
        timeout_s=duration_s(table["timeout"], f"{path}.timeout") if "timeout" in table else None,
        env=_environment(table.get("env", {}), f"{path}.env"), cwd=_path(table.get("cwd"), f"{path}.cwd"),
    )
    return Command(made.argv, made.shell, name or made.executable, made.timeout_s, made.env, made.cwd)


def command(
    run: object, *, shell: bool = False, where: str = "run", name: str | None = None, timeout_s: float | None = None,
    env: Mapping[str, str] = EMPTY_ENV, cwd: Path | None = None,
) -> Command:
    """A command from a string, which is split as a shell would split it, or from a list of arguments."""
    if isinstance(run, str):
        if shell:
            argv: tuple[str, ...] = (run,) if run.strip() else ()
        else:
            try:
                argv = tuple(shlex.split(run))
            except ValueError as error:
                raise UnusableDefinition(f"cannot be split into arguments: {error}", where) from None
    elif isinstance(run, Iterable) and all(isinstance(part, str) for part in cast("Iterable[object]", run)):
        argv = tuple(cast("Iterable[str]", run))
        if shell:
            raise UnusableDefinition("with shell = true it must be one string", where)
    else:
        raise UnusableDefinition(f"must be a string or a list of strings, not {run!r}", where)
    if not argv or not argv[0]:
        raise UnusableDefinition("is empty", where)
    return Command(argv, shell, name, timeout_s, MappingProxyType(dict(env)), cwd)


def duration_s(value: object, where: str = "timeout") -> float:
    """Seconds from a number, or from a text such as ``"10m"``, ``"1h30m"``, ``"250ms"``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value.replace(" ", ""))) is not None and any(match.groups()):
        scale = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        return sum(float(number) * scale[unit] for unit, number in match.groupdict().items() if number is not None)
    raise UnusableDefinition(f'must be seconds or a text such as "10m", "1h30m", "250ms", not {value!r}', where)


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value)):
        return tuple(cast("list[str]", value))
    raise UnusableDefinition(f"must be a list of names, not {value!r}", where)


def _environment(value: object, where: str) -> Mapping[str, str]:
    if isinstance(value, Mapping) and all(isinstance(item, str | int | float) for item in cast("Mapping[str, object]", value).values()):
        return MappingProxyType({
            str(key): str(item).lower() if isinstance(item, bool) else str(item) for key, item in cast("Mapping[str, object]", value).items()
        })
    raise UnusableDefinition(f"must be a table of texts, not {value!r}", where)


def _path(value: object, where: str) -> Path | None:
    if value is None:
        return None
    if isinstance(value, str) and value:
        return Path(value)
    raise UnusableDefinition(f"must be a folder, not {value!r}", where)


def _boolean(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise UnusableDefinition(f"must be true or false, not {value!r}", where)


def _known(table: Mapping[str, object], known: Sequence[str], path: str) -> None:
    for key in table:
        if key not in known:
            raise UnusableDefinition(f"unknown key {key!r}{_near(key, known)}", f"{path}.{key}" if path else key)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
