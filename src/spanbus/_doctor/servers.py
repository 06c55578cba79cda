"""Checks of Jaeger, Prometheus and Alertmanager through their APIs.

Answers are only trusted if they have the form of the respective API.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from spanbus._doctor.asking import Answer, Server, Silence, ask, at, each, text
from spanbus._doctor.findings import Finding, bad, not_configured, ok, warning
from spanbus._doctor.probe import POINTS
from spanbus._pluralize import pluralize
from spanbus._runs.format import duration
from spanbus._semantics import names

RECORDING_RULES = (
    "spanbus:phase_failures:15m",
    "spanbus:phase_runs:1h",
    "spanbus:phase_last_failure:timestamp",
    "spanbus:phase_last_success:timestamp",
    "spanbus:workflow_last_run:timestamp",
    "spanbus:phase_duration:p95_1h",
    "spanbus:phase_last_run:timestamp",
    "spanbus:phase_away:seconds",
    "spanbus:phase_usual_interval:seconds",
    "spanbus:workflow_away:seconds",
    "spanbus:workflow_usual_interval:seconds",
    "spanbus:queue_wait:p95_15m",
)
ALERTS = (
    "WorkflowPhaseFailing",
    "WorkflowPhaseFailed",
    "WorkflowPhaseToldAsFailing",
    "PhaseFailureBudgetBurn",
    "PhaseSlow",
    "WorkflowDidNotRun",
    "WorkflowRunStalled",
    "TelemetryLost",
    "SpoolAging",
    "CollectorDown",
    "JaegerDown",
    "QueueGrowing",
    "StreamLimit",
    "Watchdog",
    "ObserversLag",
    "ObserversGone",
    "EventsLost",
    "CheckpointStands",
    "ClockWrong",
    "QueueWaits",
)
"""Rules in deploy/prometheus; a test compares them."""
_NOT_REPORTED = frozenset({"WorkflowPhaseToldAsFailing", "Watchdog"})
"""Alerts without a notification: the first inhibits another, the second always fires to show that alerting works."""

_SAMPLE = re.compile(
    rb"^" + names.DOCTOR_POINTS_PROMETHEUS.encode() + rb"(?:\{[^}\n]*\})? ([0-9.eE+]+)",
    re.MULTILINE,
)

_TITLES = {"jaeger": "Jaeger", "prometheus": "Prometheus", "alertmanager": "Alertmanager"}


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of looking for a server; ``there`` if it can be queried further."""

    finding: Finding
    there: bool
    skew_s: float | None = None


def _missing(check: str, where: Server, silence: Silence, start: str) -> Seen:
    if not where.configured and silence.refused:
        return Seen(
            not_configured(
                check, f"not found at {where.url}", f"--{check} URL names another place"
            ),
            False,
        )
    message = (
        f"{_TITLES[check]} is down: {where.url}: {silence.reason}"
        if silence.refused
        else f"{where.url} does not answer: {silence.reason}"
    )
    return Seen(bad(check, message, start, ours=where.configured), False)


def down(found: Mapping[str, Finding], others: Collection[str]) -> list[Finding]:
    """Return the findings, with missing servers reported as down if other servers of the stack were found."""
    if not others:
        return list(found.values())
    beside = ", ".join(sorted(others))
    return [
        warning(
            check,
            f"{_TITLES[check]} is down: {each.message}, and {beside} {'is' if len(others) == 1 else 'are'} there",
            f"start it, or say where it is: --{check} URL",
        )
        if each.state == "not_configured"
        else each
        for check, each in found.items()
    ]


def _another(check: str, where: Server, answer: Answer) -> Seen:
    if answer.status in (401, 403):
        login = f"--{check} {where.url.replace('://', '://USER:PASSWORD@', 1)}"
        message = (
            f"{where.url} wants a login"
            if not where.headers
            else f"{where.url} does not take this login"
        )
        return Seen(
            bad(
                check,
                f"{message}: {answer.described}",
                f"give it user and password: {login}",
                ours=where.configured,
            ),
            False,
            answer.skew_s,
        )
    return Seen(
        bad(
            check,
            f"{where.url} is not {_TITLES[check]}: {answer.described}"
            + (", more than is read" if answer.cut else ""),
            f"--{check} URL names the right place; another program may have its port",
            ours=where.configured,
        ),
        False,
        answer.skew_s,
    )


