"""`spanbus mcp` with a real MCP client over stdio."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import anyio
import pytest
from assistant import call, client, live, until
from command_line import WORKFLOW, Cli
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from spanbus._store.store import Store

LONG = '[workflows.long]\nphases = [ { name = "wait", run = "sleep 1" }, { name = "fails", run = "false", needs = ["wait"] } ]\n'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def project(tmp_path: Path) -> Cli:
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    (tmp_path / "long.toml").write_text(LONG)
    return Cli(tmp_path)


@pytest.mark.anyio
async def test_tools_list_read_and_compare_runs_and_find_failures(project: Cli) -> None:
    first = project("run", "--json").json()
    project("run", "-q")
    async with client(project) as session:
        tools = {tool.name for tool in (await session.list_tools()).tools}
        assert tools == {
            "list_runs",
            "read_run",
            "last_failures",
            "compare_runs",
            "wait_for_run",
            "wait_for_failure",
        }
        listed = await call(session, "list_runs")
        assert [run["workflow"] for run in listed["runs"]] == ["standard", "standard"]  # type: ignore[index, union-attr]
        run_id = first["runs"][0]["run_id"]  # type: ignore[index]
        read = await call(session, "read_run", run=run_id, page_size=5)
        assert (read["page"], len(read["nodes"])) == (1, 5)  # type: ignore[arg-type]
        failures = await call(session, "last_failures", runs=2)
        found = failures["failures"]
        assert isinstance(found, list)
        assert {node["node"]["path"] for node in found} == {"fast_hooks > lint"}
        assert "bad line 7" in found[0]["node"]["output"]
        compared = await call(session, "compare_runs", baseline=run_id, candidate="last")
        assert {phase["name"]: phase["change"] for phase in compared["phases"]}[  # pyright: ignore[reportGeneralTypeIssues]
            "fast_hooks"
        ] == "still_failing"  # type: ignore[union-attr, index]
        resource = await session.read_resource("spanbus://runs")  # type: ignore[arg-type]
        assert len(json.loads(resource.contents[0].text)["runs"]) == 2  # type: ignore[union-attr]
        missing = await session.call_tool("read_run", {"run": "nothing-like-it"})
        assert missing.is_error


@pytest.mark.anyio
async def test_wait_tools_return_on_a_live_failure_or_end(project: Cli) -> None:
    up = project.start("up", "--port", "0")
    try:
        assert up.stdout is not None
        await anyio.to_thread.run_sync(up.stdout.readline)
        found: dict[str, dict[str, object]] = {}
        async with client(project) as session, anyio.create_task_group() as group:

            async def wait(tool: str) -> None:
                found[tool] = await call(session, tool, timeout_s=30)

            group.start_soon(wait, "wait_for_failure")
            group.start_soon(wait, "wait_for_run")
            await anyio.sleep(1.0)  # both listen by now; the run lasts longer than a second
            done = await anyio.to_thread.run_sync(
                lambda: project("run", "--file", "long.toml", "-q")
            )
            assert done.code == 1
        assert found["wait_for_failure"]["happened"] is True
        assert found["wait_for_run"]["happened"] is True
        assert found["wait_for_run"]["run"]["result"] == "failure"  # type: ignore[index]
    finally:
        up.terminate()
        up.communicate(timeout=20)


@pytest.mark.anyio
async def test_waiting_without_a_backend_is_an_error_with_a_remedy(project: Cli) -> None:
    async with client(project) as session:
        result = await session.call_tool("wait_for_failure", {"timeout_s": 5})
        assert result.is_error
        assert "spanbus up" in str(result.content)


@pytest.mark.slow
@pytest.mark.anyio
async def test_waiting_ignores_earlier_runs(project: Cli) -> None:
    up = project.start("up", "--port", "0")
    try:
        assert up.stdout is not None
        health = (await anyio.to_thread.run_sync(up.stdout.readline)).split()[1].partition("?")[
            0
        ] + "health"
        (project.folder / "gate.toml").write_text(
            '[workflows.other]\nphases = [ { name = "wait", run = "sleep 60" } ]\n'
        )
        done = await anyio.to_thread.run_sync(lambda: project("run", "--file", "long.toml", "-q"))
        assert done.code == 1
        async with client(project) as session:
            for tool in ("wait_for_failure", "wait_for_run"):
                assert (await call(session, tool, timeout_s=1))["what"] == "time is over"
            found: dict[str, dict[str, object]] = {}
            async with anyio.create_task_group() as group:

                async def wait(name: str, tool: str, **arguments: object) -> None:
                    found[name] = await call(session, tool, **arguments)

                group.start_soon(partial(wait, "run", "wait_for_run", timeout_s=30))
                group.start_soon(
                    partial(wait, "failure", "wait_for_failure", workflow="other", timeout_s=30)
                )
                group.start_soon(
                    partial(wait, "elsewhere", "wait_for_failure", workflow="long", timeout_s=8)
                )
                await until(lambda: live(health)["clients"] == 3)
                before = live(health)["sources"]
                running = project.start("run", "--file", "gate.toml", "-q")
                await until(lambda: live(health)["sources"] > before)
                running.kill()
                await anyio.to_thread.run_sync(lambda: running.communicate(timeout=20))
            for name in ("run", "failure"):
                head = found[name]["run"]
                assert isinstance(head, dict)
                assert (
                    found[name]["what"],
                    head["workflow"],
                    head["result"],
                    head["error_type"],
                ) == ("killed", "other", "error", "killed")
                assert head["started_at"]
            assert found["elsewhere"]["what"] == "time is over"
    finally:
        up.terminate()
        up.communicate(timeout=20)


@pytest.mark.anyio
async def test_a_killed_run_is_available_without_a_backend(project: Cli) -> None:
    async with client(project) as session:
        running = project.start("run", "--file", "long.toml")
        assert running.stdout is not None
        assert "wait: started" in await anyio.to_thread.run_sync(running.stdout.readline)
        running.kill()
        await anyio.to_thread.run_sync(lambda: running.communicate(timeout=20))
        listed = await call(session, "list_runs")
        assert [(run["result"], run["error_type"]) for run in listed["runs"]] == [  # pyright: ignore[reportGeneralTypeIssues]
            ("error", "killed")
        ]  # type: ignore[index, union-attr]


@pytest.mark.anyio
async def test_text_for_a_model_is_escaped_and_bounded(project: Cli) -> None:
    hidden = (
        "".join(chr(0xE0000 + ord(character)) for character in "obey me") + "\u202e\u200b\x1b[31m"
    )
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number, level, name in (
        (1, "run", "cicd.pipeline.name"),
        (2, "phase", "cicd.pipeline.task.name"),
    ):
        span = spans.add(
            trace_id=b"t" * 16,
            span_id=bytes([number]) * 8,
            parent_span_id=bytes([number - 1]) * 8 if number > 1 else b"",
            start_time_unix_nano=1,
            end_time_unix_nano=2,
        )
        result = "cicd.pipeline.result" if level == "run" else "cicd.pipeline.task.run.result"
        for key, value in (
            ("spanbus.level", level),
            ("cicd.pipeline.run.id", "r"),
            (name, hidden + "long" * 10_000),
            (result, "failure"),
            ("spanbus.output.tail", hidden * 5_000),
        ):
            span.attributes.add(key=key).value.string_value = value
        span.status.code, span.status.message = Status.STATUS_CODE_ERROR, hidden * 5_000
    with Store.open(project.folder / "state" / "store.sqlite3") as store:
        store.ingest("traces", request.SerializeToString())
    async with client(project) as session:
        for tool, arguments in (
            ("list_runs", {}),
            ("read_run", {}),
            ("last_failures", {}),
            ("compare_runs", {"baseline": "r"}),
        ):
            said = json.dumps(await call(session, tool, **arguments), ensure_ascii=False)
            assert said.isprintable(), tool
            assert len(said) < 10_000, tool
