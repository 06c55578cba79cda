"""Checks of settings and environment variables: values, their origin, likely mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from spanbus._delivery.endpoints import shown_url
from spanbus._doctor.findings import Finding, Row, not_configured, ok, warning, wrong
from spanbus._otlp.signals import OTLP_SIGNALS
from spanbus._reading.dialect_file import load
from spanbus._settings import OTEL_VARIABLES, SETTINGS, Settings, load_settings
from spanbus._suggest import nearest
from spanbus._telemetry.redaction import Redactor, is_sensitive
from spanbus.errors import DialectError, SettingsError

_OTLP = "OTEL_EXPORTER_OTLP_"
_OF_A_SIGNAL = (
    "ENDPOINT",
    "PROTOCOL",
    "HEADERS",
    "COMPRESSION",
    "TIMEOUT",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "INSECURE",
)
_KNOWN = (
    *OTEL_VARIABLES,
    *(f"{_OTLP}{name}" for name in _OF_A_SIGNAL),
    *(f"{_OTLP}{signal.upper()}_{name}" for signal in OTLP_SIGNALS for name in _OF_A_SIGNAL),
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_LOG_LEVEL",
    "OTEL_CONFIG_FILE",
    "OTEL_PROPAGATORS",
    *(
        f"OTEL_B{kind}_{name}"
        for kind in ("SP", "LRP")
        for name in ("SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
    ),
)
_ALIKE = 0.92
_PACKAGES = (
    ("opentelemetry-sdk", "opentelemetry-api"),
    ("opentelemetry-exporter-otlp", "opentelemetry-proto"),
)


def configuration(file: Path | None, env: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """Return the settings in effect, with defaults in place of invalid values, and the findings."""
    try:
        settings = load_settings(file, env=env, strict=False, tell=False)
        wrongs = list(settings.warnings)
    except SettingsError as error:
        settings, wrongs = (
            load_settings(
                file,
                env={name: value for name, value in env.items() if not name.startswith("OTEL_")},
                strict=False,
                tell=False,
            ),
            [str(error)],
        )
    found = [
        wrong(
            "settings",
            text,
            "until then its default holds in a service, and every command stops with this line",
        )
        for text in wrongs
    ]
    found += [
        warning("settings", text, "a file that came with a repository is not the user's will")
        for text in settings.ignored
    ]
    found += [
        warning("settings", f"{name} is set, which nothing reads", f"did you mean {near}?")
        for name, near in _misspelt(env)
    ]
    if not found:
        found.append(
            ok(
                "settings",
                f"{settings.file} and the environment can be used"
                if settings.file is not None
                else "the environment can be used; there is no settings file",
            )
        )
    found += [
        *_workflows(settings),
        *_dialects(settings),
        *_telemetry(settings, env),
        _temporality(settings, env),
        *_packages(),
    ]
    return settings, found


def _misspelt(env: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (name, near)
        for name in sorted(env)
        if name.startswith("OTEL_")
        and name not in _KNOWN
        and (near := nearest(name, _KNOWN, _ALIKE))
    ]


def _workflows(settings: Settings) -> list[Finding]:
    if not settings.workflow_names:
        return [
            not_configured(
                "workflows",
                "none is defined",
                "docs/settings.md shows one; `spanbus exec -- COMMAND` needs none",
            )
        ]
    found: list[Finding] = []
    for name in settings.workflow_names:
        try:
            settings.workflow(name)
        except SettingsError as error:
            found.append(
                wrong("workflows", str(error), f"`spanbus run {name}` stops with this line")
            )
    default = settings.default_workflow
    if default is not None and default not in settings.workflow_names:
        found.append(
            wrong(
                "workflows",
                f"default_workflow is {default!r}, which is not defined",
                f"there are {', '.join(settings.workflow_names)}",
            )
        )
    return found or [ok("workflows", f"{', '.join(settings.workflow_names)} can be built")]


def _dialects(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    for name, path in settings.dialects.items():
        try:
            load(path)
        except DialectError as error:
            found.append(
                wrong("dialects", f"{name}: {error}", "docs/dialects.md tells how one is written")
            )
    if settings.dialects and not found:
        found.append(ok("dialects", f"{', '.join(settings.dialects)} can be read"))
    return found


def _telemetry(settings: Settings, env: Mapping[str, str]) -> list[Finding]:
    if settings.sdk_disabled:
        return [
            warning(
                "telemetry", "OTEL_SDK_DISABLED=true: nothing is recorded", "unset it to record"
            )
        ]
    sampler = env.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    ratio = env.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if sampler.endswith("always_off") or (
        sampler.endswith("traceidratio") and ratio and _is_zero(ratio)
    ):
        return [
            warning(
                "telemetry",
                f"OTEL_TRACES_SAMPLER={sampler}{f' with {ratio}' if ratio else ''}: no trace is kept, only metrics",
                "unset it to keep traces",
            )
        ]
    return []


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False


def _temporality(settings: Settings, env: Mapping[str, str]) -> Finding:
    """Check the metric temporality: one-shot processes need delta points, services cumulative ones for Prometheus."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    preference = settings.usable(env).get(variable, "").strip().lower() or "cumulative"
    if settings.lifetime == "service":
        return warning(
            "temporality",
            f"lifetime=service ({settings.origin['lifetime']}) holds for commands too: `spanbus run` and `exec` export {preference} points and die, so that a counter never passes 1",
            "set it only in the service's own environment",
        )
    if preference in ("delta", "lowmemory") and settings.lifetime is None:
        return warning(
            "temporality",
            f"{variable}={preference}: a process that lives on exports delta points, of which a Prometheus exporter keeps the last instead of the sum",
            "unset it, unless your backend wants delta; one-shot runs export delta without it",
        )
    return ok(
        "temporality",
        "one-shot runs export delta points"
        + ("" if settings.lifetime == "run" else ", processes that live on cumulative ones"),
    )


def _packages() -> list[Finding]:
    found: list[Finding] = []
    for one, other in _PACKAGES:
        try:
            versions = metadata.version(one), metadata.version(other)
        except metadata.PackageNotFoundError as error:
            found.append(
                wrong(
                    "packages",
                    f"{error.name} is not installed",
                    "install spanbus again with its dependencies",
                )
            )
            continue
        if versions[0] != versions[1]:
            found.append(
                warning(
                    "packages",
                    f"{one} is {versions[0]}, {other} {versions[1]}; they are released together",
                    f"install {one}=={versions[1]}",
                )
            )
    return found or [ok("packages", f"opentelemetry {metadata.version('opentelemetry-sdk')}")]


# --- values to display ------------------------------------------------------------------------------------------------


def settings_rows(settings: Settings) -> list[Row]:
    """Return every setting with its value and origin; secrets are redacted."""
    redactor = Redactor(True)
    rows: list[Row] = []
    for setting in SETTINGS:
        value = getattr(settings, setting.name)
        shown = (
            ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
            if isinstance(value, tuple | Mapping)
            else ""
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        rows.append(Row(setting.name, redactor.text(shown), settings.origin[setting.name]))
    return rows


def environment_rows(env: Mapping[str, str]) -> list[Row]:
    """Return the ``OTEL_`` variables that are set, without possible secrets."""
    redactor = Redactor(True)
    rows: list[Row] = []
    for name in sorted(env):
        if name.startswith("OTEL_") and env[name].strip():
            value = (
                "(not shown)"
                if name.endswith("HEADERS") or is_sensitive(name)
                else shown_url(env[name])
                if name.endswith("ENDPOINT")
                else redactor.text(env[name])
            )
            rows.append(Row(name, value, "environment"))
    return rows