# --- Jaeger -----------------------------------------------------------------------------------------------------------


def jaeger(where: Server, env: Mapping[str, str], timeout_s: float) -> Seen:
    """Check that the query API answers."""
    answer = ask(where, "/api/services", env, timeout_s)
    if isinstance(answer, Silence):
        return _missing(
            "jaeger",
            where,
            answer,
            "start Jaeger; traces that it has not taken wait in the collector's queue",
        )
    document = answer.json()
    if answer.status != 200 or at(document, "total") is None:
        return _another("jaeger", where, answer)
    return Seen(
        ok(
            "jaeger",
            f"{where.url} answers, it knows {pluralize(len(each(document, 'data')), 'service', 'services')}",
        ),
        True,
        answer.skew_s,
    )


def has_trace(where: Server, trace_id: str, env: Mapping[str, str], timeout_s: float) -> bool:
    """Whether the test trace has arrived."""
    answer = ask(where, f"/api/traces/{trace_id}", env, timeout_s)
    if isinstance(answer, Silence) or answer.status != 200:
        return False
    spans = [
        text(span, "operationName")
        for trace in each(answer.json(), "data")
        for span in each(trace, "spans")
    ]
    return names.DOCTOR_SPAN in spans


# --- Prometheus -------------------------------------------------------------------------------------------------------


def prometheus(where: Server, env: Mapping[str, str], timeout_s: float) -> Seen:
    """Check that the API answers."""
    answer = ask(where, "/api/v1/status/buildinfo", env, timeout_s)
    if isinstance(answer, Silence):
        return _missing("prometheus", where, answer, "start Prometheus")
    document = answer.json()
    if at(document, "status") != "success":
        return _another("prometheus", where, answer)
    return Seen(
        ok(
            "prometheus",
            f"{where.url} answers, version {text(document, 'data', 'version') or 'unknown'}",
        ),
        True,
        answer.skew_s,
    )


def points_in_prometheus(where: Server, env: Mapping[str, str], timeout_s: float) -> float | None:
    """Return the sum of the test counter from Prometheus, or None if it is absent."""
    answer = ask(
        where,
        "/api/v1/query",
        env,
        timeout_s,
        [("query", f"sum({names.DOCTOR_POINTS_PROMETHEUS})")],
    )
    return (
        None
        if isinstance(answer, Silence)
        else _number(at(answer.json(), "data", "result", 0, "value", 1))
    )


def points_in_exposition(where: Server, env: Mapping[str, str], timeout_s: float) -> float | None:
    """Return the sum of the test counter from a ``/metrics`` page, or None if it is absent."""
    answer = ask(where, "/metrics", env, timeout_s)
    if isinstance(answer, Silence) or answer.status != 200:
        return None
    found = [
        number
        for match in _SAMPLE.finditer(answer.body)
        if (number := _number(match[1].decode())) is not None
    ]
    return sum(found) if found else None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def counted(before: float | None, after: float | None) -> bool:
    """Whether the sum includes all test points. Other runs of doctor may add to it, and a restarted collector resets it."""
    if after is None:
        return False
    begun = before or 0.0
    return after >= begun + POINTS or (after < begun and after >= POINTS)


@dataclass(frozen=True, slots=True)
class Counting:
    """Sum of the test counter before and after sending, the simulated instance ids and the waiting time."""

    before: float | None
    after: float | None
    instances: tuple[str, ...]
    waited_s: float


