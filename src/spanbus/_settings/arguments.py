"""Types of the settings as keyword arguments; needed by modules whose functions take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from spanbus._settings.settings import Delivery, Events, LocalStore, MadeIn, ObserveDurable, Output


class Arguments(TypedDict, total=False):
    """Settings as keyword arguments; they override environment and file. Paths are relative to the working directory."""

    state_dir: str | Path
    events: Events
    exit_timeout_s: float | str
    ci_exit_timeout_s: float | str
    delivery: Delivery
    spool_quota_bytes: int | str
    local: LocalStore
    store_days: int | str
    store_bytes: int | str
    store_logs_bytes: int | str
    output: Output
    redact: bool
    redact_patterns: Sequence[str]
    payload_allow: Sequence[str]
    nats_url: str
    nats_creds: str
    nats_stream: str
    telemetry: MadeIn
    observe_durable: ObserveDurable
    observe_settle_s: float | str
    observe_lost_after_s: float | str
    dialects: Mapping[str, str | Path]
    default_workflow: str
