"""Findings and report of a diagnosis."""

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
"""All checks, in the order of the report."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: ``said`` is the observation, ``todo`` the advice. Both may quote foreign programs."""

    check: str
    state: State
    said: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A setting or variable with its value and origin."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of :data:`CHECKS`."""

    findings: Sequence[Finding]
    settings: Sequence[Row]
    environment: Sequence[Row]

    @property
    def wrong(self) -> bool:
        """Whether any finding is wrong; warnings do not count."""
        return any(finding.state is State.WRONG for finding in self.findings)

    def counts(self) -> Mapping[State, int]:
        return {state: sum(finding.state is state for finding in self.findings) for state in State}

    def document(self) -> dict[str, object]:
        """Document for ``--json``."""
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
    """Sort findings by check; those of one check keep their order."""
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
    """WRONG for a server of our stack; a warning for one that may be foreign."""
    return Finding(check, State.WRONG if ours else State.WARNING, said, todo)
