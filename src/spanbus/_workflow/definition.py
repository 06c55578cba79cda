"""Workflow definitions: phases with dependencies, validated at construction."""

from __future__ import annotations

import re
import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from spanbus._suggest import did_you_mean
from spanbus._workflow.functions import unusable_reason
from spanbus._workflow.shell_syntax import shell_syntax_in
from spanbus._workflow.values import UnusableDefinition, duration_s

When = Literal["success", "always", "failure"]
Condition = Callable[[Mapping[str, str]], bool]
PhaseFunction = Callable[..., object] | Callable[..., Awaitable[object]]

EMPTY_ENV: Mapping[str, str] = MappingProxyType({})
ACTIONS = ("fast_hooks", "code_cleaning", "comprehensive_hooks", "test_workflow", "command")
_ARGS = re.compile(r"\{args(?::([^{}]*))?\}")


def _no_env() -> Mapping[str, str]:
    return EMPTY_ENV


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its arguments, or with ``shell`` one line for ``/bin/sh``.

    ``timeout`` is an alternative to ``timeout_s``, and also takes a text such as ``"10m"``.
    """

    argv: tuple[str, ...]
    shell: bool = False
    name: str | None = None
    timeout_s: float | None = None
    env: Mapping[str, str] = field(default_factory=_no_env)
    cwd: Path | None = None
    timeout: InitVar[float | str | None] = None

    def __post_init__(self, timeout: float | str | None) -> None:
        if timeout is not None:
            object.__setattr__(self, "timeout_s", _one_timeout(self.timeout_s, timeout))

    @property
    def asks_for_arguments(self) -> bool:
        """Whether it contains ``{args}``."""
        return any(_ARGS.search(part) for part in self.argv)

    def with_arguments(self, arguments: Sequence[str]) -> Command:
        """Return the command with ``{args}`` replaced; a word that is exactly ``{args}`` becomes one word per argument."""
        said = shlex.join(arguments)
        argv: list[str] = []
        for part in self.argv:
            alone = _ARGS.fullmatch(part)
            if alone is not None and not self.shell:
                argv.extend(arguments or shlex.split(alone[1] or ""))
            else:
                argv.append(_ARGS.sub(lambda match: said or match[1] or "", part))
        return replace(self, argv=tuple(argv))

    @property
    def executable(self) -> str:
        """Name of the program without its path."""
        first = self.argv[0] if not self.shell else (self.argv[0].split() or ["sh"])[0]
        return Path(first).name or first


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase. ``action`` is the name of a built-in action, or a plain or async function.

    ``timeout_s`` applies to each attempt. ``retries`` counts attempts after the first; ``retry_backoff_s`` doubles with each.
    ``when`` decides whether it runs: if all needed phases succeeded (``success``), ``always``, if a phase upstream failed
    (``failure``), or by a function of the results of the needed phases (name to result).
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
    description: str | None = None
    tty: bool = True
    timeout: InitVar[float | str | None] = None

    def __post_init__(self, timeout: float | str | None) -> None:
        if timeout is not None:
            object.__setattr__(self, "timeout_s", _one_timeout(self.timeout_s, timeout))
        name, action, when = (
            cast("object", self.name),
            cast("object", self.action),
            cast("object", self.when),
        )  # callers without types
        if not isinstance(name, str) or not name or name != name.strip():
            raise UnusableDefinition(
                f"a phase needs a name without blanks around it, not {name!r}", "name"
            )
        if not isinstance(action, str) and not callable(action):
            raise UnusableDefinition(
                f"phase {name!r}: action must be a function or one of {', '.join(ACTIONS)}, not {action!r}",
                "action",
            )
        if not isinstance(action, str) and (why := unusable_reason(action)) is not None:
            raise UnusableDefinition(f"phase {name!r}: the action {why}", "action")
        if when not in ("success", "always", "failure") and not callable(when):
            raise UnusableDefinition(
                f"phase {name!r}: when must be success, always, failure or a function, not {when!r}",
                "when",
            )
        for key, number in (
            ("timeout_s", self.timeout_s),
            ("retries", self.retries),
            ("retry_backoff_s", self.retry_backoff_s),
        ):
            if number is not None and (
                not isinstance(cast("object", number), int | float) or isinstance(number, bool)
            ):
                raise UnusableDefinition(
                    f"phase {name!r}: {key} must be a number, not {number!r}", key
                )
        if isinstance(self.action, str) and self.action not in ACTIONS:
            raise UnusableDefinition(
                f"phase {self.name!r}: unknown action {self.action!r}{did_you_mean(self.action, ACTIONS)}; there are {', '.join(ACTIONS)}",
                "action",
            )
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UnusableDefinition(
                f"phase {self.name!r}: timeout must be greater than 0, not {self.timeout_s!r} s",
                "timeout",
            )
        if self.retries < 0:
            raise UnusableDefinition(
                f"phase {self.name!r}: retries must be 0 or more, not {self.retries}", "retries"
            )
        if self.retry_backoff_s < 0:
            raise UnusableDefinition(
                f"phase {self.name!r}: retry_backoff must be 0 or more, not {self.retry_backoff_s}",
                "retry_backoff",
            )
        object.__setattr__(
            self, "needs", (self.needs,) if isinstance(self.needs, str) else tuple(self.needs)
        )
        if isinstance(self.action, str) and self.command is None and not self.hooks:
            of_hooks = self.action in ("fast_hooks", "comprehensive_hooks")
            missing = "hooks are missing" if of_hooks else "run is missing"
            raise UnusableDefinition(
                f"phase {self.name!r} has nothing to do: {missing} (command=... or action=a function in Python)"
            )

    @property
    def commands(self) -> tuple[Command, ...]:
        """All commands that it runs, in order."""
        return (*self.hooks, *((self.command,) if self.command is not None else ()))

    @property
    def type(self) -> str:
        """``cicd.pipeline.task.type``: the name of a built-in action, the function's ``task_type``, or ``function``."""
        if isinstance(self.action, str):
            return self.action
        said = getattr(self.action, "task_type", None)
        return said if isinstance(said, str) else "function"


