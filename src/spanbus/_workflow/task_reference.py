"""A task of a queue that a definition names, and its action, which the integration of its kind makes when a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanbus._workflow.definition import Workflow


@dataclass(frozen=True, slots=True)
class TaskReference:
    """``path`` is ``module:task``; ``args`` and ``kwargs`` are the task's."""

    task_type: str
    path: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    queue: str | None = None

    def __call__(self) -> object:
        """Stands in for its action until a run begins, and is never called."""
        raise TypeError(f"{self.path} is resolved by the engine")


def resolved(workflow: Workflow, folder: Path) -> Workflow:
    """``workflow`` with the tasks that it names, looked for in ``folder`` too.

    Raises :class:`~spanbus.errors.DefinitionError` for a task that is not there, :class:`~spanbus.errors.InputError` where
    the library of its queue is not installed.
    """
    if not any(isinstance(phase.action, TaskReference) for phase in workflow.phases):
        return workflow
    phases = [
        replace(phase, action=_action(phase.action, folder))
        if isinstance(phase.action, TaskReference)
        else phase
        for phase in workflow.phases
    ]
    return replace(workflow, phases=tuple(phases))


def _action(reference: TaskReference, folder: Path) -> object:
    """Made by ``referenced`` of the integration, which is loaded for a workflow that uses it, and else not."""
    module = import_module(f"spanbus.integrations._{reference.task_type}_phase")
    return module.referenced(reference, folder)