def series(
    where: Server, counting: Counting, env: Mapping[str, str], timeout_s: float, *, ours: bool
) -> Finding:
    """Return the finding for the test points."""
    name, before, after = names.DOCTOR_POINTS_PROMETHEUS, counting.before, counting.after
    if _scattered(where, counting.instances, env, timeout_s):
        return bad(
            "prometheus.series",
            f"every process has a series of {name} of its own: no counter of one-shot runs ever grows, and no alert on one fires",
            "let the collector take service.instance.id from them: the pipeline metrics/runs of the shipped collector-config.yaml does",
            ours=ours,
        )
    if counted(before, after):
        return ok("prometheus.series", f"{name} grew by {POINTS} test points of {POINTS} processes")
    if after is not None and after != (before or 0.0) and after > 0:
        grew = after - (before or 0.0) if after > (before or 0.0) else after
        return bad(
            "prometheus.series",
            f"{name} grew by {grew:g}, and {POINTS} one-shot processes counted 1 each: the collector does not add up their delta points",
            "give it the pipeline metrics/runs of the shipped collector-config.yaml",
            ours=ours,
        )
    if _takes_no_otlp(where, env, timeout_s):
        return bad(
            "prometheus.series",
            f"{name} did not arrive: {where.url} takes no OTLP, by which the shipped collector brings it what was counted",
            "start Prometheus with --web.enable-otlp-receiver",
            ours=ours,
        )
    down = _targets_down(where, env, timeout_s)
    return bad(
        "prometheus.series",
        f"{name} did not arrive within {duration(counting.waited_s)}{f'; {down}' if down else ''}",
        f"see the collector's log: does it count as the shipped collector-config.yaml does, and bring it to this Prometheus (PROMETHEUS_OTLP={where.url}/api/v1/otlp)? Where one scrapes once a minute, give --timeout",
        ours=ours,
    )


def _takes_no_otlp(where: Server, env: Mapping[str, str], timeout_s: float) -> bool:
    answer = ask(where, "/api/v1/status/flags", env, timeout_s)
    return (
        not isinstance(answer, Silence)
        and text(answer.json(), "data", "web.enable-otlp-receiver") == "false"
    )


def _scattered(
    where: Server, instances: tuple[str, ...], env: Mapping[str, str], timeout_s: float
) -> bool:
    which = "|".join(instances)
    name = names.DOCTOR_POINTS_PROMETHEUS
    query = f'count({name}{{instance=~"{which}"}} or {name}{{exported_instance=~"{which}"}} or {name}{{service_instance_id=~"{which}"}})'
    answer = ask(where, "/api/v1/query", env, timeout_s, [("query", query)])
    return not isinstance(answer, Silence) and bool(each(answer.json(), "data", "result"))


def _targets_down(where: Server, env: Mapping[str, str], timeout_s: float) -> str:
    answer = ask(where, "/api/v1/targets", env, timeout_s, [("state", "active")])
    document = None if isinstance(answer, Silence) else answer.json()
    down = [
        f"{text(target, 'scrapePool')} ({text(target, 'scrapeUrl')}): {text(target, 'lastError')}"
        for target in each(document, "data", "activeTargets")
        if text(target, "health") == "down"
    ]
    if down:
        return "cannot scrape " + "; ".join(down[:3])
    return (
        "it scrapes nothing"
        if at(document, "status") == "success" and not each(document, "data", "activeTargets")
        else ""
    )


def rules(where: Server, env: Mapping[str, str], timeout_s: float, *, ours: bool) -> Finding:
    """Check that the shipped rules are loaded and can be evaluated."""
    answer = ask(where, "/api/v1/rules", env, timeout_s)
    if isinstance(answer, Silence):
        return bad(
            "prometheus.rules",
            f"{where.url} does not say: {answer.reason}",
            "see Prometheus' log",
            ours=ours,
        )
    document = answer.json()
    if at(document, "status") != "success":
        return bad(
            "prometheus.rules",
            f"{where.url} does not say: {answer.described}",
            "see Prometheus' log",
            ours=ours,
        )
    loaded = {
        text(rule, "name"): rule
        for group in each(document, "data", "groups")
        for rule in each(group, "rules")
    }
    wanted = (*RECORDING_RULES, *ALERTS)
    missing = [name for name in wanted if name not in loaded]
    if missing:
        message = (
            "no rule of spanbus is loaded"
            if len(missing) == len(wanted)
            else f"{pluralize(len(missing), 'rule is', 'rules are')} not loaded: {', '.join(missing)}"
        )
        return bad(
            "prometheus.rules",
            message,
            "add deploy/prometheus/rules.yml and alerts.yml to rule_files and reload Prometheus",
            ours=ours,
        )
    broken = [
        f"{name}: {text(loaded[name], 'lastError') or 'no reason given'}"
        for name in wanted
        if text(loaded[name], "health") == "err"
    ]
    if broken:
        return bad(
            "prometheus.rules",
            f"{pluralize(len(broken), 'rule', 'rules')} cannot be evaluated: {'; '.join(broken[:3])}",
            "take rules.yml and alerts.yml of this version",
            ours=ours,
        )
    firing = [
        name
        for name in ALERTS
        if name not in _NOT_REPORTED and text(loaded[name], "state") == "firing"
    ]
    return ok(
        "prometheus.rules",
        f"all {len(wanted)} rules are loaded"
        + (f"; firing now: {', '.join(firing)}" if firing else ", no alert is firing"),
    )


