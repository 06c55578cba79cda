"""Shell completion of values: names from the settings, stored runs."""

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
    """Complete workflows of the settings."""
    settings = _settings(ctx)
    return _beginning(settings.workflow_names if settings is not None else (), incomplete)


def phases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete phases of the named or default workflow."""
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
    """Complete ``last`` and the newest stored runs, with workflow and result as help."""
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
                    if _PLAIN.fullmatch(head.run_id)  # the shell inserts it unquoted
                ]
    return [each for each in found if each[0].startswith(incomplete)]


def results(incomplete: str) -> list[str]:
    """Complete results of runs, including ``failed``."""
    from spanbus._runs.listing import FAILED
    from spanbus._semantics import Result

    return _beginning((FAILED, *Result), incomplete)


def dialects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete built-in dialects and those of the settings."""
    settings = _settings(ctx)
    return _beginning(
        ("spanbus", "crackerjack", "generic", *(settings.dialects if settings is not None else ())),
        incomplete,
    )


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _settings(ctx: typer.Context) -> Settings | None:
    """Return the settings of the command line, or None on errors: completion cannot show a message."""
    from spanbus._settings import load_settings

    file = ctx.params.get("file")
    with suppress(SpanbusError, OSError):
        return load_settings(Path(str(file)) if file else None, tell=False)
    return None
