"""Fixtures of the backend tests: builders of runs, an archive in memory, a served backend and a real browser."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from playwright.sync_api import Browser, Page, expect, sync_playwright

from spanbus._backend.api import TraceQuery
from spanbus._backend.app import Backend, BackendOptions
from spanbus._otlp.decode import attributes, service_of
from spanbus._runs.listing import PhasePoint, RunGlance, RunHead, TraceHead, results
from spanbus._runs.summary import RunSummary, from_spans
from spanbus._runs.tree import Stored, stored
from spanbus._store.series import Series
from spanbus.errors import RunNotFound

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
MS = 1_000_000

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "\u202egnp.exe\u202c",
    "bell\x07 esc\x1b[31mred\x1b[0m nul\x00 back\x08 csi\x9b1m",
    "`code` | pipe | @mention <!-- comment --> [link](javascript:alert(1))",
    "ل" * 40 + " العربية",
    "long" * 2_000,
    "zero\u200bwidth\u2028line\nbreak\ttab",
    "{{7*7}} ${7*7} %s {0}",
    " ",
)


@dataclass
class RunBuilder:
    """A builder of the OTLP spans of a run, as spanbus sends them."""

    workflow: str = "standard"
    run_id: str = "run-1"
    number: int = 1
    start_ns: int = START_NS
    request: ExportTraceServiceRequest = field(default_factory=ExportTraceServiceRequest)
    _ids: int = 0

    def __post_init__(self) -> None:
        group = self.request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = "spanbus"
        group.resource.attributes.add(key="spanbus.lifetime").value.string_value = "run"
        scope = group.scope_spans.add()
        scope.scope.name = "spanbus"
        self._spans = scope.spans

    @property
    def trace_id(self) -> bytes:
        return self.number.to_bytes(16, "big")

    def span(
        self,
        level: str,
        name: str,
        start_ms: float,
        length_ms: float,
        *,
        parent: Span | None = None,
        result: str = "success",
        **attributes: str | int,
    ) -> Span:
        self._ids += 1
        span = self._spans.add(
            trace_id=self.trace_id,
            span_id=(self.number * 1_000_000 + self._ids).to_bytes(8, "big"),
            parent_span_id=parent.span_id if parent is not None else b"",
            name=f"RUN {name}" if level == "run" else f"hook {name}" if level == "hook" else name,
            kind=Span.SPAN_KIND_SERVER if level == "run" else Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=self.start_ns + int(start_ms * MS),
            end_time_unix_nano=self.start_ns + int((start_ms + length_ms) * MS),
        )
        said: dict[str, str | int] = {
            "cicd.pipeline.name": self.workflow,
            "cicd.pipeline.run.id": self.run_id,
            "spanbus.level": level,
        }
        said[
            "cicd.pipeline.result"
            if level == "run"
            else "spanbus.hook.result"
            if level in ("hook", "command")
            else "cicd.pipeline.task.run.result"
        ] = result
        if level in ("phase", "attempt"):
            said["cicd.pipeline.task.name"] = name
        if level == "hook":
            said["spanbus.hook.name"] = name
        said.update({name.replace("__", "."): value for name, value in attributes.items()})
        for key, value in said.items():
            one = span.attributes.add(key=key).value
            if isinstance(value, int):
                one.int_value = value
            else:
                one.string_value = value.encode("utf-8", "replace").decode()
        if result in ("failure", "timeout", "error"):
            span.status.code = Status.STATUS_CODE_ERROR
            span.status.message = str(attributes.get("error__type", "it failed"))
        return span

    def event(self, span: Span, at_ms: float, name: str, **payload: str) -> None:
        event = span.events.add(time_unix_nano=self.start_ns + int(at_ms * MS), name=name)
        for key, value in payload.items():
            event.attributes.add(key=f"spanbus.payload.{key}").value.string_value = value

    def body(self) -> bytes:
        return self.request.SerializeToString()

    def stored(self) -> list[Stored]:
        return list(stored(self.request.resource_spans))


def failing_run(**options: object) -> RunBuilder:
    """Four phases: one retried, one failed with output, one skipped."""
    build = RunBuilder(**options)  # type: ignore[arg-type]
    top = build.span("run", build.workflow, 0, 4_200, result="failure", error__type="unsuccessful")
    fast = build.span("phase", "fast_hooks", 50, 1_300, parent=top, spanbus__phase__attempts=2)
    build.event(fast, 55, "hooks.strategy.started", strategy="fast")
    build.event(fast, 700, "workflow.phase.retrying", attempt="1")
    build.event(fast, 1_345, "hooks.strategy.completed", strategy="fast", success="true")
    first = build.span(
        "attempt",
        "fast_hooks",
        50,
        600,
        parent=fast,
        result="failure",
        error__type="unsuccessful",
        spanbus__phase__attempt=1,
    )
    build.span(
        "hook",
        "ruff",
        60,
        500,
        parent=first,
        result="failure",
        error__type="unsuccessful",
        spanbus__output__tail="app.py:1:1: F401 `os` imported but unused\nFound 1 error.\n",
    )
    second = build.span("attempt", "fast_hooks", 710, 640, parent=fast, spanbus__phase__attempt=2)
    build.span("hook", "ruff", 720, 600, parent=second)
    build.span("phase", "cleaning", 60, 400, parent=top)
    tests = build.span(
        "phase",
        "tests",
        1_400,
        2_750,
        parent=top,
        result="failure",
        error__type="unsuccessful",
        spanbus__output__tail="FAILED tests/test_shop.py::test_total - assert 3 == 4\n1 failed, 12 passed in 2.61s\n",
    )
    build.event(tests, 1_405, "workflow.quality.started", phase="testing")
    build.event(tests, 4_140, "workflow.failed", phase="testing", error="exit code 1")
    build.span(
        "phase",
        "publish",
        4_150,
        0,
        parent=top,
        result="skip",
        spanbus__skip__reason="tests failed",
    )
    return build


def hostile_run(**options: object) -> RunBuilder:
    """Return a run with every hostile text in every text field."""
    build = RunBuilder(workflow=HOSTILE[0], **options)  # type: ignore[arg-type]
    top = build.span("run", HOSTILE[0], 0, 1_000, result="failure", error__type=HOSTILE[1])
    for at, text in enumerate(HOSTILE):
        clean = text.encode("utf-8", "replace").decode()
        phase = build.span(
            "phase",
            clean,
            at * 100,
            90,
            parent=top,
            result="failure",
            error__type=clean,
            spanbus__output__tail=clean,
        )
        phase.attributes.add(key=clean).value.string_value = clean
        build.event(phase, at * 100 + 5, clean, text=clean)
        build.span("hook", clean, at * 100, 50, parent=phase, result="failure")
    return build


def large_run(spans: int = 10_000, **options: object) -> RunBuilder:
    """Return a run with many phases and hooks."""
    build = RunBuilder(workflow="large", **options)  # type: ignore[arg-type]
    top = build.span("run", "large", 0, spans)
    made = 1
    while made < spans:
        phase = build.span("phase", f"phase {made}", made, 95, parent=top)
        made += 1
        for _ in range(min(99, spans - made)):
            hook = build.span(
                "hook",
                f"hook {made}",
                made,
                1.5,
                parent=phase,
                result="failure" if made % 1_000 == 7 else "success",
            )
            build.event(hook, made + 0.5, "hooks.execution.completed", hook=f"hook {made}")
            made += 1
    return build


class MemoryArchive:
    """An in-memory archive that is searched linearly."""

    def __init__(self) -> None:
        self.groups: list[ResourceSpans] = []
        self.metrics: list[bytes] = []
        self.logs: list[bytes] = []
        self.series: list[Series] = []

    def ingest_traces(self, body: bytes) -> None:
        self.groups += ExportTraceServiceRequest.FromString(body).resource_spans

    def ingest_metrics(self, body: bytes) -> None:
        self.metrics.append(body)

    def ingest_logs(self, body: bytes) -> None:
        self.logs.append(body)

    def metric_series(self) -> list[Series]:
        return self.series

    def trace(self, trace_id: str) -> list[ResourceSpans]:
        wanted, found = bytes.fromhex(trace_id), list[ResourceSpans]()
        for group in self.groups:
            for scope in group.scope_spans:
                spans = [span for span in scope.spans if span.trace_id == wanted]
                if spans:
                    found.append(
                        ResourceSpans(
                            resource=group.resource,
                            scope_spans=[ScopeSpans(scope=scope.scope, spans=spans)],
                        )
                    )
        return found

    def trace_pieces(self, trace_id: str) -> Iterator[list[ResourceSpans]]:
        for group in self.trace(trace_id):
            yield [group]

    def _named(self) -> list[tuple[str, Span, dict[str, object]]]:
        return [
            (service_of(one.resource), one.span, attributes(one.span.attributes))
            for one in stored(self.groups)
        ]

    def dependencies(self, start_ns: int, end_ns: int) -> list[tuple[str, str, int]]:
        del start_ns, end_ns
        return []

    def services(self) -> list[str]:
        return sorted({service for service, _, _ in self._named()})

    def operations(self, service: str) -> list[tuple[str, int]]:
        return sorted(
            {(span.name, int(span.kind)) for owner, span, _ in self._named() if owner == service}
        )

    def trace_ids(self, query: TraceQuery) -> list[str]:
        found: dict[str, int] = {}
        for service, span, said in self._named():
            length = span.end_time_unix_nano - span.start_time_unix_nano
            if (
                query.service in (None, service)
                and query.operation in (None, span.name)
                and query.start_ns <= span.start_time_unix_nano <= query.end_ns
                and query.min_ns <= length <= query.max_ns
                and all(str(said.get(key)) == value for key, value in query.tags.items())
            ):
                found[span.trace_id.hex()] = max(
                    found.get(span.trace_id.hex(), 0), span.start_time_unix_nano
                )
        return sorted(found, key=lambda each: -found[each])[: query.limit]

    def run_heads(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        result: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[RunHead]:
        heads = [
            RunHead(
                str(said["cicd.pipeline.run.id"]),
                str(said["cicd.pipeline.name"]),
                span.trace_id.hex(),
                span.span_id.hex(),
                str(said["cicd.pipeline.result"]),
                str(said["error.type"]) if "error.type" in said else None,
                span.start_time_unix_nano,
                (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                service,
            )
            for service, span, said in self._named()
            if said.get("spanbus.level") == "run"
        ]
        heads = [
            head
            for head in heads
            if workflow in (None, head.workflow)
            and project in (None, head.project)
            and (not result or head.result in results(result))
            and head.started_at_ns >= (since_ns or 0)
            and (text is None or text in head.workflow or head.run_id.startswith(text))
        ]
        return sorted(heads, key=lambda head: -head.started_at_ns)[offset : offset + limit]

    def run_head(self, run: str) -> RunHead:
        heads = self.run_heads(limit=100_000)
        found = (
            heads[:1] if run == "last" else [head for head in heads if head.run_id.startswith(run)]
        )
        if len(found) != 1:
            raise RunNotFound(f"no run {run}")
        return found[0]

    def projects(self) -> list[str]:
        return sorted(
            {service for service, _, said in self._named() if said.get("spanbus.level") == "run"}
        )

    def workflows(self) -> list[str]:
        return sorted({head.workflow for head in self.run_heads(limit=100_000)})

    def trace_heads(
        self,
        *,
        service: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
    ) -> list[TraceHead]:
        del service, text, since_ns, limit
        return []

    def phase_points(
        self,
        *,
        since_ns: int,
        workflow: str | None,
        limit: int,
        project: str | None = None,
        phase: str | None = None,
    ) -> list[PhasePoint]:
        points = [
            PhasePoint(
                str(said["cicd.pipeline.name"]),
                str(said["cicd.pipeline.task.name"]),
                str(said["cicd.pipeline.run.id"]),
                span.start_time_unix_nano,
                (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                str(said["cicd.pipeline.task.run.result"]),
                service,
            )
            for service, span, said in self._named()
            if said.get("spanbus.level") == "phase" and span.start_time_unix_nano >= since_ns
        ]
        return sorted(
            (
                point
                for point in points
                if workflow in (None, point.workflow)
                and project in (None, point.project)
                and phase in (None, point.phase)
            ),
            key=lambda point: point.started_at_ns,
        )[-limit:]

    def glances(self, heads: Sequence[RunHead]) -> list[RunGlance]:
        return [RunGlance() for _ in heads]

    def run(self, run: RunHead) -> RunSummary:
        spans = [one.span for one in stored(self.trace(run.trace_id))]
        found = from_spans(spans, bytes.fromhex(run.span_id))
        assert found is not None
        return found


class ServedBackend:
    """A complete backend on a real socket, in a thread."""

    def __init__(self, archive: MemoryArchive, backend: Backend, port: int, token: str) -> None:
        self.archive, self.backend, self.port, self.token = archive, backend, port, token
        self.url = f"http://127.0.0.1:{port}"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(
                method,
                path,
                body,
                {name.replace("_", "-"): value for name, value in headers.items()},
            )
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def send(self, run: RunBuilder) -> None:
        assert (
            self.ask(
                "/v1/traces", method="POST", body=run.body(), content_type="application/x-protobuf"
            )[0]
            == 200
        )


@contextmanager
def serving_backend(jaeger_url: str | None = None) -> Generator[ServedBackend]:
    archive = MemoryArchive()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = int(listener.getsockname()[1])
    backend = Backend(
        archive, BackendOptions(token="the-token", cookie=f"spanbus_{port}", jaeger_url=jaeger_url)
    )
    config = uvicorn.Config(
        backend.app,
        log_config=None,
        http="h11",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield ServedBackend(archive, backend, port, "the-token")
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture
def served() -> Iterator[ServedBackend]:
    with serving_backend() as one:
        yield one


CHROMIUM = (
    os.environ.get("SPANBUS_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not os.path.exists(CHROMIUM):
        reason = (
            "no chromium on this machine: apt-get install chromium, or set SPANBUS_TEST_CHROMIUM"
        )
        if "TESTS_IN_CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=30_000)  # the machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], list[object]]:
    """Return the violations that axe-core finds on a page: rules with the elements that break them."""
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    def look(page: Page) -> list[object]:
        if not page.evaluate("'axe' in window"):
            page.evaluate(source)  # by the debugger, whatever the page's policy is
        found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert len(found["passes"]) > 10
        return [
            (each["id"], [node["html"][:200] for node in each["nodes"]])
            for each in found["violations"]
        ]

    return look


@pytest.fixture
def failing() -> RunBuilder:
    return failing_run()


@pytest.fixture
def hostile() -> RunBuilder:
    return hostile_run()


@pytest.fixture
def large() -> RunBuilder:
    return large_run()


@pytest.fixture(scope="session")
def failing_runs() -> Callable[..., RunBuilder]:
    return failing_run


@pytest.fixture(scope="session")
def hostile_runs() -> Callable[..., RunBuilder]:
    return hostile_run


@pytest.fixture(scope="session")
def large_runs() -> Callable[..., RunBuilder]:
    return large_run


@pytest.fixture(scope="session")
def empty_runs() -> type[RunBuilder]:
    return RunBuilder