def alerting(where: Server, env: Mapping[str, str], timeout_s: float) -> Finding:
    """Check that Prometheus has an Alertmanager."""
    answer = ask(where, "/api/v1/alertmanagers", env, timeout_s)
    active = (
        [] if isinstance(answer, Silence) else each(answer.json(), "data", "activeAlertmanagers")
    )
    if not active:
        config = ask(where, "/api/v1/status/config", env, timeout_s)
        if not isinstance(config, Silence) and "alertmanagers:" in text(
            config.json(), "data", "yaml"
        ):
            return warning(
                "prometheus.alerting",
                "Prometheus has not found the Alertmanager of its configuration",
                "ask again in ten seconds, where it has just started; else see its service discovery",
            )
        return warning(
            "prometheus.alerting",
            "Prometheus has no Alertmanager: alerts fire and nobody is told",
            "add one under alerting: in prometheus.yml",
        )
    return ok(
        "prometheus.alerting", f"alerts go to {', '.join(text(one, 'url') for one in active[:3])}"
    )


# --- Alertmanager -----------------------------------------------------------------------------------------------------


def alertmanager(where: Server, env: Mapping[str, str], timeout_s: float) -> Seen:
    """Check that the API answers, the cluster is ready, and a receiver is configured."""
    answer = ask(where, "/api/v2/status", env, timeout_s)
    if isinstance(answer, Silence):
        return _missing(
            "alertmanager",
            where,
            answer,
            "start Alertmanager; until then nobody is told of alerts",
        )
    document = answer.json()
    if answer.status != 200 or at(document, "versionInfo") is None:
        return _another("alertmanager", where, answer)
    version, cluster = (
        text(document, "versionInfo", "version") or "unknown",
        text(document, "cluster", "status"),
    )
    if cluster not in ("ready", "disabled", ""):
        return Seen(
            warning(
                "alertmanager",
                f"{where.url} answers, version {version}; its cluster is {cluster}",
                "see Alertmanager's log",
            ),
            True,
            answer.skew_s,
        )
    config = at(document, "config", "original")
    if not has_receiver(config if isinstance(config, str) else ""):
        return Seen(
            warning(
                "alertmanager",
                f"{where.url} answers, version {version}, and tells nobody: no receiver has a way to people",
                "give the receiver people a webhook, mail or Slack in alertmanager.yml (docs/how-to/alerts-by-slack-and-mail.md)",
            ),
            True,
            answer.skew_s,
        )
    return Seen(ok("alertmanager", f"{where.url} answers, version {version}"), True, answer.skew_s)


def has_receiver(config: str) -> bool:
    """Whether a receiver other than ``watchdog`` has a notification integration, by the configuration from the API."""
    _, _, receivers = config.partition("\nreceivers:")
    if not receivers:
        return True  # unknown format: do not warn
    return any(
        re.search(r"^\s+\w+_configs:", receiver, re.MULTILINE)
        for receiver in re.split(r"^\s*- name:", receivers, flags=re.MULTILINE)[1:]
        if receiver.split("\n", 1)[0].strip().strip("\"'") != "watchdog"
    )
