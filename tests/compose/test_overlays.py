"""What people put over docker-compose.yml: the overlays, and a Jaeger that keeps its traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from authority import Authority
from command_line import Cli
from containers import Up
from servers import Json, eventually, get

pytestmark = pytest.mark.compose


def execute(cli: Cli, *command: str) -> tuple[str, str]:
    """One run: its trace, and what the user was told."""
    done = cli("exec", "--name", "check", "--", *command)
    run = cast("list[Json]", json.loads(cli("runs", "--json", "-n", "1").out))[0]
    return str(run["trace_id"]), done.err


def stored(trace_id: str) -> object:
    return get(f"http://127.0.0.1:16686/api/v3/traces/{trace_id}")


def test_with_tls_and_tokens_only_those_who_know_one_are_heard(
    up: Up, cli: Cli, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "auth")
    authority.key.chmod(0o644)  # the container's user is another
    with up(
        "spanbus-guarded",
        ["deploy/overlays/compose.auth-tls.yaml"],
        {"SPANBUS_AUTH": str(tmp_path / "auth")},
    ):
        assert "refuses telemetry" in execute(cli, "true")[1]
        cli.env.update(
            OTEL_EXPORTER_OTLP_ENDPOINT="https://127.0.0.1:4318", **authority.client("wrong")
        )
        assert "HTTP 401" in execute(cli, "true")[1]
        cli.env.update(authority.client())
        trace_id, told = execute(cli, "true")
        assert told == ""
        eventually(lambda: stored(trace_id))
        cli.env.update(
            OTEL_EXPORTER_OTLP_ENDPOINT="https://127.0.0.1:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
        )
        trace_id, told = execute(cli, "true")
        assert told == ""
        eventually(lambda: stored(trace_id))


def test_with_tail_sampling_what_failed_is_kept(up: Up, cli: Cli) -> None:
    with up(
        "spanbus-sampled",
        ["deploy/overlays/compose.tail-sampling.yaml"],
        {"KEEP_PERCENT": "0", "STRAGGLERS": "1s"},
    ):
        good = execute(cli, "true")[0]
        failed = execute(cli, "false")[0]
        eventually(lambda: stored(failed))
        assert stored(good) is None
