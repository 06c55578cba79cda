"""Loading of settings: their sources, and the errors for invalid ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_state_path

from spanbus._settings import SETTINGS, Settings, load_settings
from spanbus.errors import InputError, SettingsError

FILE = """\
[project]
name = "conveyor"

[tool.spanbus]
state_dir = "state"
events = "both"
exit_timeout_s = "250ms"
ci_exit_timeout_s = "2s"
delivery = "sdk"
spool_quota_bytes = "64MiB"
local = "off"
store_days = 90
store_bytes = "2MiB"
store_logs_bytes = "3MiB"
output = "logs"
redact = false
redact_patterns = ["ACME-[0-9]{6}"]
payload_allow = ["parcel"]
lifetime = "service"
default_workflow = "night"
nats_url = "nats://a:4222, tls://b"
nats_creds = "keys/nats.creds"
nats_stream = "OTHER"
telemetry = "elsewhere"
observe_durable = "spool"
observe_settle_s = "5s"
observe_lost_after_s = 60
dialects = { conveyor = "telemetry/conveyor.toml" }

[tool.spanbus.workflows.standard]
phases = [{ name = "lint", run = "ruff check ." }]

[tool.spanbus.workflows.night]
phases = [{ name = "tests", run = "pytest -q" }]
"""


def project(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str, name: str = "spanbus.toml", **env: str) -> str:
    project(folder, text, name)
    with pytest.raises(SettingsError) as caught:
        load_settings(cwd=folder, env=env)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused_value(folder: Path, **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(cwd=folder, env=env)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_without_file_and_environment(tmp_path: Path) -> None:
    settings = load_settings(cwd=tmp_path, env={})
    assert settings == Settings(
        state_dir=user_state_path("spanbus", appauthor=False), origin=settings.origin
    )
    assert (settings.events, settings.exit_timeout_s, settings.spool_quota_bytes) == (
        "span",
        0.25,
        256 * 2**20,
    )
    assert (settings.local, settings.redact, settings.lifetime) == ("auto", True, None)
    assert set(settings.origin.values()) == {"default"}


def test_every_key_of_the_file_is_read(tmp_path: Path) -> None:
    file = project(tmp_path, FILE)
    settings = load_settings(file, env={})
    assert settings.file == file
    assert settings.state_dir == tmp_path / "state"
    assert (
        settings.events,
        settings.exit_timeout_s,
        settings.spool_quota_bytes,
        settings.local,
    ) == ("both", 0.25, 64 * 2**20, "off")
    assert (settings.ci_exit_timeout_s, settings.delivery) == (2.0, "sdk")
    assert (settings.nats_url, settings.nats_stream) == ("nats://a:4222, tls://b", "OTHER")
    assert settings.nats_creds == str(tmp_path / "keys" / "nats.creds"), "beside the file"
    assert (settings.telemetry, settings.observe_durable) == ("elsewhere", "spool")
    assert (settings.observe_settle_s, settings.observe_lost_after_s) == (5.0, 60.0)
    assert (settings.store_days, settings.store_logs_bytes, settings.output) == (
        90,
        3 * 2**20,
        "logs",
    )
    assert (settings.redact, settings.redact_patterns, settings.payload_allow) == (
        False,
        ("ACME-[0-9]{6}",),
        ("parcel",),
    )
    assert (settings.lifetime, settings.default_workflow) == ("service", "night")
    assert dict(settings.dialects) == {"conveyor": tmp_path / "telemetry" / "conveyor.toml"}
    assert settings.workflow_names == ("standard", "night")
    assert {setting.name for setting in SETTINGS} == set(settings.origin)
    assert "default" not in settings.origin.values()


def test_origin_names_file_and_line(tmp_path: Path) -> None:
    file = project(tmp_path, FILE)
    settings = load_settings(file, env={"SPANBUS_EVENTS": "log"})
    assert settings.origin["local"] == f"{file}:11"
    assert settings.origin["events"] == "SPANBUS_EVENTS"


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("SPANBUS_EVENTS", "LOG", "events", "log"),
        ("SPANBUS_EXIT_TIMEOUT_S", "1.5", "exit_timeout_s", 1.5),
        ("SPANBUS_EXIT_TIMEOUT_S", "100ms", "exit_timeout_s", 0.1),
        ("SPANBUS_EXIT_TIMEOUT_S", "0", "exit_timeout_s", 0.0),
        ("SPANBUS_SPOOL_QUOTA_BYTES", "1048576", "spool_quota_bytes", 2**20),
        ("SPANBUS_SPOOL_QUOTA_BYTES", "1.5 GiB", "spool_quota_bytes", 3 * 2**29),
        ("SPANBUS_SPOOL_QUOTA_BYTES", "2MB", "spool_quota_bytes", 2_000_000),
        ("SPANBUS_LOCAL", "on", "local", "on"),
        ("SPANBUS_STORE_DAYS", "1", "store_days", 1),
        ("SPANBUS_STORE_BYTES", "8MiB", "store_bytes", 8 * 2**20),
        ("SPANBUS_STORE_DAYS", " 3650 ", "store_days", 3650),
        ("SPANBUS_REDACT", "off", "redact", False),
        ("SPANBUS_REDACT", "1", "redact", True),
        ("SPANBUS_LIFETIME", "run", "lifetime", "run"),
    ],
)
def test_the_environment_overrides_the_file(
    tmp_path: Path, variable: str, value: str, name: str, expected: object
) -> None:
    project(tmp_path, FILE)
    settings = load_settings(cwd=tmp_path, env={variable: value})
    assert getattr(settings, name) == expected
    assert settings.origin[name] == variable


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    project(tmp_path, FILE)
    assert (
        load_settings(
            cwd=tmp_path,
            env={"SPANBUS_EVENTS": "", "OTEL_SDK_DISABLED": "", "OTEL_TRACES_SAMPLER": " "},
        ).events
        == "both"
    )


def test_a_state_dir_of_the_environment_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(env={"SPANBUS_STATE_DIR": "here"}).state_dir == tmp_path / "here"


def test_a_tilde_is_the_home_folder(tmp_path: Path) -> None:
    assert (
        load_settings(cwd=tmp_path, env={"SPANBUS_STATE_DIR": "~/spans"}).state_dir
        == Path.home() / "spans"
    )


# --- which file -------------------------------------------------------------------------------------------------------


def test_the_nearest_file_above_is_used(tmp_path: Path) -> None:
    file = project(tmp_path, FILE)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert load_settings(cwd=deep, env={}).file == file


def test_spanbus_toml_wins_in_one_folder(tmp_path: Path) -> None:
    project(tmp_path, FILE)
    file = project(tmp_path, 'events = "log"\n', "spanbus.toml")
    settings = load_settings(cwd=tmp_path, env={})
    assert (settings.file, settings.events, settings.workflow_names) == (file, "log", ())


def test_a_pyproject_without_our_table_is_passed_over(tmp_path: Path) -> None:
    file = project(tmp_path, FILE)
    inner = tmp_path / "package"
    inner.mkdir()
    project(inner, '[project]\nname = "inner"\n')
    assert load_settings(cwd=inner, env={}).file == file


@pytest.mark.parametrize(
    "text", ["[project\n", f"[tool.other]\nnumber = {'7' * 5_000}\n", "a = " + "[" * 5_000]
)
def test_a_broken_pyproject_of_somebody_else_is_passed_over(tmp_path: Path, text: str) -> None:
    file = project(tmp_path, FILE)
    inner = tmp_path / "package"
    inner.mkdir()
    project(inner, text)
    assert load_settings(cwd=inner, env={}).file == file


@pytest.mark.parametrize("name", ["spanbus.toml", "pyproject.toml"])
def test_a_byte_order_mark_is_ignored(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    text = (
        'events = "log"\r\n' if name == "spanbus.toml" else '[tool.spanbus]\r\nevents = "log"\r\n'
    )
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    settings = load_settings(cwd=tmp_path, env={})
    assert (settings.file, settings.events) == (file, "log")


def test_an_explicit_file_replaces_the_found_one(tmp_path: Path) -> None:
    project(tmp_path, FILE)
    other = project(tmp_path, 'events = "log"\n', "other.toml")
    assert load_settings(other, cwd=tmp_path, env={}).events == "log"


def test_an_explicit_file_of_another_name_may_hold_the_table_too(tmp_path: Path) -> None:
    assert load_settings(project(tmp_path, FILE, "other.toml"), env={}).events == "both"


def test_paths_in_a_relatively_given_file_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, FILE)
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("pyproject.toml"), env={}).state_dir == tmp_path / "state"


def test_a_missing_explicit_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.toml", env={})


def test_an_explicit_pyproject_without_our_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no table \[tool\.spanbus\]"):
        load_settings(project(tmp_path, '[project]\nname = "x"\n'), env={})


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'events = "span"\nevent = "log"\n',
            "spanbus.toml:2: event: unknown key; did you mean events?",
        ),
        ('events = "span"\n\n[redaction]\nx = 1\n', "spanbus.toml:3: redaction: unknown key"),
        (
            '\nevents = "spans"\n',
            "spanbus.toml:2: events: must be span, log or both; did you mean span?, not 'spans'",
        ),
        ("exit_timeout_s = -1\n", "spanbus.toml:1: exit_timeout_s: must be seconds from 0 to 3600"),
        (
            "exit_timeout_s = nan\n",
            "spanbus.toml:1: exit_timeout_s: must be seconds from 0 to 3600",
        ),
        ("exit_timeout_s = true\n", "spanbus.toml:1: exit_timeout_s: must be seconds"),
        ("spool_quota_bytes = 12\n", "spanbus.toml:1: spool_quota_bytes: must be at least 1 MiB"),
        (
            'spool_quota_bytes = "much"\n',
            "spanbus.toml:1: spool_quota_bytes: must be a number of bytes",
        ),
        (
            "store_days = 0\n",
            "spanbus.toml:1: store_days: must be a whole number of days from 1 to 3650",
        ),
        ("store_days = 3651\n", "spanbus.toml:1: store_days: must be a whole number of days"),
        ("store_days = true\n", "spanbus.toml:1: store_days: must be a whole number of days"),
        ('store_days = "forever"\n', "spanbus.toml:1: store_days: must be a whole number of days"),
        ('redact = "perhaps"\n', "spanbus.toml:1: redact: must be true or false"),
        (
            'redact_patterns = [\n  "a",\n  "(",\n]\n',
            "spanbus.toml:1: redact_patterns: holds '(', which is no regular expression",
        ),
        ('payload_allow = "parcel"\n', "spanbus.toml:1: payload_allow: must be a list of texts"),
        ("dialects = { conveyor = 1 }\n", "spanbus.toml:1: dialects: must be a table of files"),
        ("workflows = 3\n", "workflows: must be a table of workflows"),
        ("state_dir = 3\n", "spanbus.toml:1: state_dir: must be a text that is not empty"),
        (
            'events = "span"\nevents = "log"\n',
            "spanbus.toml:2: is not TOML: Cannot overwrite a value",
        ),
        ("events = \n", "spanbus.toml:1: is not TOML: Invalid value"),
        ('events = "span', "spanbus.toml: is not TOML: "),
        ("a = " + "[" * 5_000, "spanbus.toml: is not TOML: "),
        ("store_days = " + "7" * 5_000, "spanbus.toml: is not TOML: "),
    ],
)
def test_an_invalid_setting_is_one_line_with_file_line_and_key(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in refusal(tmp_path, text)


def test_line_numbers_of_pyproject_are_those_of_the_file(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, '[project]\nname = "x"\n[tool.spanbus]\nredct = true\n', "pyproject.toml"
    )
    assert message.startswith(
        f"{tmp_path / 'pyproject.toml'}:4: tool.spanbus.redct: unknown key; did you mean redact?"
    )


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spanbus.toml").write_bytes(b"events = \xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8 at byte 10"):
        load_settings(cwd=tmp_path, env={})


def test_an_unknown_variable_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    assert refused_value(tmp_path, SPANBUS_STATEDIR="/tmp").startswith(
        "SPANBUS_STATEDIR: unknown variable; did you mean SPANBUS_STATE_DIR?"
    )


def test_a_variable_of_a_command_is_known(tmp_path: Path) -> None:
    assert load_settings(cwd=tmp_path, env={"SPANBUS_UP_TOKEN": "x"}).warnings == ()


def test_settings_errors_are_input_errors() -> None:
    assert issubclass(SettingsError, InputError)


# --- OTEL_* -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_SDK_DISABLED", "perhaps", "must be true or false"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "set it to http/protobuf (the default) or grpc",
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "thrift",
            "set it to http/protobuf (the default) or grpc",
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "brotli", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "is not a time"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "-5", "is not a time"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost", "is not a URL"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://host:port", "is not a URL"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "bearer abc", "is not name=value"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "deltas",
            "must be cumulative, delta or lowmemory; did you mean delta?",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "exponential",
            "explicit_bucket_histogram or base2_exponential_bucket_histogram",
        ),
        ("OTEL_TRACES_SAMPLER", "alwayson", "did you mean always_on?"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "must be always_on,"),
        (
            "OTEL_PROPAGATORS",
            "tracecontext,nonsense",
            "'nonsense' is not installed; must be a list of b3, b3multi, baggage, tracecontext or none",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "must be a number of milliseconds, at least 1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "inf", "must be a number of milliseconds, at least 1"),
        (
            "OTEL_METRICS_EXEMPLAR_FILTER",
            "sometimes",
            "must be always_on, always_off or trace_based",
        ),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1.5", "must be a whole number, at least 0, or unset"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1", "must be a whole number, at least 0, or unset"),
        ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "log", "must be logs or logs/dup"),
    ],
)
def test_an_invalid_otel_value_is_one_line_with_variable_value_and_remedy(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    message = refused_value(tmp_path, **{variable: value})
    assert variable in message
    assert expected in message
    assert (value in message) is not variable.endswith("HEADERS"), "values of headers are not shown"


@pytest.mark.parametrize("argument", ["2", "-0.1", "half", "nan"])
def test_an_invalid_sampling_ratio_is_refused_if_the_sampler_uses_it(
    tmp_path: Path, argument: str
) -> None:
    assert "from 0 to 1" in refused_value(
        tmp_path, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=argument
    )
    load_settings(
        cwd=tmp_path, env={"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": argument}
    )


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp",
        },
        {"OTEL_PROPAGATORS": "none"},
        {"OTEL_PROPAGATORS": "baggage, tracecontext"},
        {"OTEL_SPAN_EVENT_COUNT_LIMIT": "unset"},
        {"OTEL_TRACES_SAMPLER": "PARENTBASED_ALWAYS_OFF"},
        {"OTEL_METRIC_EXPORT_INTERVAL": "500.5"},
        {"OTEL_SOMETHING_NEW": "anything"},
    ],
)
def test_values_that_the_sdk_accepts_are_accepted(tmp_path: Path, env: dict[str, str]) -> None:
    assert load_settings(cwd=tmp_path, env=env).warnings == ()


def test_otel_variables_that_are_settings_are_read(tmp_path: Path) -> None:
    settings = load_settings(
        cwd=tmp_path,
        env={"OTEL_SDK_DISABLED": "TRUE", "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup"},
    )
    assert (settings.sdk_disabled, settings.exception_signal) == (True, "logs/dup")


@pytest.mark.parametrize("signal", ["", "TRACES_", "METRICS_", "LOGS_"])
def test_an_endpoint_of_any_signal_counts_as_configured(tmp_path: Path, signal: str) -> None:
    assert load_settings(
        cwd=tmp_path, env={f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT": "http://127.0.0.1:4318"}
    ).endpoint_configured
    assert not load_settings(
        cwd=tmp_path, env={f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT": " "}
    ).endpoint_configured


# --- inside somebody's service ----------------------------------------------------------------------------------------


def test_a_library_call_falls_back_to_defaults_with_warnings(tmp_path: Path) -> None:
    project(tmp_path, 'events = "spans"\nnonsense = 1\nlifetime = "run"\n', "spanbus.toml")
    env = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere",
        "OTEL_TRACES_SAMPLER": "most",
        "SPANBUS_EXIT_TIMEOUT_S": "soon",
        "SPANBUS_NONSENSE": "1",
        "PATH": "/bin",
    }
    settings = load_settings(cwd=tmp_path, env=env, strict=False)
    assert (
        settings.events,
        settings.lifetime,
        settings.exit_timeout_s,
        settings.endpoint_configured,
    ) == ("span", "run", 0.25, False)
    assert len(settings.warnings) == 7
    assert all("\n" not in warning for warning in settings.warnings)
    assert settings.refused == {
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLER",
    }
    assert settings.usable(env) == {
        name: value for name, value in env.items() if name not in settings.refused
    }


def test_a_broken_file_leaves_a_library_with_the_defaults(tmp_path: Path) -> None:
    project(tmp_path, "events = \n", "spanbus.toml")
    settings = load_settings(cwd=tmp_path, env={}, strict=False)
    assert settings.events == "span"
    assert "spanbus.toml:1: is not TOML" in settings.warnings[0]


def test_an_invalid_header_is_reported_without_its_value(tmp_path: Path) -> None:
    assert "hunter2" not in refused_value(
        tmp_path, OTEL_EXPORTER_OTLP_HEADERS="authorization=hunter2\x07"
    )


def test_importing_the_settings_loads_no_heavy_package() -> None:
    code = "import sys, spanbus._settings; print([name for name in sys.modules if name.partition('.')[0] in ('opentelemetry', 'typer', 'rich', 'grpc', 'urllib3')])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text",
    [
        "[tool.spanbus]\nevents = 'both'\n",
        "[project]\nname = 'p'\n\n  [ tool . spanbus ]\nevents = 'both'\n",
        "[\"tool\".'spanbus']\nevents = 'both'\n",
        "[tool]\nspanbus.events = 'both'\n",
        "[tool]\nspanbus = { events = 'both' }\n",
        "tool.spanbus.events = 'both'\n",
        "tool = { spanbus = { events = 'both' } }\n",
        "'tool'.\"spanbus\" = { events = 'both' }\n",
    ],
)
def test_our_table_is_found_in_every_notation(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load_settings(cwd=tmp_path, env={}).events == "both"


def test_a_project_that_only_depends_on_us_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'p'\ndependencies = [\n    'spanbus==0.2',\n]\n"
        "[project.scripts]\nspanbus = 'p:main'\n[tool.other]\npath = 'src/spanbus'\n"
    )
    code = (
        "import sys\n"
        "from spanbus._settings import load_settings\n"
        "load_settings()\n"
        "print([name for name in sys.modules if name == 'tomllib'])"
    )
    # where coverage is measured, it loads the module itself
    unmeasured = {name: os.environ[name] for name in os.environ if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=unmeasured,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
