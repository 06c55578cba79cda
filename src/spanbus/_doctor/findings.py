"""Findings of an examination, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from spanbus._version import __version__


class State(StrEnum):
    """State of one check."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    NOT_CONFIGURED = "not_configured"


CHECKS = (
    "settings",
    "workflows",
    "dialects",
    "telemetry",
    "temporality",
    "packages",
    "state_dir",
    "spool",
    "store",
    "backend",
    "collector",
    "collector.traces",
    "collector.metrics",
    "collector.logs",
    "jaeger",
    "jaeger.trace",
    "prometheus",
    "prometheus.series",
    "prometheus.rules",
    "prometheus.alerting",
    "alertmanager",
    "nats",
    "nats.sampler",
    "nats.clocks",
    "clock",
)
"""Every check, in the order in which it is shown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``said`` is what was seen, ``todo`` what to do about it; both may hold words of somebody else's program."""

    check: str
    state: State
    said: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A setting or variable with its value, and where that came from."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, in the order of :data:`CHECKS`."""

    findings: Sequence[Finding]
    settings: Sequence[Row]
    environment: Sequence[Row]

    @property
    def wrong(self) -> bool:
        """Whether anything is; a warning is not."""
        return any(finding.state is State.WRONG for finding in self.findings)

    def counts(self) -> Mapping[State, int]:
        return {state: sum(finding.state is state for finding in self.findings) for state in State}

    def document(self) -> dict[str, object]:
        """Document that ``--json`` prints."""
        return {
            "version": __version__,
            "good": not self.wrong,
            "totals": {str(state): count for state, count in self.counts().items()},
            "checks": [
                {"check": one.check, "state": str(one.state), "message": one.said, "todo": one.todo}
                for one in self.findings
            ],
            "settings": [
                {"name": row.name, "value": row.value, "origin": row.origin}
                for row in self.settings
            ],
            "environment": [{"name": row.name, "value": row.value} for row in self.environment],
        }


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings for reading; those of one check keep their order."""
    return sorted(findings, key=lambda finding: CHECKS.index(finding.check))


def ok(check: str, said: str, todo: str = "") -> Finding:
    return Finding(check, State.OK, said, todo)


def warning(check: str, said: str, todo: str) -> Finding:
    return Finding(check, State.WARNING, said, todo)


def wrong(check: str, said: str, todo: str) -> Finding:
    return Finding(check, State.WRONG, said, todo)


def not_configured(check: str, said: str, todo: str = "") -> Finding:
    return Finding(check, State.NOT_CONFIGURED, said, todo)


def bad(check: str, said: str, todo: str, *, ours: bool) -> Finding:
    """Wrong where it belongs to our collector; else it may be somebody else's."""
    return Finding(check, State.WRONG if ours else State.WARNING, said, todo)
