"""Findings of ``spanbus doctor`` and their report."""

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
"""All checks, in display order."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check. ``message`` is the observation, ``todo`` the advice. Both may contain text from other programs."""

    check: str
    state: State
    message: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A setting or variable with its value and origin."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings in the order of :data:`CHECKS`, with the settings in effect."""

    findings: Sequence[Finding]
    settings: Sequence[Row]
    environment: Sequence[Row]

    @property
    def wrong(self) -> bool:
        """Whether any finding is ``wrong``; warnings do not count."""
        return any(finding.state is State.WRONG for finding in self.findings)

    def counts(self) -> Mapping[State, int]:
        return {state: sum(finding.state is state for finding in self.findings) for state in State}

    def document(self) -> dict[str, object]:
        """Return the document that ``--json`` prints."""
        return {
            "version": __version__,
            "good": not self.wrong,
            "totals": {str(state): count for state, count in self.counts().items()},
            "checks": [
                {
                    "check": one.check,
                    "state": str(one.state),
                    "message": one.message,
                    "todo": one.todo,
                }
                for one in self.findings
            ],
            "settings": [
                {"name": row.name, "value": row.value, "origin": row.origin}
                for row in self.settings
            ],
            "environment": [{"name": row.name, "value": row.value} for row in self.environment],
        }


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings into display order (stable)."""
    return sorted(findings, key=lambda finding: CHECKS.index(finding.check))


def ok(check: str, message: str, todo: str = "") -> Finding:
    return Finding(check, State.OK, message, todo)


def warning(check: str, message: str, todo: str) -> Finding:
    return Finding(check, State.WARNING, message, todo)


def wrong(check: str, message: str, todo: str) -> Finding:
    return Finding(check, State.WRONG, message, todo)


def not_configured(check: str, message: str, todo: str = "") -> Finding:
    return Finding(check, State.NOT_CONFIGURED, message, todo)


def bad(check: str, message: str, todo: str, *, ours: bool) -> Finding:
    """Return a ``wrong`` finding if the server belongs to our setup, otherwise a warning."""
    return Finding(check, State.WRONG if ours else State.WARNING, message, todo)
