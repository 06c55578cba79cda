"""Build a workflow from decoded TOML; errors name the path of the faulty value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

from spanbus._suggest import did_you_mean
from spanbus._workflow.definition import (
    ACTIONS,
    Command,
    Phase,
    UnusableDefinition,
    Workflow,
    command,
    duration_s,
)
from spanbus._workflow.task_reference import TaskReference

WORKFLOW_KEYS = ("phases", "description")
PHASE_KEYS = (
    "name",
    "action",
    "hooks",
    "run",
    "celery",
    "args",
    "kwargs",
    "queue",
    "shell",
    "needs",
    "timeout",
    "timeout_s",
    "retries",
    "retry_backoff",
    "when",
    "env",
    "cwd",
    "description",
    "tty",
)
HOOK_KEYS = ("name", "run", "shell", "timeout", "timeout_s", "env", "cwd")


def workflow(name: str, table: Mapping[str, object]) -> Workflow:
    """Build a workflow. Raises :class:`UnusableDefinition` with the path of the faulty value."""
    _known(table, WORKFLOW_KEYS, "")
    phases = table.get("phases")
    if not isinstance(phases, list):
        raise UnusableDefinition("a workflow must have a list of tables named phases", "phases")
    return Workflow(
        name,
        tuple(
            _phase(entry, f"phases[{index}]")
            for index, entry in enumerate(cast("list[object]", phases))
        ),
        _description(table, ""),
    )


def _phase(entry: object, path: str) -> Phase:
    if not isinstance(entry, Mapping):
        raise UnusableDefinition("a phase is a table", path)
    table = cast("Mapping[str, object]", entry)
    _known(table, PHASE_KEYS, path)
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise UnusableDefinition("a phase needs a name", f"{path}.name")
    action = table.get("action", "command")
    task = _task(table, path)
    if not isinstance(action, str):
        raise UnusableDefinition(f"action must be one of {', '.join(ACTIONS)}", f"{path}.action")
    hooks = table.get("hooks", [])
    if not isinstance(hooks, list):
        raise UnusableDefinition("hooks must be a list of tables", f"{path}.hooks")
    shell = _boolean(table.get("shell", False), f"{path}.shell")
    run = table.get("run")
    retries = table.get("retries", 0)
    if not isinstance(retries, int) or isinstance(retries, bool):
        raise UnusableDefinition(
            f"retries must be a whole number, not {retries!r}", f"{path}.retries"
        )
    when = table.get("when", "success")
    if when not in ("success", "always", "failure"):
        raise UnusableDefinition(
            f"when must be success, always or failure, not {when!r}", f"{path}.when"
        )
    backoff_s = duration_s(table.get("retry_backoff", 0.5), f"{path}.retry_backoff")
    try:
        return Phase(
            name,
            task or action,
            needs=_strings(table.get("needs", []), f"{path}.needs"),
            hooks=tuple(
                _hook(hook, f"{path}.hooks[{index}]")
                for index, hook in enumerate(cast("list[object]", hooks))
            ),
            command=command(run, shell=shell, where=f"{path}.run") if run is not None else None,
            timeout_s=_timeout_s(table, path),
            retries=retries,
            retry_backoff_s=backoff_s,
            when=when,
            env=_environment(table.get("env", {}), f"{path}.env"),
            cwd=_path(table.get("cwd"), f"{path}.cwd"),
            description=_description(table, path),
            tty=_boolean(table.get("tty", True), f"{path}.tty"),
        )
    except UnusableDefinition as error:
        if error.path.startswith(path):
            raise
        raise UnusableDefinition(
            error.message, f"{path}.{error.path}" if error.path else path
        ) from None


def _task(table: Mapping[str, object], path: str) -> TaskReference | None:
    """Return the task named by ``celery = "module:task"``, which runs instead of commands; None without one."""
    named = table.get("celery")
    if named is None:
        for key in ("args", "kwargs", "queue"):
            if key in table:
                raise UnusableDefinition(
                    f'{key} is for a task; name it by celery = "module:task"', f"{path}.{key}"
                )
        return None
    if not isinstance(named, str) or not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", named):
        raise UnusableDefinition(
            f'must name a task as "module:task", not {named!r}', f"{path}.celery"
        )
    for key in ("action", "run", "hooks", "shell"):
        if key in table:
            raise UnusableDefinition(
                f"a phase whose work a task does has no {key}; leave out one of the two",
                f"{path}.{key}",
            )
    args, kwargs, queue = table.get("args", []), table.get("kwargs", {}), table.get("queue")
    if not isinstance(args, list):
        raise UnusableDefinition(f"must be an array, not {args!r}", f"{path}.args")
    if not isinstance(kwargs, Mapping):
        raise UnusableDefinition(f"must be a table, not {kwargs!r}", f"{path}.kwargs")
    if queue is not None and (not isinstance(queue, str) or not queue):
        raise UnusableDefinition(f"must be the name of a queue, not {queue!r}", f"{path}.queue")
    return TaskReference(
        "celery",
        named,
        tuple(cast("list[object]", args)),
        MappingProxyType(dict(cast("Mapping[str, object]", kwargs))),
        queue,
    )


def _hook(entry: object, path: str) -> Command:
    if not isinstance(entry, Mapping):
        raise UnusableDefinition("a hook is a table with name and run", path)
    table = cast("Mapping[str, object]", entry)
    _known(table, HOOK_KEYS, path)
    if "run" not in table:
        raise UnusableDefinition("a hook needs run, the command to run", path)
    name = table.get("name")
    if name is not None and (not isinstance(name, str) or not name):
        raise UnusableDefinition(f"a hook's name must be a text, not {name!r}", f"{path}.name")
    made = command(
        table["run"],
        shell=_boolean(table.get("shell", False), f"{path}.shell"),
        where=f"{path}.run",
        timeout_s=_timeout_s(table, path),
        env=_environment(table.get("env", {}), f"{path}.env"),
        cwd=_path(table.get("cwd"), f"{path}.cwd"),
    )
    return Command(
        made.argv, made.shell, name or made.executable, made.timeout_s, made.env, made.cwd
    )


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(
        isinstance(item, str) for item in cast("list[object]", value)
    ):
        return tuple(cast("list[str]", value))
    raise UnusableDefinition(f"must be a list of names, not {value!r}", where)


def _environment(value: object, where: str) -> Mapping[str, str]:
    if isinstance(value, Mapping) and all(
        isinstance(item, str | int | float) for item in cast("Mapping[str, object]", value).values()
    ):
        return MappingProxyType(
            {
                str(key): str(item).lower() if isinstance(item, bool) else str(item)
                for key, item in cast("Mapping[str, object]", value).items()
            }
        )
    raise UnusableDefinition(f"must be a table of strings, not {value!r}", where)


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


def _timeout_s(table: Mapping[str, object], path: str) -> float | None:
    """Return the timeout of a table, written as ``timeout`` or, as in Python, ``timeout_s``."""
    given = [key for key in ("timeout", "timeout_s") if key in table]
    if len(given) > 1:
        raise UnusableDefinition("timeout and timeout_s are the same; give one", f"{path}.timeout")
    return duration_s(table[given[0]], f"{path}.{given[0]}") if given else None


def _description(table: Mapping[str, object], path: str) -> str | None:
    value = table.get("description")
    if value is None or isinstance(value, str):
        return value
    raise UnusableDefinition(
        f"must be a text, not {value!r}", f"{path}.description" if path else "description"
    )


def _known(table: Mapping[str, object], known: Sequence[str], path: str) -> None:
    for key in table:
        if key not in known:
            listed = ", ".join(each for each in known if each != "timeout_s")
            raise UnusableDefinition(
                f"unknown key {key!r}{did_you_mean(key, known)}; known are {listed}",
                f"{path}.{key}" if path else key,
            )
