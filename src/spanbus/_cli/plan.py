"""The phases of a workflow in execution order, without running them."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spanbus._workflow.definition import Command, Phase, Workflow

if TYPE_CHECKING:
    from spanbus._cli.screen import Screen
    from spanbus._settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow and the names of its deselected phases."""

    workflow: Workflow
    left_out: tuple[str, ...]

    @classmethod
    def of(
        cls,
        workflow: Workflow,
        *,
        only: Collection[str] = (),
        skip: Collection[str] = (),
        with_needs: bool = False,
    ) -> Plan:
        """Select phases. Raises :class:`~spanbus.errors.DefinitionError` for an unknown name."""
        for name in (*only, *skip):
            workflow.phase(name)
        wanted = set(only) or {phase.name for phase in workflow.phases}
        if with_needs:
            ancestors = workflow.ancestors()
            wanted = wanted.union(*(ancestors[name] for name in wanted))
        return cls(
            workflow,
            tuple(
                phase.name
                for phase in workflow.phases
                if phase.name not in wanted or phase.name in skip
            ),
        )

    def show(self, screen: Screen, *, commands: bool, as_json: bool) -> None:
        """Print the phases in execution order."""
        phases = self.workflow.in_order()
        if commands:
            phases = tuple(phase for phase in phases if phase.name not in self.left_out)
        if as_json:
            from spanbus._cli import console

            console.document(
                {
                    "workflow": self.workflow.name,
                    "phases": [_document(phase, phase.name in self.left_out) for phase in phases],
                }
            )
            return
        from spanbus._cli import console
        from spanbus._cli.screen import Text

        title = Text(self.workflow.name, "bold")
        if self.workflow.description:
            title.append(f"  {self.workflow.description}", "dim")
        console.draw(screen, title)
        wide = max(len(phase.name) for phase in phases) if phases else 0
        for number, phase in enumerate(phases, 1):
            line = Text(f"{number:>3}. ", "dim")
            parts = [phase.type if phase.type != "command" else ""]
            parts.append(f"needs {', '.join(phase.needs)}" if phase.needs else "")
            parts.append(f"when {phase.when}" if phase.when in ("always", "failure") else "")
            parts.append("only when its function says so" if callable(phase.when) else "")
            parts.append(f"time-out {phase.timeout_s:g} s" if phase.timeout_s else "")
            parts.append(f"up to {phase.retries + 1} attempts" if phase.retries else "")
            parts.append("left out" if phase.name in self.left_out else "")
            about = "; ".join(filter(None, parts))
            line.append(f"{phase.name:<{wide}}" if about else phase.name, "bold")
            line.append(f"  {about}" if about else "", "dim")
            console.draw(screen, line)
            if phase.description:
                console.draw(screen, Text(f"     {phase.description}"))
            if commands:
                for each in phase.commands:
                    console.draw(screen, Text(f"     $ {_line(each)}", "cyan"))
        if commands and self.left_out:
            console.draw(screen, Text(left_out_line(self.left_out), "dim"))


def left_out_line(names: Collection[str]) -> str:
    """Return one line that names the deselected phases."""
    return f"left out: {', '.join(names)}"


def list_workflows(settings: Settings, screen: Screen, *, as_json: bool) -> None:
    """Print the workflows of the settings with their phases, or with the error of an invalid one."""
    from spanbus._cli import console
    from spanbus.errors import SettingsError

    if not settings.workflow_names:
        settings.workflow()  # raises the error for undefined workflows
    found: list[dict[str, object]] = []
    for name in settings.workflow_names:
        try:
            workflow = settings.workflow(name)
        except SettingsError as error:
            found.append({"name": name, "error": str(error)})
            continue
        found.append(
            {
                "name": name,
                "description": workflow.description,
                "phases": [phase.name for phase in workflow.in_order()],
            }
        )
    if as_json:
        console.document(found)
        return
    from spanbus._cli.screen import Text

    wide = max(len(str(each["name"])) for each in found)
    for each in found:
        line = Text(f"{each['name']!s:<{wide}}  ", "bold")
        if "error" in each:
            line.append(str(each["error"]), "red")
        else:
            names = each["phases"]
            line.append(", ".join(names) if isinstance(names, list) else "")  # pyright: ignore[reportUnknownArgumentType]
            if each["description"]:
                line.append(f"  {each['description']}", "dim")
        console.draw(screen, line)


def _document(phase: Phase, left_out: bool) -> dict[str, object]:
    return {
        "name": phase.name,
        "description": phase.description,
        "action": phase.type,
        "needs": list(phase.needs),
        "when": phase.when if isinstance(phase.when, str) else "function",
        "timeout_s": phase.timeout_s,
        "retries": phase.retries,
        "left_out": left_out,
        "commands": [each.argv[0] if each.shell else list(each.argv) for each in phase.commands],
    }


def _line(command: Command) -> str:
    return command.argv[0] if command.shell else shlex.join(command.argv)
