"""Ids and environment of a command: computed before the SDK is imported, equal to those stored later."""

from __future__ import annotations

import json
import os
import subprocess
from typing import cast

import pytest
from command_line import Cli, Json
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._workflow.identity import TraceContext

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHOW = ("exec", "--", "sh", "-c", 'echo "$TRACEPARENT|${TRACESTATE-none}|${BAGGAGE-none}"')


def command_of(cli: Cli) -> Json:
    [phase] = cast("list[Json]", cli("show", "--json").json()["phases"])
    [command] = cast("list[Json]", phase["children"])
    return command


def test_the_traceparent_names_the_span_of_the_command(cli: Cli) -> None:
    traceparent, state, baggage = cli(*SHOW).out.strip().split("|")
    _, trace_id, span_id, flags = traceparent.split("-")
    shown = cli("show", "--json").json()
    assert (shown["trace_id"], command_of(cli)["span_id"], flags) == (trace_id, span_id, "01")
    assert (state, baggage) == ("none", "none")


def test_a_callers_context_is_continued_with_its_state_and_baggage(cli: Cli) -> None:
    env = {"TRACEPARENT": PARENT, "TRACESTATE": "a=1,b=2", "BAGGAGE": "team=red"}
    traceparent, state, baggage = cli(*SHOW, env=env).out.strip().split("|")
    assert traceparent.split("-")[1] == PARENT.split("-")[1]
    assert traceparent.split("-")[2] == command_of(cli)["span_id"] != PARENT.split("-")[2]
    assert (state, baggage) == ("a=1,b=2", "team=red")


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        PARENT + "-more",
        PARENT[:-3],
    ],
)
def test_the_tracestate_of_another_trace_is_dropped(cli: Cli, traceparent: str | None) -> None:
    env = {
        "TRACESTATE": "old=1",
        **({"TRACEPARENT": traceparent} if traceparent is not None else {}),
    }
    new, state, _ = cli(*SHOW, env=env).out.strip().split("|")
    assert new.split("-")[1] not in ("0" * 32, PARENT.split("-")[1])
    assert state == "none"


def test_an_unsampled_trace_stays_unsampled(cli: Cli) -> None:
    assert "-00|" in cli(*SHOW, env={"TRACEPARENT": PARENT[:-2] + "00"}).out
    assert "-00|" in cli(*SHOW, env={"OTEL_TRACES_SAMPLER": "always_off"}).out
    assert "-01|" in cli(*SHOW, env={"OTEL_TRACES_SAMPLER": "parentbased_jaeger_remote"}).out


def test_other_propagators_have_their_own_variables(cli: Cli) -> None:
    done = cli("exec", "--", "env", env={"OTEL_PROPAGATORS": "b3"})
    seen = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    assert "TRACEPARENT" not in seen
    assert (
        seen["B3"] == f"{cli('show', '--json').json()['trace_id']}-{command_of(cli)['span_id']}-1"
    )


def test_without_propagators_the_environment_is_unchanged(cli: Cli) -> None:
    env = {"OTEL_PROPAGATORS": "none", "TRACEPARENT": PARENT, "TRACESTATE": "a=1"}
    assert cli(*SHOW, env=env).out == f"{PARENT}|a=1|none\n"


def test_a_nested_run_is_a_child_of_the_commands_span(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.inner]\nphases = [{ name = "a", run = "true" }]\n'
    )
    done = cli("exec", "--workflow", "outer", "--", *cli.argv("run", "-q"))
    assert done.code == 0, done.err
    runs = {run["workflow"]: run for run in json.loads(cli("runs", "--json").out)}
    assert runs["inner"]["trace_id"] == runs["outer"]["trace_id"]
    assert "inner" in cli("show", runs["outer"]["run_id"]).out


def test_names_are_the_commands_own(cli: Cli) -> None:
    cli("exec", "--", "/bin/sh", "-c", "true")
    cli("exec", "-w", "nightly", "--name=check", "--", "true")
    runs = json.loads(cli("runs", "--json").out)
    assert [run["workflow"] for run in runs] == ["nightly", "sh"]
    shown = cli("show", "--json").json()
    assert [phase["name"] for phase in cast("list[Json]", shown["phases"])] == ["check"]


def test_the_rest_of_the_environment_is_unchanged(cli: Cli) -> None:
    """Python itself sets LC_CTYPE if it starts in the C locale."""
    env: dict[bytes, bytes] = {
        b"PATH": os.environb[b"PATH"],
        b"PYTHONPATH": os.environb.get(b"PYTHONPATH", b""),
        b"SPANBUS_STATE_DIR": os.fsencode(cli.folder / "state"),
        b"ODD": b"\xff\xfe\n new line",
        b"EMPTY": b"",
    }
    done = subprocess.run(
        cli.argv("exec", "--", "env", "-0"),
        env=env,  # pyright: ignore[reportCallIssue] - bytes where the stubs know text alone
        cwd=cli.folder,
        capture_output=True,
        check=True,
    )
    seen = dict(pair.split(b"=", 1) for pair in done.stdout.split(b"\0") if pair)
    del seen[b"TRACEPARENT"]
    assert seen == env


SAMPLERS = {
    "always_on": lambda _: sampling.ALWAYS_ON,
    "always_off": lambda _: sampling.ALWAYS_OFF,
    "traceidratio": sampling.TraceIdRatioBased,
    "parentbased_always_on": lambda _: sampling.DEFAULT_ON,
    "parentbased_always_off": lambda _: sampling.DEFAULT_OFF,
    "parentbased_traceidratio": sampling.ParentBasedTraceIdRatio,
}


@given(
    st.sampled_from(sorted(SAMPLERS)),
    st.floats(0, 1),
    st.integers(1, 2**128 - 1),
    st.none() | st.booleans(),
)
def test_the_sampling_decision_equals_that_of_the_sdk(
    name: str, ratio: float, trace_id: int, parent: bool | None
) -> None:
    env = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": repr(ratio)}
    context, came = Context(), None
    if parent is not None:
        came = TraceContext(trace_id, 7, parent)
        span = NonRecordingSpan(SpanContext(trace_id, 7, True, TraceFlags(int(parent))))
        context = set_span_in_context(span, context)
    decision = SAMPLERS[name](ratio).should_sample(context, trace_id, "x").decision
    assert EnvironmentSampler.of(env).keeps(trace_id, came) is decision.is_sampled()
