"""Shell completion: names of the project and ids of stored runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import Cli
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanbus._store.store import Store


def completed(cli: Cli, line: str) -> list[str]:
    env = {
        **cli.environment(),
        "_SPANBUS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    program = "import sys; sys.argv = ['spanbus']; from spanbus._cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cli.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_names_of_the_project_are_completed(project: Cli) -> None:
    assert completed(project, "spanbus ru") == ["run", "runs"]
    assert completed(project, "spanbus run ") == ["standard"]
    assert completed(project, "spanbus run standard --skip c") == ["cleaning", "comprehensive"]
    assert completed(project, "spanbus run --only fast") == ["fast_hooks"]
    assert completed(project, "spanbus replay x --dialect c") == ["crackerjack"]
    assert completed(project, "spanbus runs --result f") == ["failed", "failure"]


def test_stored_runs_are_completed(project: Cli) -> None:
    assert completed(project, "spanbus show ") == ["last"]
    project("exec", "--", "true")
    run_id = json.loads(project("runs", "--json").out)[0]["run_id"]
    for line in ("spanbus show ", "spanbus report ", "spanbus diff last "):
        assert completed(project, line) == ["last", run_id]


@pytest.mark.parametrize(
    "run_id", ["", "$(touch owned)", "a b", "a;b", "`id`", "\x1b[31m", "a\nb", "é", "x" * 1_000]
)
def test_an_id_with_shell_syntax_is_not_completed(cli: Cli, run_id: str) -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=1, end_time_unix_nano=2
        )
    )
    for key, value in (
        ("spanbus.level", "run"),
        ("cicd.pipeline.run.id", run_id),
        ("cicd.pipeline.result", "success"),
    ):
        span.attributes.add(key=key).value.string_value = value
    with Store.open(cli.folder / "state" / "store.sqlite3") as store:
        store.ingest("traces", request.SerializeToString())
    assert completed(cli, "spanbus show ") == ["last"]


@pytest.mark.parametrize("toml", ["[workflows.w\n", "bogus = 1\n", "[workflows.w]\nphases = 3\n"])
def test_with_invalid_settings_nothing_is_completed(cli: Cli, toml: str) -> None:
    (cli.folder / "spanbus.toml").write_text(toml)
    assert completed(cli, "spanbus run --only ") == []
