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
    """One row of the table of settings; ``env`` is None for what only TOML can say."""

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
            "Spool and local store; one directory may serve many processes at once.",
        ),
        text,
    ),
    (
        Setting(
            "events",
            "SPANBUS_EVENTS",
            "span",
            "Bus events as `span` events, `log` events or `both`.",
        ),
        choice("span", "log", "both"),
    ),
    (
        Setting(
            "exit_timeout_s",
            "SPANBUS_EXIT_TIMEOUT_S",
            "0.25",
            "The longest that telemetry may hold the exit, in seconds; what is left stays in the spool.",
        ),
        seconds,
    ),
    (
        Setting(
            "ci_exit_timeout_s",
            "SPANBUS_CI_EXIT_TIMEOUT_S",
            "5",
            "The same in a CI job, whose disk is gone when it ends, while the destination is taking records, or asks for another attempt after it took some; one that refuses or is silent gets the time above.",
        ),
        seconds,
    ),
    (
        Setting(
            "delivery",
            "SPANBUS_DELIVERY",
            "spool",
            "`spool` survives the process; `sdk` is the SDK's own processors and OTLP exporters ([what each promises](reliability.md)).",
        ),
        choice("spool", "sdk"),
    ),
    (
        Setting(
            "spool_quota_bytes",
            "SPANBUS_SPOOL_QUOTA_BYTES",
            "256MiB",
            "Above it the oldest sealed segment is dropped and counted.",
        ),
        size,
    ),
    (
        Setting(
            "local",
            "SPANBUS_LOCAL",
            "auto",
            "The local store: `auto` (the command line always writes it, a library only without an endpoint), `on`, `off`.",
        ),
        choice("auto", "on", "off"),
    ),
    (
        Setting(
            "store_days",
            "SPANBUS_STORE_DAYS",
            "30",
            "How many days the local store keeps what came in; above `store_bytes` the oldest goes sooner.",
        ),
        days,
    ),
    (
        Setting(
            "store_bytes",
            "SPANBUS_STORE_BYTES",
            "512MiB",
            "The size of the local store, at least 1 MiB; above it the oldest goes. Of a run that is larger, the first and the newest spans stay.",
        ),
        size,
    ),
    (
        Setting(
            "store_logs_bytes",
            "SPANBUS_STORE_LOGS_BYTES",
            "256MiB",
            "How much of the commands' output is kept beside the local store; above it the oldest goes.",
        ),
        size,
    ),
    (
        Setting(
            "output",
            "SPANBUS_OUTPUT",
            "local",
            "The whole output of the commands of `spanbus run` and `spanbus exec --keep-output`: `local` keeps it beside the local store, `logs` sends it as OTLP logs too, `off` keeps none.",
        ),
        choice("local", "logs", "off"),
    ),
    (
        Setting(
            "redact",
            "SPANBUS_REDACT",
            "on",
            "Take secrets out of everything that leaves the process.",
        ),
        boolean,
    ),
    (
        Setting(
            "lifetime",
            "SPANBUS_LIFETIME",
            "as the caller says",
            "`run` for a process that exports once and dies (delta temporality), `service` for one that lives on.",
        ),
        choice("run", "service"),
    ),
    (
        Setting("redact_patterns", None, "[]", "Further regular expressions of what is secret."),
        patterns,
    ),
    (
        Setting("payload_allow", None, "[]", "Further payload keys that may leave the process."),
        texts,
    ),
    (
        Setting(
            "dialects", None, "{}", "Files of your own dialects, by name; relative to the file."
        ),
        dialects,
    ),
    (
        Setting(
            "default_workflow",
            None,
            "the only one, or `default`",
            "What `spanbus run` runs without a name.",
        ),
        text,
    ),
    (
        Setting(
            "nats_url",
            "SPANBUS_NATS_URL",
            "none",
            "NATS servers, with commas, to which the events of every run are carried too ([distributed](distributed.md)).",
        ),
        servers,
    ),
    (
        Setting(
            "nats_creds",
            "SPANBUS_NATS_CREDS",
            "none",
            "The credentials file for them.",
        ),
        text,
    ),
    (
        Setting(
            "nats_stream",
            "SPANBUS_NATS_STREAM",
            "SPANBUS",
            "The JetStream stream that takes them.",
        ),
        text,
    ),
    (
        Setting(
            "telemetry",
            "SPANBUS_TELEMETRY",
            "here",
            "Who makes spans and metrics of the events that are carried to NATS: `here`, or `elsewhere`: an observer of the stream.",
        ),
        choice("here", "elsewhere"),
    ),
    (
        Setting(
            "observe_durable",
            "SPANBUS_OBSERVE_DURABLE",
            "delivered",
            "When `spanbus observe` counts something as told: `delivered`, the collector has it, or `spool`, it lies in the spool.",
        ),
        choice("delivered", "spool"),
    ),
    (
        Setting(
            "observe_settle_s",
            "SPANBUS_OBSERVE_SETTLE_S",
            "2",
            "Seconds for which it holds the end of a run, for events of other hosts that come after it.",
        ),
        seconds,
    ),
    (
        Setting(
            "observe_lost_after_s",
            "SPANBUS_OBSERVE_LOST_AFTER_S",
            "300",
            "Seconds after which it ends the runs of a publisher that NATS has not heard of for half a minute.",
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
"""The project's own matters. All else is the user's: where state lies and how long, what leaves unredacted, what an
exit waits for.
"""

KEYS = tuple(setting.name for setting in SETTINGS)
VARIABLES = tuple(setting.env for setting in SETTINGS if setting.env is not None)
OF_COMMANDS = frozenset({"SPANBUS_KEEP_OUTPUT", "SPANBUS_UP_TOKEN"})
"""Variables that stand for an option of one command; read there."""
