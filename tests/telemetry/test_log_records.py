"""The logging filter that adds trace, span, run and phase ids to log records of the standard library."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

import spanbus
from spanbus import Phase, Workflow, WorkflowEventBus
from spanbus._store.store import Store
from spanbus.logging import FIELDS, TraceContextFilter

NOTHING = ("-", "-", "-", "-")
WORK = {"workflow_id": "nightly", "step_id": "lint", "phase": "lint"}


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(TraceContextFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def said(self) -> dict[str, tuple[str, ...]]:
        return {
            each.getMessage(): tuple(getattr(each, name) for name in FIELDS)
            for each in self.records
        }


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


logger = logging.getLogger("some.module")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPANBUS_STATE_DIR", str(tmp_path))
    return tmp_path / "store.sqlite3"


async def test_log_records_inside_an_engine_phase_have_its_stored_ids(
    kept: Kept, store: Path
) -> None:
    async def load(context: object) -> None:
        logger.warning("in a coroutine")
        await anyio.to_thread.run_sync(logger.warning, "in a thread of it")

    def count(context: object) -> None:
        logger.warning("in a function")

    phases = (Phase("load", action=load), Phase("count", action=count, needs=("load",)))
    logger.warning("before")
    async with spanbus.open_runtime() as runtime:
        run = await runtime.run(Workflow("import", phases))
    logger.warning("after")
    with Store.open(store) as stored:
        summary = stored.run(run.run_id)
    spans = {each.name: each.span_id for each in summary.phases}
    said = kept.said()
    load_ids = (summary.trace_id, spans["load"], run.run_id, "load")
    assert said["in a coroutine"] == said["in a thread of it"] == load_ids
    assert said["in a function"] == (summary.trace_id, spans["count"], run.run_id, "count")
    assert said["before"] == said["after"] == NOTHING


@pytest.mark.parametrize("mode", ["auto", "wrap"])
async def test_log_records_of_a_task_have_the_run_and_phase_it_announced(
    kept: Kept, store: Path, mode: str
) -> None:
    with spanbus.open_runtime_sync() as runtime:
        async with WorkflowEventBus() as bus:
            with runtime.instrument(bus, mode=mode):  # type: ignore[arg-type]
                await bus.publish("workflow.started", {"workflow_id": "nightly"})
                logger.warning("in the run")
                await bus.publish("workflow.quality.started", WORK)
                logger.warning("in the phase")
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.to_thread.run_sync, logger.warning, "in a task of it")
                await bus.publish("workflow.quality.completed", WORK)
                logger.warning("behind the phase")
                await bus.publish("workflow.completed", {"workflow_id": "nightly"})
                logger.warning("behind the run")
    with Store.open(store) as stored:
        run = stored.run("last")
    said = kept.said()
    in_run = (run.trace_id, run.span_id, run.run_id, "-")
    assert said["in the run"] == said["behind the phase"] == in_run
    in_phase = (run.trace_id, run.phases[0].span_id, run.run_id, "lint")
    assert said["in the phase"] == said["in a task of it"] == in_phase
    assert said["behind the run"] == NOTHING


async def test_concurrent_tasks_have_their_own_ids(kept: Kept, store: Path) -> None:
    async def work(bus: WorkflowEventBus, name: str) -> None:
        await bus.publish("workflow.started", {"workflow_id": name})
        await bus.publish(
            "workflow.quality.started", {"workflow_id": name, "step_id": name, "phase": name}
        )
        await anyio.lowlevel.checkpoint()
        logger.warning(name)
        await bus.publish("workflow.completed", {"workflow_id": name})

    with spanbus.open_runtime_sync() as runtime:
        async with WorkflowEventBus() as bus:
            with runtime.instrument(bus):
                async with anyio.create_task_group() as group:
                    for name in ("one", "two", "three"):
                        group.start_soon(work, bus, name)
    said = kept.said()
    assert [said[name][3] for name in ("one", "two", "three")] == ["one", "two", "three"]
    assert len({said[name][0] for name in ("one", "two", "three")}) == 3


def test_the_ids_of_the_applications_current_span_are_used(kept: Kept) -> None:
    context = SpanContext(0xABC, 0xDEF, is_remote=False)
    with trace.use_span(NonRecordingSpan(context)):
        logger.warning("inside")
    assert kept.said()["inside"] == (f"{0xABC:032x}", f"{0xDEF:016x}", "-", "-")


def test_ids_already_on_a_record_are_kept(kept: Kept) -> None:
    logger.warning("line", extra={"phase": "mine", "run_id": "7"})
    assert kept.said()["line"] == ("-", "-", "7", "mine")


def test_a_record_is_logged_without_ids_when_the_span_raises(kept: Kept) -> None:
    class Broken(NonRecordingSpan):
        def get_span_context(self) -> SpanContext:
            raise OSError("gone")

    with trace.use_span(Broken(SpanContext(1, 1, is_remote=False)), end_on_exit=False):
        logger.warning("line")
    assert kept.said()["line"] == NOTHING


def test_the_filter_works_in_dict_config_with_defaults(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.filters[:], root.level
    try:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {"ids": {"()": "spanbus.logging.TraceContextFilter", "default": "none"}},
                "handlers": {
                    "file": {
                        "class": "logging.FileHandler",
                        "filename": tmp_path / "log",
                    }
                },
                "root": {"handlers": ["file"], "filters": ["ids"], "level": "INFO"},
            }
        )
        (handler,) = root.handlers
        handler.setFormatter(
            logging.Formatter("%(trace_id)s %(message)s", defaults={"trace_id": "?"})
        )
        root.warning("of the logger itself")
        logger.warning("of one below")
        handler.close()
    finally:
        root.handlers[:], root.filters[:] = before[:2]
        root.setLevel(before[2])
    assert (tmp_path / "log").read_text().splitlines() == [
        "none of the logger itself",
        "? of one below",
    ]


def test_a_name_filters_like_logging_filter() -> None:
    one = TraceContextFilter("some")
    said = [logging.makeLogRecord({"name": name}) for name in ("some.module", "other")]
    assert [one.filter(each) for each in said] == [True, False]


def test_the_filter_is_an_attribute_of_the_package() -> None:
    assert spanbus.logging.TraceContextFilter is TraceContextFilter
