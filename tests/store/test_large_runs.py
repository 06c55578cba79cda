"""Runs of thousands of phases: read span by span, folded for a terminal, complete for a pipe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from command_line import Cli
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from rich.text import Text
from terminal import Terminal

from spanbus._otlp import json as otlp_json
from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000
PHASES = 5_000
FAILED = (1_234, 3_210)


def large(trace: int, slow: frozenset[int] = frozenset()) -> bytes:
    """Return a run with many phases of two services, and another run in the same trace."""
    request = ExportTraceServiceRequest()
    groups = []
    for service in ("service", "worker"):
        group = request.resource_spans.add(schema_url="https://schema.example/1")
        group.resource.attributes.add(key="service.name").value.string_value = service
        scope = group.scope_spans.add()
        scope.scope.name = "scope"
        groups.append(scope.spans)
    for number in range(-1, PHASES + 1):
        span = groups[number % 2].add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=((trace << 32) + number + 2).to_bytes(8, "big"),
            parent_span_id=((trace << 32) + 2).to_bytes(8, "big") if number > 0 else b"",
            name=f"phase-{number}",
            start_time_unix_nano=START_NS + number * 1_000_000,
            end_time_unix_nano=START_NS
            + number * 1_000_000
            + (900_000_000 if number in slow else 500_000),
        )
        said = {
            "spanbus.level": "phase" if number > 0 else "run",
            "cicd.pipeline.name": "large",
            "cicd.pipeline.run.id": f"run-{trace}" if number >= 0 else f"other-{trace}",
            "cicd.pipeline.task.name": f"phase-{number:04}",
            "cicd.pipeline.task.run.result": "failure" if number in FAILED else "success",
            "cicd.pipeline.result": "failure",
        }
        for key, text in said.items():
            span.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    folder = tmp_path_factory.mktemp("large")
    with Store.open(folder / "state" / "store.sqlite3") as store:
        store.ingest("traces", large(1))
        store.ingest("traces", large(2, slow=frozenset({77})))
    return Cli(folder)


def at_terminal(cli: Cli, *arguments: str) -> tuple[int, list[str]]:
    """Run a command at a terminal, and return its exit code and visible lines."""
    with Terminal(cli.argv(*arguments), cli.folder, cli.environment()) as terminal:
        lines = Text.from_ansi(terminal.rest().decode().replace("\r", "")).plain.splitlines()
        return terminal.exit_code(), lines


@pytest.fixture
def store(cli: Cli) -> Iterator[Store]:
    with Store.open(cli.folder / "state" / "store.sqlite3") as one:
        yield one


def test_otlp_output_written_span_by_span_is_the_complete_document(store: Store) -> None:
    pieces = list(store.otlp_json("run-1"))
    assert len(pieces) > PHASES
    assert max(map(len, pieces)) < 5_000
    written = otlp_json.read("".join(pieces).encode(), TracesData())
    received = ExportTraceServiceRequest.FromString(large(1))
    for group in received.resource_spans:
        [scope] = group.scope_spans
        kept = [span for span in scope.spans if "other-1" not in str(span)]
        del scope.spans[:]
        scope.spans.extend(kept)
    by_service = {str(group.resource): group for group in received.resource_spans}
    assert {str(group.resource): group for group in written.resource_spans} == by_service


def test_show_folds_successful_phases_and_keeps_failed_ones(cli: Cli) -> None:
    code, shown = at_terminal(cli, "show", "run-1", "--all")
    assert code == 0
    assert len(shown) < 1_100
    text = "\n".join(shown)
    for number in (1, 2, *FAILED, PHASES - 1, PHASES):
        assert f"phase-{number:04} " in text
    assert text.count(" more; --json has all of them") == 3
    folded = sum(int(line.split()[1].replace(",", "")) for line in shown if " more; --json" in line)
    assert folded == PHASES - 1_000 - len(FAILED)


def test_large_json_has_every_phase_and_is_one_line(cli: Cli) -> None:
    done = cli("show", "run-1", "--all", "--json")
    assert len(done.out.splitlines()) == 1
    assert len(done.json()["phases"]) == PHASES  # type: ignore[arg-type]


def test_diff_shows_the_changed_phases(cli: Cli) -> None:
    code, shown = at_terminal(cli, "diff", "run-1", "run-2", "--all")
    text = "\n".join(shown)
    assert "phase-0077" in text and "slower" in text
    assert len(shown) < 20
    assert f"{PHASES - 3:,} more phases" in text
    assert code == 1


def test_piped_output_is_complete(cli: Cli) -> None:
    shown = cli("show", "run-1", "--all").out
    assert all(f"phase-{number:04} " in shown for number in range(1, PHASES + 1))
    compared = cli("diff", "run-1", "run-2", "--all")
    assert all(f"phase-{number:04} " in compared.out for number in range(1, PHASES + 1))
    assert compared.code == 1
