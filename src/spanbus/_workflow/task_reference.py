"""Reference from a workflow definition to a task of a queue, resolved by the queue's integration when a run begins."""

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
    """A task of a queue. ``path`` is ``module:task``; ``args`` and ``kwargs`` are the task's arguments."""

    task_type: str
    path: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    queue: str | None = None

    def __call__(self) -> object:
        """Raise ``TypeError``: a reference is a placeholder that is resolved before it is called."""
        raise TypeError(f"{self.path} is resolved by the engine")


def resolved(workflow: Workflow, folder: Path) -> Workflow:
    """Return ``workflow`` with its task references resolved; ``folder`` is searched for modules too.

    Raises :class:`~spanbus.errors.DefinitionError` for a missing task, :class:`~spanbus.errors.InputError` if the library of
    the queue is not installed.
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
    """Return the action for a task, by ``referenced`` of the lazily imported integration."""
    module = import_module(f"spanbus.integrations._{reference.task_type}_phase")
    return module.referenced(reference, folder)
