"""Shell completion beside options: the names that a project defines, the runs that were stored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from spanbus.errors import SpanbusError

if TYPE_CHECKING:
    from spanbus._settings import Settings

_RUNS = 30
_PLAIN = re.compile(r"[\w.:/@+=-]{1,256}", re.ASCII)


def workflows(ctx: typer.Context, incomplete: str) -> list[str]:
    """The workflows of the settings."""
    settings = _settings(ctx)
    return _beginning(settings.workflow_names if settings is not None else (), incomplete)


def phases(ctx: typer.Context, incomplete: str) -> list[str]:
    """The phases of the workflow that the line names, or of the default one."""
    settings, named = _settings(ctx), ctx.params.get("workflow")
    if settings is None:
        return []
    with suppress(SpanbusError):
        return _beginning(
            (
                phase.name
                for phase in settings.workflow(named if isinstance(named, str) else None).phases
            ),
            incomplete,
        )
    return []


def runs(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """``last`` with the newest stored runs, each with its workflow and result."""
    from spanbus._cli.draw import seconds, word
    from spanbus._runs.sanitize import one_line
    from spanbus._runtime import STORE_NAME
    from spanbus._store.store import Store

    found = [("last", "the newest run")]
    settings = _settings(ctx)
    with suppress(SpanbusError):
        if settings is not None and (settings.state_dir / STORE_NAME).exists():
            with Store.open_to_read(settings.state_dir / STORE_NAME) as store:
                found += [
                    (
                        head.run_id,
                        f"{one_line(head.workflow, 40)}, {word(head.result)}, {seconds(head.duration_s)}",
                    )
                    for head in store.run_heads(limit=_RUNS)
                    if _PLAIN.fullmatch(
                        head.run_id
                    )  # a shell puts it on its line as it is, and runs what looks like a command
                ]
    return [each for each in found if each[0].startswith(incomplete)]


def results(incomplete: str) -> list[str]:
    """Results of runs, and the group of those that count as a failure."""
    from spanbus._runs.listing import FAILED
    from spanbus._semantics import Result

    return _beginning((FAILED, *Result), incomplete)


def dialects(ctx: typer.Context, incomplete: str) -> list[str]:
    """The dialects that are built in or in the settings."""
    settings = _settings(ctx)
    return _beginning(
        ("spanbus", "crackerjack", "generic", *(settings.dialects if settings is not None else ())),
        incomplete,
    )


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _settings(ctx: typer.Context) -> Settings | None:
    """Those of the line; None where they cannot be used, because a shell that completes has no place for a message."""
    from spanbus._settings import load_settings

    file = ctx.params.get("file")
    with suppress(SpanbusError, OSError):
        return load_settings(Path(str(file)) if file else None, tell=False)
    return None
