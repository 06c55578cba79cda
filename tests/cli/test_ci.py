"""Output of a run in a CI job."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli

from spanbus._cli import ci
from spanbus.testing import Receiver

GITHUB = {"GITHUB_ACTIONS": "true", "CI": "true"}


@pytest.fixture
def job(cli: Cli) -> Cli:
    (cli.folder / "spanbus.toml").write_text(
        """[workflows.w]
phases = [
  { name = "lint", run = "sh -c 'echo from lint; echo ::warning::kept'" },
  { name = "tests", run = "sh -c 'echo 100% of it; echo ::error::of the tool; echo THE-REASON; exit 3'", needs = ["lint"] },
  { name = "after", run = "true", needs = ["tests"] },
]
"""
    )
    cli.env["GITHUB_STEP_SUMMARY"] = str(cli.folder / "summary.md")
    return cli


def test_github_gets_groups_annotations_and_a_summary(job: Cli) -> None:
    done = job("run", env=GITHUB)
    lines = done.out.splitlines()
    assert done.code == 1
    assert lines[:4] == ["::group::lint", "from lint", "::warning::kept", "::endgroup::"]
    assert "✓ lint: success" in lines[4]
    assert lines[5] == "::group::tests"
    at = lines.index("::endgroup::", 6)
    assert lines[6:at] == ["100% of it", "::error::of the tool", "THE-REASON"]
    [annotation] = [line for line in lines if line.startswith("::error title=")]
    assert annotation == (
        "::error title=tests / command sh::exit code 3%0A100%25 of it%0A::error::of the tool%0ATHE-REASON"
    )
    [stop] = [line for line in lines if line.startswith("::stop-commands::")]
    end = lines.index(f"::{stop.removeprefix('::stop-commands::')}::")
    repeated = [n for n, line in enumerate(lines) if line.strip() == "::error::of the tool"]
    assert repeated[1] in range(lines.index(stop), end)
    summary = (job.folder / "summary.md").read_text()
    assert "| ✗ failure | `tests` |" in summary
    assert "THE-REASON" in summary


def test_the_summary_is_appended_and_can_be_switched_off(job: Cli) -> None:
    summary = job.folder / "summary.md"
    summary.write_text("before\n")
    done = job("run", "--no-ci", env=GITHUB)
    assert "::group::" not in done.out
    assert "::error title=" not in done.out
    assert summary.read_text() == "before\n"
    assert "spanbus:" not in done.err
    job("run", "-q", env=GITHUB)
    assert summary.read_text().startswith("before\n###")


def test_gitlab_gets_sections(job: Cli) -> None:
    out = job("run", env={"GITLAB_CI": "true", "CI": "true"}).out
    opened = out.index("\x1b[0Ksection_start:")
    assert ":lint[collapsed=true]" in out[opened:].partition("\n")[0]
    assert out.index("from lint") > opened
    closed = out.index("\x1b[0Ksection_end:")
    assert out.index("from lint") < closed
    assert out[closed:].partition("\n")[0].endswith(":lint")
    assert "::error title" not in out
    assert not (job.folder / "summary.md").exists()


def test_output_of_concurrent_phases_is_not_mixed(cli: Cli) -> None:
    chatter = "import time\nfor n in range(20): print('NAME', n, flush=True); time.sleep(0.005)"
    phases = ", ".join(
        f'{{ name = "{name}", run = ["python3", "-c", """{chatter.replace("NAME", name)}"""] }}'
        for name in ("a", "b", "c")
    )
    (cli.folder / "spanbus.toml").write_text(f"[workflows.w]\nphases = [ {phases} ]\n")
    lines = cli("run", "-j", "3", env=GITHUB).out.splitlines()
    for name in ("a", "b", "c"):
        at = lines.index(f"::group::{name}")
        assert lines[at + 1 : at + 22] == [*(f"{name} {n}" for n in range(20)), "::endgroup::"]


def test_the_last_line_tells_whether_telemetry_was_delivered(job: Cli) -> None:
    kept = job("run", "-q", env=GITHUB).err.splitlines()[-1]
    assert kept.startswith("spanbus: telemetry stays in ")
    with Receiver() as receiver:
        done = job("run", "-q", env={**GITHUB, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        assert done.err.splitlines()[-1] == "spanbus: flushed"
        assert {span.name for span in receiver.spans()} >= {"RUN w", "lint", "tests"}
    gone = job("run", "-q", env={**GITHUB, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert "records wait: spanbus flush --wait 10" in gone.err.splitlines()[-1]
    at_home = job("run", "-q")
    assert at_home.err == ""


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({"GITHUB_ACTIONS": "true"}, "github"),
        ({"GITLAB_CI": "true"}, "gitlab"),
        ({"BUILDKITE": "true"}, "buildkite"),
        ({"JENKINS_URL": "https://ci"}, "plain"),
        ({"CI": "true"}, "plain"),
        ({"TF_BUILD": "True"}, "plain"),
        ({"CI": "false"}, None),
        ({}, None),
    ],
)
def test_the_ci_system_is_detected_by_its_variables(env: dict[str, str], kind: str | None) -> None:
    found = ci.detect(env)
    assert (found.kind if found is not None else None) == kind
    assert ci.is_ephemeral(env) == (kind is not None)


def test_a_summary_that_cannot_be_written_does_not_fail_the_run(tmp_path: Path) -> None:
    ci.Ci("github", str(tmp_path / "no" / "such")).add_summary("text")
    ci.Ci("github", None).add_summary("text")
    full = tmp_path / "full"
    full.write_bytes(b"x" * 999_999)
    ci.Ci("github", str(full)).add_summary("text")
    assert full.stat().st_size == 999_999
