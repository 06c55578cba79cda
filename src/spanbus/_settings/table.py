"""The table of settings: each with its variable, its default and its parser; what a file that was only found may set."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple
from spanbus._settings.values import (
    Parse,
    boolean,
    choice,
    days,
    dialects,
    patterns,
    seconds,
    servers,
    size,
    text,
    texts,
)


class Setting(NamedTuple):
    """One row of the table of settings; ``env`` is None for a setting that exists only in TOML."""

    name: str
    env: str | None
    default: str
    brief: str


TABLE: tuple[tuple[Setting, Parse], ...] = (
    (
        Setting(
            "state_dir",
            "SPANBUS_STATE_DIR",
            "the user's state directory",
            "Directory of the spool and the local store. Many processes may share one.",
        ),
        text,
    ),
    (
        Setting(
            "events",
            "SPANBUS_EVENTS",
            "span",
            "Record bus events as `span` events, `log` events or `both`.",
        ),
        choice("span", "log", "both"),
    ),
    (
        Setting(
            "exit_timeout_s",
            "SPANBUS_EXIT_TIMEOUT_S",
            "0.25",
            "How long telemetry may delay the exit, in seconds. Records that are not sent stay in the spool.",
        ),
        seconds,
    ),
    (
        Setting(
            "ci_exit_timeout_s",
            "SPANBUS_CI_EXIT_TIMEOUT_S",
            "5",
            "The same in a CI job, because its disk is lost at its end. Applies while the destination accepts records, or asks for a retry after it accepted some. A destination that refuses or does not answer gets `exit_timeout_s`.",
        ),
        seconds,
    ),
    (
        Setting(
            "delivery",
            "SPANBUS_DELIVERY",
            "spool",
            "`spool` survives the process; `sdk` uses the SDK's own processors and OTLP exporters ([guarantees of both](reliability.md)).",
        ),
        choice("spool", "sdk"),
    ),
    (
        Setting(
            "spool_quota_bytes",
            "SPANBUS_SPOOL_QUOTA_BYTES",
            "256MiB",
            "Size of the spool. Above it the oldest sealed segment is dropped and counted.",
        ),
        size,
    ),
    (
        Setting(
            "local",
            "SPANBUS_LOCAL",
            "auto",
            "Write the local store: `on`, `off`, or `auto`: the command line always does, a library only without an endpoint.",
        ),
        choice("auto", "on", "off"),
    ),
    (
        Setting(
            "store_days",
            "SPANBUS_STORE_DAYS",
            "30",
            "Days that the local store keeps data. Above `store_bytes` the oldest data is removed sooner.",
        ),
        days,
    ),
    (
        Setting(
            "store_bytes",
            "SPANBUS_STORE_BYTES",
            "512MiB",
            "Size of the local store, at least 1 MiB. Above it the oldest data is removed. A run that is larger by itself keeps its first and its newest spans.",
        ),
        size,
    ),
    (
        Setting(
            "store_logs_bytes",
            "SPANBUS_STORE_LOGS_BYTES",
            "256MiB",
            "Size of the commands' output that is kept beside the local store. Above it the oldest is removed.",
        ),
        size,
    ),
    (
        Setting(
            "output",
            "SPANBUS_OUTPUT",
            "local",
            "The whole output of the commands of `spanbus run` and `spanbus exec --keep-output`: `local` keeps it beside the local store, `logs` also sends it as OTLP logs, `off` keeps none.",
        ),
        choice("local", "logs", "off"),
    ),
    (
        Setting(
            "redact",
            "SPANBUS_REDACT",
            "on",
            "Remove secrets from everything that leaves the process.",
        ),
        boolean,
    ),
    (
        Setting(
            "lifetime",
            "SPANBUS_LIFETIME",
            "set by the caller",
            "`run` for a process that exports once and exits (delta temporality), `service` for a long-lived one.",
        ),
        choice("run", "service"),
    ),
    (
        Setting("redact_patterns", None, "[]", "Additional regular expressions for secrets."),
        patterns,
    ),
    (
        Setting("payload_allow", None, "[]", "Additional payload keys that may leave the process."),
        texts,
    ),
    (
        Setting(
            "dialects",
            None,
            "{}",
            "Files of your own dialects, by name; paths are relative to this file.",
        ),
        dialects,
    ),
    (
        Setting(
            "default_workflow",
            None,
            "the only one, or `default`",
            "The workflow that `spanbus run` runs without a name.",
        ),
        text,
    ),
    (
        Setting(
            "nats_url",
            "SPANBUS_NATS_URL",
            "none",
            "NATS servers, separated by commas. The events of every run are published there too ([distributed](distributed.md)).",
        ),
        servers,
    ),
    (
        Setting(
            "nats_creds",
            "SPANBUS_NATS_CREDS",
            "none",
            "The credentials file for these servers.",
        ),
        text,
    ),
    (
        Setting(
            "nats_stream",
            "SPANBUS_NATS_STREAM",
            "SPANBUS",
            "The JetStream stream for the events.",
        ),
        text,
    ),
    (
        Setting(
            "telemetry",
            "SPANBUS_TELEMETRY",
            "here",
            "Where spans and metrics are made of events that go to NATS: `here` in this process, or `elsewhere` in an observer of the stream.",
        ),
        choice("here", "elsewhere"),
    ),
    (
        Setting(
            "observe_durable",
            "SPANBUS_OBSERVE_DURABLE",
            "delivered",
            "When `spanbus observe` moves its checkpoint: `delivered`: the collector has the telemetry; `spool`: it is in the spool.",
        ),
        choice("delivered", "spool"),
    ),
    (
        Setting(
            "observe_settle_s",
            "SPANBUS_OBSERVE_SETTLE_S",
            "2",
            "Seconds that `spanbus observe` holds the end of a run, for events of other hosts that arrive later.",
        ),
        seconds,
    ),
    (
        Setting(
            "observe_lost_after_s",
            "SPANBUS_OBSERVE_LOST_AFTER_S",
            "300",
            "Seconds after which `spanbus observe` ends the runs of a publisher that NATS has not heard from for half a minute.",
        ),
        seconds,
    ),
)
SETTINGS = tuple(setting for setting, _ in TABLE)
"""The table of every setting of our own; the workflows stand beside them in TOML."""

FOUND_FILE_MAY_SET = frozenset(
    {
        "workflows",
        "default_workflow",
        "dialects",
        "events",
        "lifetime",
        "redact_patterns",
        "payload_allow",
    }
)
"""Settings of the project. All others belong to the user: location and age of the state, redaction, duration of an exit."""

KEYS = tuple(setting.name for setting in SETTINGS)
VARIABLES = tuple(setting.env for setting in SETTINGS if setting.env is not None)
COMMAND_VARIABLES = frozenset({"SPANBUS_KEEP_OUTPUT", "SPANBUS_UP_TOKEN"})
"""Variables for an option of one command, which reads them."""
