"""Settings as arguments in code override environment and file."""

from __future__ import annotations

from pathlib import Path

import pytest

import spanbus
from spanbus._settings import load_settings, with_arguments
from spanbus._settings.arguments import Arguments
from spanbus.errors import SettingsError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spanbus.toml").write_text(
        'events = "log"\nlifetime = "service"\npayload_allow = ["parcel"]\n', encoding="utf-8"
    )
    return tmp_path


def test_an_argument_overrides_environment_and_file(
    folder: Path,
) -> None:
    env = {
        "SPANBUS_EVENTS": "both",
        "SPANBUS_STATE_DIR": str(folder / "from-env"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    with spanbus.open_runtime_sync(
        env=env,
        events="span",
        state_dir="given",
        exit_timeout_s="10ms",
        dialects={"mine": Path("d.toml")},
    ) as runtime:
        found = runtime.settings
    assert (found.events, found.state_dir, found.exit_timeout_s) == ("span", folder / "given", 0.01)
    assert (found.payload_allow, found.endpoint_configured, dict(found.dialects)) == (
        ("parcel",),
        True,
        {"mine": folder / "d.toml"},
    )
    assert {name: found.origin[name] for name in ("events", "state_dir", "local")} == {
        "events": "argument",
        "state_dir": "argument",
        "local": "default",
    }


def test_without_the_argument_the_environment_overrides_the_file(folder: Path) -> None:
    with spanbus.open_runtime_sync(
        env={"SPANBUS_EVENTS": "both", "SPANBUS_STATE_DIR": str(folder)}
    ) as runtime:
        assert (runtime.settings.events, runtime.settings.lifetime) == ("both", "service")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"evnts": "span"}, "argument evnts: unknown setting; did you mean events"),
        ({"events": "spans"}, "argument events='spans': must be span, log or both"),
        ({"spool_quota_bytes": 3}, "argument spool_quota_bytes: must be at least 1 MiB"),
    ],
)
def test_an_invalid_argument_is_an_error_even_in_a_service(
    folder: Path, arguments: Arguments, said: str
) -> None:
    with (
        pytest.raises(SettingsError, match=said),
        spanbus.open_runtime_sync(env={"SPANBUS_STATE_DIR": str(folder)}, **arguments),
    ):
        pass


def test_every_setting_but_the_lifetime_may_be_an_argument(folder: Path) -> None:
    base = load_settings(env={})
    every = {
        "state_dir": folder,
        "events": "both",
        "exit_timeout_s": 1,
        "ci_exit_timeout_s": 2,
        "delivery": "sdk",
        "spool_quota_bytes": "2MiB",
        "local": "off",
        "store_days": 7,
        "redact": False,
        "redact_patterns": ("A",),
        "payload_allow": ["b"],
        "dialects": {},
        "default_workflow": "w",
        "output": "logs",
        "store_bytes": "2MiB",
        "store_logs_bytes": "3MiB",
        "nats_url": "nats://a",
        "nats_creds": "/run/nats.creds",
        "nats_stream": "OTHER",
        "telemetry": "elsewhere",
        "observe_durable": "spool",
        "observe_settle_s": "5s",
        "observe_lost_after_s": 60,
    }
    assert set(every) == set(Arguments.__annotations__)
    assert all(with_arguments(base, every).origin[name] == "argument" for name in every)
