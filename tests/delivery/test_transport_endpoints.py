"""Endpoints from environment variables, by the OTLP exporter specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from spanbus._delivery.endpoints import configured, endpoints
from spanbus._otlp.signals import Signal
from spanbus.errors import SettingsError


def test_defaults_are_the_specifications() -> None:
    endpoint = endpoints({}, Signal.TRACES)
    assert (endpoint.url, endpoint.protocol, endpoint.compression, endpoint.timeout_s) == (
        "http://localhost:4318/v1/traces",
        "http/protobuf",
        "none",
        10.0,
    )


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("http://c:4318/", "http://c:4318/v1/metrics"),
        ("https://c/otlp", "https://c/otlp/v1/metrics"),
        ("https://c/otlp/", "https://c/otlp/v1/metrics"),
        ("HTTP://c:4318", "http://c:4318/v1/metrics"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/metrics"),
        ("http://c:4318/otlp?tenant=a", "http://c:4318/otlp/v1/metrics?tenant=a"),
    ],
)
def test_the_path_of_the_signal_is_added_to_the_common_url(base: str, url: str) -> None:
    assert endpoints({"OTEL_EXPORTER_OTLP_ENDPOINT": base}, Signal.METRICS).url == url


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ("http://m:1/here", "http://m:1/here"),
        ("http://m:1", "http://m:1/"),
        ("http://m:1/v2/", "http://m:1/v2/"),
    ],
)
def test_a_url_of_a_signal_is_used_unchanged(own: str, url: str) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": own,
    }
    assert endpoints(env, Signal.METRICS).url == url
    assert endpoints(env, Signal.TRACES).url == "http://c:4318/v1/traces"


def test_variables_of_a_signal_take_precedence() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "2000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/a",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE": "/b",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
    }
    logs, traces = endpoints(env, Signal.LOGS), endpoints(env, Signal.TRACES)
    assert (logs.headers, logs.timeout_s, logs.compression, logs.ca, logs.protocol) == (
        (("b", "2"),),
        2.0,
        "gzip",
        Path("/b"),
        "grpc",
    )
    assert (traces.headers, traces.timeout_s, traces.compression, traces.ca, traces.protocol) == (
        (("a", "1"),),
        1.0,
        "none",
        Path("/a"),
        "http/protobuf",
    )


def test_an_empty_endpoint_variable_counts_as_unset() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_PROTOCOL": " ",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "",
    }
    assert endpoints(env, Signal.TRACES) == endpoints({}, Signal.TRACES)
    assert not configured(env)


def test_header_values_are_percent_decoded() -> None:
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20a%2Cb, X-Tenant = t=1 ,"}
    assert endpoints(env, Signal.TRACES).headers == (
        ("authorization", "Bearer a,b"),
        ("x-tenant", "t=1"),
    )


def test_a_user_in_the_url_becomes_a_header_and_is_not_shown() -> None:
    endpoint = endpoints(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:p%40ss@c:4318"}, Signal.TRACES
    )
    assert endpoint.url == "https://c:4318/v1/traces"
    assert dict(endpoint.headers)["authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize(
    ("value", "timeout_s"), [("10000", 10.0), ("200", 0.2), ("10", 10.0), ("2.5", 2.5)]
)
def test_timeout_in_milliseconds_or_as_the_sdk_reads_it(value: str, timeout_s: float) -> None:
    assert endpoints({"OTEL_EXPORTER_OTLP_TIMEOUT": value}, Signal.TRACES).timeout_s == timeout_s


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PROTOCOL", "http/json", "http/protobuf (the default) or grpc"),
        ("TRACES_PROTOCOL", "udp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='udp'"),
        ("COMPRESSION", "zstd", "gzip, deflate or none"),
        ("TIMEOUT", "soon", "milliseconds"),
        ("TIMEOUT", "-1", "milliseconds"),
        ("TIMEOUT", "nan", "milliseconds"),
        ("TIMEOUT", "inf", "milliseconds"),
        ("ENDPOINT", "collector:4318", "http:// or https://"),
        ("ENDPOINT", "ftp://c", "http:// or https://"),
        ("ENDPOINT", "http://c:port", "http:// or https://"),
        ("ENDPOINT", "http://", "http:// or https://"),
        ("ENDPOINT", "http://[::1", "http:// or https://"),
        ("ENDPOINT", "http://a b", "http:// or https://"),
        ("HEADERS", "novalue", "entry 1"),
        ("HEADERS", "a=1,b c=2", "entry 2"),
        ("HEADERS", "a=1%0d%0ab: 2", "'a'"),
        ("CLIENT_KEY", "/key", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    ],
)
def test_an_invalid_value_is_one_line_with_variable_and_remedy(
    name: str, value: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        endpoints({f"OTEL_EXPORTER_OTLP_{name}": value}, Signal.TRACES)
    assert f"OTEL_EXPORTER_OTLP_{name}" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [
        {"HEADERS": "api-key hunter2"},
        {"HEADERS": "k=hunter2%00"},
        {"ENDPOINT": "ftp://me:hunter2@c"},
        {"ENDPOINT": "me:hunter2@c"},
    ],
)
def test_error_messages_contain_no_secret(env: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        endpoints(
            {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in env.items()}, Signal.TRACES
        )
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "url", "plain"),
    [
        ("", "", "http://localhost:4317", True),
        ("http://c:4317/ignored", "", "http://c:4317", True),
        ("https://c", "true", "https://c:443", False),
        ("c:4317", "", "https://c:4317", False),
        ("c:4317", "true", "http://c:4317", True),
        ("unix:///run/otel.sock", "", "unix:///run/otel.sock", True),
    ],
)
def test_grpc_target(endpoint: str, insecure: str, url: str, plain: bool) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_INSECURE": insecure,
    }
    found = endpoints(env, Signal.TRACES)
    assert (found.url, found.insecure) == (url, plain)


def test_insecure_takes_a_boolean() -> None:
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_INSECURE='yes'.*true or false"):
        endpoints(
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "yes"},
            Signal.TRACES,
        )


def test_configured_by_any_endpoint_variable() -> None:
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}
    assert not configured({})
    assert configured(own)
    assert configured(own, Signal.TRACES)
    assert not configured(own, Signal.METRICS)
    assert configured({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, Signal.METRICS)