@dataclass(frozen=True, slots=True)
class Workflow:
    """Phases that form a directed acyclic graph. Raises :class:`~spanbus.errors.DefinitionError` if they do not."""

    name: str
    phases: tuple[Phase, ...]
    description: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        if not self.name:
            raise UnusableDefinition("a workflow needs a name")
        if not self.phases:
            raise UnusableDefinition(f"workflow {self.name!r} has no phases", "phases")
        names: dict[str, int] = {}
        for index, phase in enumerate(self.phases):
            if phase.name in names:
                raise UnusableDefinition(
                    f"workflow {self.name!r} has two phases named {phase.name!r}",
                    f"phases[{index}].name",
                )
            names[phase.name] = index
        for index, phase in enumerate(self.phases):
            for need in phase.needs:
                if need not in names:
                    raise UnusableDefinition(
                        f"phase {phase.name!r} needs {need!r}, which is not a phase{did_you_mean(need, names)}",
                        f"phases[{index}].needs",
                    )
        try:
            TopologicalSorter({phase.name: phase.needs for phase in self.phases}).prepare()
        except CycleError as error:
            cycle = [str(name) for name in cast("Sequence[object]", error.args[1])]
            raise UnusableDefinition(
                f"workflow {self.name!r} has a dependency cycle: {' needs '.join(reversed(cycle))}",
                f"phases[{names[cycle[0]]}].needs",
            ) from None

    def phase(self, name: str) -> Phase:
        """Return the phase of this name. Raises :class:`~spanbus.errors.DefinitionError`, which suggests the nearest one."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise UnusableDefinition(
            f"workflow {self.name!r} has no phase {name!r}{did_you_mean(name, [phase.name for phase in self.phases])}"
        )

    def ancestors(self) -> dict[str, frozenset[str]]:
        """Return the direct and indirect dependencies of each phase."""
        needs = {phase.name: phase.needs for phase in self.phases}
        found: dict[str, frozenset[str]] = {}
        for name in TopologicalSorter(needs).static_order():
            found[name] = frozenset(needs[name]).union(*(found[need] for need in needs[name]))
        return found

    def in_order(self) -> tuple[Phase, ...]:
        """Return the phases in definition order, but each after the phases that it needs."""
        done: set[str] = set()
        ordered: list[Phase] = []
        waiting = list(self.phases)
        while waiting:
            phase = next(each for each in waiting if done.issuperset(each.needs))
            waiting.remove(phase)
            done.add(phase.name)
            ordered.append(phase)
        return tuple(ordered)

    def with_arguments(self, arguments: Sequence[str]) -> Workflow:
        """Return the workflow with ``{args}`` replaced in its commands.

        Raises :class:`~spanbus.errors.DefinitionError` when arguments are given and no command contains ``{args}``.
        """
        commands = [each for phase in self.phases for each in phase.commands]
        if not any(each.asks_for_arguments for each in commands):
            if arguments:
                raise UnusableDefinition(
                    f'no phase of workflow {self.name!r} takes arguments; put {{args}} where they belong, such as run = "pytest {{args}}"'
                )
            return self
        phases = (
            replace(
                phase,
                hooks=tuple(each.with_arguments(arguments) for each in phase.hooks),
                command=phase.command.with_arguments(arguments) if phase.command else None,
            )
            for phase in self.phases
        )
        return replace(self, phases=tuple(phases))

    @classmethod
    def from_mapping(cls, name: str, table: Mapping[str, object]) -> Workflow:
        """Build a workflow from decoded TOML. Raises :class:`UnusableDefinition` with the path of the faulty value."""
        from spanbus._workflow.tables import workflow

        return workflow(name, table)


def command(
    run: object,
    *,
    shell: bool = False,
    where: str = "run",
    name: str | None = None,
    timeout_s: float | None = None,
    env: Mapping[str, str] = EMPTY_ENV,
    cwd: Path | None = None,
) -> Command:
    """Build a command from a string, split as a shell would, or from a list of arguments."""
    if isinstance(run, str):
        if shell:
            argv: tuple[str, ...] = (run,) if run.strip() else ()
        else:
            if (meant := shell_syntax_in(run)) is not None:
                raise UnusableDefinition(
                    f"{meant} needs a shell, and no shell runs it; set shell = true, or quote it if it is meant as it stands",
                    where,
                )
            try:
                whole = _ARGS.sub(_in_one_word, run)
                argv = tuple(shlex.split(whole))
            except ValueError as error:
                raise UnusableDefinition(
                    f"cannot be split into arguments: {error}", where
                ) from None
    elif isinstance(run, Iterable) and all(
        isinstance(part, str) for part in cast("Iterable[object]", run)
    ):
        argv = tuple(cast("Iterable[str]", run))
        if shell:
            raise UnusableDefinition("with shell = true it must be one string", where)
    else:
        raise UnusableDefinition(f"must be a string or a list of strings, not {run!r}", where)
    if not argv or not argv[0]:
        raise UnusableDefinition("is empty", where)
    return Command(argv, shell, name, timeout_s, MappingProxyType(dict(env)), cwd)


def _in_one_word(placeholder: re.Match[str]) -> str:
    """Quote a placeholder whose default contains blanks, so that splitting keeps it in one word."""
    return shlex.quote(placeholder[0]) if " " in placeholder[0] else placeholder[0]


def _one_timeout(timeout_s: float | None, timeout: float | str) -> float:
    if timeout_s is not None:
        raise UnusableDefinition("timeout and timeout_s are the same; give one", "timeout")
    return duration_s(timeout, "timeout")
