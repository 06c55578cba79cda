"""The overlays in deploy/overlays, merged over the shipped configuration in the real collector."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import cast

import pytest
import yaml
from authority import Authority
from command_line import Cli
from servers import ROOT, Json, Stack, binary, eventually, get

pytestmark = pytest.mark.stack

CONFIG, OVERLAYS = ROOT / "collector-config.yaml", ROOT / "deploy/overlays"
AUTH_TLS, TAIL_SAMPLING = OVERLAYS / "auth-tls.yaml", OVERLAYS / "tail-sampling.yaml"
OWN_LINKS = OVERLAYS / "own-links.yaml"


@pytest.mark.parametrize(
    "names",
    [
        ["auth-tls.yaml"],
        ["tail-sampling.yaml"],
        ["own-links.yaml"],
        ["auth-tls.yaml", "tail-sampling.yaml"],
    ],
    ids=" and ".join,
)
def test_the_collector_accepts_the_overlay(names: list[str], tmp_path: Path) -> None:
    files = [CONFIG, *(OVERLAYS / name for name in names)]
    done = subprocess.run(
        [binary("otelcol"), "validate", *(f"--config={file}" for file in files)],
        env={"QUEUE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_overlay_repeats_the_lists_that_it_replaces() -> None:
    shipped, auth, tail, links = (
        yaml.safe_load(file.read_text()) for file in (CONFIG, AUTH_TLS, TAIL_SAMPLING, OWN_LINKS)
    )
    assert auth["service"]["extensions"] == [*shipped["service"]["extensions"], "bearertokenauth"]
    before = shipped["service"]["pipelines"]["traces"]["processors"]
    for overlay, added in ((tail, "tail_sampling"), (links, "transform/own_links")):
        assert overlay["service"]["pipelines"] == {"traces": {"processors": [*before, added]}}


# --- whose links --------------------------------------------------------------------------------------------------------


def test_links_of_others_are_dropped_and_our_own_stay(tmp_path: Path) -> None:
    stack = Stack(tmp_path, [CONFIG, OWN_LINKS])
    stack.collector.argv.append("--feature-gates=ottl.set.allowNil")
    traces = {name: secrets.token_hex(16) for name in ("spanbus", "somebody", "")}
    link: Json = {"traceId": secrets.token_hex(16), "spanId": secrets.token_hex(8)}
    body: Json = {
        "resourceSpans": [
            {
                "scopeSpans": [
                    {
                        "scope": {"name": name},
                        "spans": [
                            {
                                "traceId": trace_id,
                                "spanId": secrets.token_hex(8),
                                "name": "work",
                                "startTimeUnixNano": str(time.time_ns()),
                                "endTimeUnixNano": str(time.time_ns()),
                                "links": [link],
                            }
                        ],
                    }
                    for name, trace_id in traces.items()
                ]
            }
        ]
    }
    try:
        stack.start()
        request = urllib.request.Request(
            f"{stack.otlp}/v1/traces",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        linked = {
            name: str(link["spanId"])
            in json.dumps(eventually(lambda each=trace_id: stack.trace(each)))
            for name, trace_id in traces.items()
        }
    finally:
        stack.stop()
    assert linked == {"spanbus": True, "somebody": False, "": False}


# --- who may send -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "files")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Generator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("guarded"), [CONFIG, AUTH_TLS])
    stack.collector.env.update(authority.server())
    try:
        yield stack.start()
    finally:
        stack.stop()


def secured(folder: Path, stack: Stack, protocol: str, env: Mapping[str, str]) -> Cli:
    port = stack.ports["otlp_grpc" if protocol == "grpc" else "otlp_http"]
    here = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "SPANBUS_EXIT_TIMEOUT_S": "5",
    }
    return Cli(folder, {**here, **env})


def execute(cli: Cli, workflow: str) -> tuple[str, str]:
    """One run: its trace, and what the user was told."""
    cli.folder.mkdir(exist_ok=True)
    done = cli("exec", "--workflow", workflow, "--name", "check", "--", "true")
    assert done.code == 0
    [run] = cast("list[Json]", json.loads(cli("runs", "--json", "-w", workflow).out))
    return str(run["trace_id"]), done.err


PROTOCOLS = ["http/protobuf", "grpc"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_has_the_token_and_trusts_the_authority_is_heard(
    guarded: Stack, authority: Authority, tmp_path: Path, protocol: str
) -> None:
    workflow = f"welcome-{protocol[:4]}"
    trace_id, told = execute(secured(tmp_path, guarded, protocol, authority.client()), workflow)
    assert told == ""
    eventually(lambda: guarded.trace(trace_id))
    eventually(
        lambda: (
            guarded.value(
                f'sum(spanbus_phase_duration_seconds_count{{cicd_pipeline_name="{workflow}"}})'
            )
            == 1
        )
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("token", [None, "wrong"], ids=["no token", "a wrong token"])
def test_who_has_no_token_is_refused_and_told(
    guarded: Stack, authority: Authority, tmp_path: Path, protocol: str, token: str | None
) -> None:
    env = authority.client(token)
    if token is None:
        del env["OTEL_EXPORTER_OTLP_HEADERS"]
    workflow = f"refused-{protocol[:4]}-{token}"
    trace_id, told = execute(secured(tmp_path, guarded, protocol, env), workflow)
    assert "does not take telemetry" in told  # it is kept, for the day on which the token is right
    assert ("UNAUTHENTICATED" if protocol == "grpc" else "HTTP 401") in told
    later, told = execute(
        secured(tmp_path / "later", guarded, protocol, authority.client()), f"after-{workflow}"
    )
    assert told == ""
    eventually(lambda: guarded.trace(later))
    assert guarded.trace(trace_id) == []
    assert (
        guarded.query(f'spanbus_phase_duration_seconds_count{{cicd_pipeline_name="{workflow}"}}')
        == []
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_does_not_trust_the_authority_keeps_it_and_sends_it_once_it_does(
    guarded: Stack, authority: Authority, tmp_path: Path, protocol: str
) -> None:
    env = authority.client()
    trusted = env.pop("OTEL_EXPORTER_OTLP_CERTIFICATE")
    cli = secured(tmp_path, guarded, protocol, {**env, "SPANBUS_EXIT_TIMEOUT_S": "0.25"})
    trace_id, _ = execute(cli, f"stranger-{protocol[:4]}")
    assert cli("flush", "--wait", "1").code == 1
    assert guarded.trace(trace_id) == []
    assert cli("flush", "--wait", "30", env={"OTEL_EXPORTER_OTLP_CERTIFICATE": trusted}).code == 0
    eventually(lambda: guarded.trace(trace_id))


def test_plain_http_is_not_spoken(guarded: Stack, authority: Authority, tmp_path: Path) -> None:
    cli = secured(
        tmp_path,
        guarded,
        "http/protobuf",
        {**authority.client(), "OTEL_EXPORTER_OTLP_ENDPOINT": guarded.otlp},
    )
    trace_id, told = execute(cli, "plain")
    assert (
        "refuses telemetry (HTTP 400)" in told
    )  # set aside: no later answer to these bytes will differ
    later, _ = execute(
        secured(tmp_path / "later", guarded, "http/protobuf", authority.client()), "after-plain"
    )
    eventually(lambda: guarded.trace(later))
    assert guarded.trace(trace_id) == []


def test_a_new_token_is_good_without_a_restart_and_the_old_one_no_longer(
    guarded: Stack, authority: Authority, tmp_path: Path
) -> None:
    before, fresh = authority.tokens.read_text(), secrets.token_urlsafe(24)
    authority.tokens.write_text(f"{fresh}\n")
    try:
        numbers = iter(range(20))
        eventually(
            lambda: (
                not execute(
                    secured(
                        tmp_path / (number := str(next(numbers))),
                        guarded,
                        "http/protobuf",
                        authority.client(fresh),
                    ),
                    f"fresh-{number}",
                )[1]
            )
        )
        assert (
            "HTTP 401"
            in execute(
                secured(tmp_path / "old", guarded, "http/protobuf", authority.client()), "outdated"
            )[1]
        )
    finally:
        authority.tokens.write_text(before)


def test_without_its_tokens_the_collector_lets_nobody_in(
    authority: Authority, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, [CONFIG, AUTH_TLS])
    stack.collector.env.update(
        {**authority.server(), "OTLP_TOKENS_FILE": str(tmp_path / "not-there")}
    )
    try:
        with pytest.raises(AssertionError, match="collector did not come up"):
            stack.collector.start()
    finally:
        stack.stop()


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sampling(tmp_path: Path) -> Generator[Stack]:
    folder = tmp_path / "stack"
    folder.mkdir()
    stack = Stack(folder, [CONFIG, TAIL_SAMPLING])
    stack.collector.env.update({"STRAGGLERS": "1s", "SLOW_RUN_MS": "3000", "KEEP_PERCENT": "0"})
    try:
        yield stack
    finally:
        stack.stop()


def sampled(folder: Path, stack: Stack) -> Cli:
    return Cli(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.otlp, "SPANBUS_EXIT_TIMEOUT_S": "5"})


def many(cli: Cli, count: int, workflow: str, *command: str) -> set[str]:
    """So many runs, eight at a time; their traces."""
    running: list[subprocess.Popen[str]] = []
    told: list[str] = []
    for number in range(count):
        if number >= 8:
            told.append(running[number - 8].communicate(timeout=60)[1])
        running.append(cli.start("exec", "--workflow", workflow, "--name", "check", "--", *command))
    told += [process.communicate(timeout=60)[1] for process in running[-8:]]
    assert set(told) == {""}
    runs = cast("list[Json]", json.loads(cli("runs", "--json", "-w", workflow, "-n", "1000").out))
    assert len(runs) == count
    return {str(run["trace_id"]) for run in runs}


def decided(stack: Stack, labels: str = "") -> float:
    return (
        stack.value(f"sum(otelcol_processor_tail_sampling_global_count_traces_sampled{{{labels}}})")
        or 0
    )


def there(stack: Stack, traces: set[str]) -> set[str]:
    return {trace_id for trace_id in traces if stack.trace(trace_id)}


def test_each_failed_and_each_slow_run_is_kept_and_of_the_good_ones_a_share_and_every_one_is_counted(
    sampling: Stack, tmp_path: Path
) -> None:
    sampling.collector.env["KEEP_PERCENT"] = "25"
    cli = sampled(tmp_path, sampling.start())
    good, failed, slow = (
        many(cli, 80, "good", "true"),
        many(cli, 12, "failed", "false"),
        many(cli, 2, "slow", "sleep", "3.2"),
    )
    assert cli("flush").code == 0
    eventually(lambda: decided(sampling) == 94, 60)
    eventually(lambda: there(sampling, failed) == failed)
    eventually(lambda: there(sampling, slow) == slow)
    share = decided(sampling, 'decision="sampled"') - 14
    eventually(lambda: len(there(sampling, good)) == share)
    assert 3 <= share <= 37, "20, and four and a half standard deviations to both sides"
    for workflow, count in (("good", 80), ("failed", 12), ("slow", 2)):
        eventually(
            lambda workflow=workflow, count=count: (
                sampling.value(
                    f'sum(spanbus_phase_duration_seconds_count{{cicd_pipeline_name="{workflow}"}})'
                )
                == count
            )
        )
    eventually(
        lambda: sampling.value('spanbus_phase_failures_total{cicd_pipeline_name="failed"}') == 12
    )


def test_a_share_of_none_keeps_none_but_what_failed_once(sampling: Stack, tmp_path: Path) -> None:
    cli = sampled(tmp_path, sampling.start())
    (tmp_path / "spanbus.toml").write_text(
        '[workflows.again]\nphases = [ { name = "p", run = "sh -c \'test -e tried || { touch tried; exit 1; }\'", retries = 1, retry_backoff = 0.01 } ]\n'
    )
    good = many(cli, 5, "good", "true")
    [again] = cast("list[Json]", cli("run", "again", "--json").json()["runs"])
    assert again["result"] == "success"
    eventually(lambda: decided(sampling) == 6)
    assert eventually(lambda: sampling.trace(str(again["trace_id"])))
    assert there(sampling, good) == set()


def test_a_run_that_was_killed_is_kept_when_it_has_not_ended_in_time(
    sampling: Stack, tmp_path: Path
) -> None:
    sampling.collector.env["LONGEST_RUN"] = "4s"
    cli = sampled(tmp_path, sampling.start())
    (tmp_path / "spanbus.toml").write_text(
        '[workflows.cut]\nphases = [ { name = "first", run = "true" }, { name = "second", needs = ["first"], run = "sleep 60" } ]\n'
    )
    process = cli.start("run", "cut")
    try:
        eventually(lambda: accepted(sampling) >= 1)
    finally:
        process.kill()
        process.communicate(timeout=30)
    eventually(lambda: decided(sampling) == 1)
    [kept] = cast("list[Json]", eventually(lambda: traces_in_jaeger(sampling)))
    assert names(kept) == {"first", "true"}
    cli("flush")  # ends what the killed one left open: that comes later, and shares its fate
    eventually(lambda: names(traces_in_jaeger(sampling)[0]) >= {"first", "second", "RUN cut"})


def accepted(stack: Stack) -> float:
    return stack.value("sum(otelcol_receiver_accepted_spans)") or 0


def traces_in_jaeger(stack: Stack) -> list[Json]:
    document = cast("Json", get(f"{stack.jaeger_url}/api/traces?service=spanbus&lookback=1h") or {})
    return cast("list[Json]", document.get("data") or [])


def names(trace: Json) -> set[str]:
    return {str(span["operationName"]) for span in cast("list[Json]", trace["spans"])}
