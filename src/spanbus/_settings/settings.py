"""Resolved settings, and the workflows of their file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from spanbus._named_tuple import NamedTuple
from spanbus._suggest import did_you_mean
from spanbus._toml_lines import NO_LINES, Lines
from spanbus._workflow.values import UnusableDefinition
from spanbus.errors import SettingsError

if TYPE_CHECKING:
    from spanbus._workflow.definition import Workflow

Events = Literal["span", "log", "both"]
LocalStore = Literal["auto", "on", "off"]
Output = Literal["local", "logs", "off"]
Delivery = Literal["spool", "sdk"]
MadeIn = Literal["here", "elsewhere"]
ObserveDurable = Literal["delivered", "spool"]
ExceptionSignal = Literal["logs", "logs/dup"]

STORE_NAME = "store.sqlite3"
"""File name of the local store in the state directory."""
NOTHING: Mapping[str, object] = MappingProxyType({})
_NO_DIALECTS: Mapping[str, Path] = MappingProxyType({})
_HIDDEN = frozenset({"tables", "lines"})
_NO_ORIGIN: Mapping[str, str] = MappingProxyType({})


class Settings(NamedTuple):
    """Resolved settings; ``origin`` names the source of each."""

    state_dir: Path
    events: Events = "span"
    exit_timeout_s: float = 0.25
    ci_exit_timeout_s: float = 5.0
    delivery: Delivery = "spool"
    spool_quota_bytes: int = 256 * 2**20
    local: LocalStore = "auto"
    store_days: int = 30
    store_bytes: int = 512 * 2**20
    store_logs_bytes: int = 256 * 2**20
    output: Output = "local"
    redact: bool = True
    redact_patterns: tuple[str, ...] = ()
    payload_allow: tuple[str, ...] = ()
    nats_url: str = ""
    nats_creds: str = ""
    nats_stream: str = "SPANBUS"
    telemetry: MadeIn = "here"
    observe_durable: ObserveDurable = "delivered"
    observe_settle_s: float = 2.0
    observe_lost_after_s: float = 300.0
    lifetime: Literal["run", "service"] | None = None
    dialects: Mapping[str, Path] = _NO_DIALECTS
    default_workflow: str | None = None
    sdk_disabled: bool = False
    exception_signal: ExceptionSignal | None = None
    endpoint_configured: bool = False
    file: Path | None = None
    origin: Mapping[str, str] = _NO_ORIGIN
    warnings: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Settings that a found file may not make."""
    refused: frozenset[str] = frozenset()
    """Environment variables with unusable values; empty unless ``load_settings`` was called with ``strict`` False."""
    tables: Mapping[str, object] = NOTHING
    lines: Lines = NO_LINES
    prefix: str = ""

    def __repr__(self) -> str:
        """Omit the tables of the file, which may hold secrets."""
        shown = (
            f"{name}={value!r}" for name, value in self._asdict().items() if name not in _HIDDEN
        )
        return f"Settings({', '.join(shown)})"

    @property
    def workflow_names(self) -> tuple[str, ...]:
        """Names of the workflows in the file, valid or not."""
        return tuple(self.tables)

    def workflow(self, name: str | None = None) -> Workflow:
        """Build a workflow: the named one, else ``default_workflow``, the only one, or ``default``.

        Raises :class:`~spanbus.errors.SettingsError`, with file and line, for a missing or invalid one.
        """
        from spanbus._workflow.definition import Workflow

        names = self.workflow_names
        where = (
            str(self.file)
            if self.file is not None
            else "no spanbus.toml or pyproject.toml with [tool.spanbus] here or above"
        )
        chosen = (
            name
            or self.default_workflow
            or (names[0] if len(names) == 1 else "default" if "default" in names else None)
        )
        if not names:
            raise SettingsError(
                f"{where}: no workflow is defined; add [tool.spanbus.workflows.NAME] with its phases, or use `spanbus exec -- COMMAND`"
            )
        if chosen is None:
            raise SettingsError(
                f"{where}: which workflow? There are {', '.join(names)}; name one, or set default_workflow"
            )
        if chosen not in self.tables:
            raise SettingsError(
                f"{where}: no workflow {chosen!r}{did_you_mean(chosen, names, quoted=False)}; there are {', '.join(names)}"
            )
        path = f"{self.prefix}workflows.{chosen}"
        table = self.tables[chosen]
        if not isinstance(table, Mapping):
            raise SettingsError(f"{self._at(path)}: workflow {chosen!r} is not a table")
        try:
            return Workflow.from_mapping(chosen, cast("Mapping[str, object]", table))
        except UnusableDefinition as error:
            inner = f"{path}.{error.path}" if error.path else path
            raise SettingsError(f"{self._at(inner)}: {inner}: {error.message}") from None

    def usable(self, env: Mapping[str, str]) -> Mapping[str, str]:
        """``env`` without the refused variables, so that the next reader falls back to their defaults."""
        return (
            {name: value for name, value in env.items() if name not in self.refused}
            if self.refused
            else env
        )

    def _at(self, path: str) -> str:
        line = self.lines.near(path)
        return f"{self.file}:{line}" if line is not None else str(self.file)
