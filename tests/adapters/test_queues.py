"""arq, RQ and Procrastinate: what is recorded of the jobs of a worker, by the one line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import arq
import procrastinate
import pytest
import redis
import rq
from arq.connections import RedisSettings
from arq.worker import Worker
from brokers import Redis
from opentelemetry import trace
from procrastinate.testing import InMemoryConnector

import spanbus
from spanbus.errors import InputError

Drawn = Callable[[], list[str]]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated close:DeprecationWarning"
)  # arq's


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def store(server: Redis) -> Generator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture(autouse=True)
def quiet() -> None:
    for name in ("arq", "rq", "rq.worker", "procrastinate"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def span_id() -> int:
    return trace.get_current_span().get_span_context().span_id


# --- arq --------------------------------------------------------------------------------------------------------------


async def add(context: Any, a: int, b: int) -> tuple[int, int]:
    return a + b, span_id()


async def fail(context: Any) -> None:
    raise ValueError("no")


async def flaky(context: Any) -> str:
    if context["job_try"] < 3:
        raise arq.Retry(defer=0)
    return "ok"


async def never(context: Any) -> None:
    raise arq.Retry(defer=0)


async def endless(context: Any) -> None:
    await asyncio.sleep(600)


def arq_worker(server: Redis, **options: Any) -> Any:
    limited = [arq.func(never, max_tries=2), arq.func(endless, name="slow", timeout=0.2)]
    return Worker(
        [add, fail, flaky, endless, *limited],
        redis_settings=RedisSettings(port=server.port),
        poll_delay=0.02,
        **options,
    )


@pytest.mark.usefixtures("store")
def test_jobs_of_arq(runtime: spanbus.Runtime, drawn: Drawn, server: Redis) -> None:
    async def main() -> None:
        handle = runtime.instrument(arq)
        pool = await arq.create_pool(RedisSettings(port=server.port))
        sums = [await pool.enqueue_job("add", 1, 2), await pool.enqueue_job("add", 3, 4)]
        for name in ("fail", "flaky", "never", "slow", "unknown"):
            await pool.enqueue_job(name)
        worker = arq_worker(server, burst=True, handle_signals=False)
        await worker.async_run()
        results = [await one.result() for one in sums if one is not None]
        assert [one[0] for one in results] == [3, 7]
        assert len({one[1] for one in results} - {0}) == 2, "each is current inside"
        assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (3, 4, 4)
        assert handle.state().errors == 0
        handle.detach()
        assert worker.functions["add"].coroutine is add
        await worker.close()
        await pool.aclose()

    asyncio.run(main())
    assert drawn() == [
        "RUN add success",
        "  add success",
        "RUN add success",
        "  add success",
        "RUN fail failure ValueError",
        "  fail failure ValueError",
        "RUN flaky success",
        "  flaky success",
        "    flaky attempt 1 failure arq.worker.Retry",
        "    flaky attempt 2 failure arq.worker.Retry",
        "    flaky attempt 3 success",
        "RUN never failure arq.worker.Retry",
        "  never failure arq.worker.Retry",
        "    never attempt 1 failure arq.worker.Retry",
        "    never attempt 2 failure arq.worker.Retry",
        "RUN slow timeout timeout",
        "  slow timeout timeout",
        "RUN unknown failure arq.worker.JobExecutionFailed",
        "  unknown failure arq.worker.JobExecutionFailed",
    ]


@pytest.mark.usefixtures("store")
def test_jobs_of_arq_that_are_aborted_or_cut(
    runtime: spanbus.Runtime, drawn: Drawn, server: Redis
) -> None:
    async def main() -> None:
        pool = await arq.create_pool(RedisSettings(port=server.port))
        worker = arq_worker(server, allow_abort_jobs=True)
        handle = runtime.instrument(worker)
        running = asyncio.create_task(worker.async_run())
        aborted, cut = await pool.enqueue_job("endless"), await pool.enqueue_job("slow")
        assert aborted is not None and cut is not None
        while aborted.job_id not in worker.job_tasks:
            await asyncio.sleep(0.01)
        assert await aborted.abort(timeout=20)
        with pytest.raises(TimeoutError):
            await cut.result(timeout=20)
        left = await pool.enqueue_job("endless")
        assert left is not None
        while left.job_id not in worker.job_tasks:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert handle.state().errors == 0
        await worker.close()
        await pool.aclose()

    asyncio.run(main())
    assert drawn() == [
        "RUN endless cancellation",
        "  endless cancellation",
        "RUN endless cancellation",
        "  endless cancellation",
        "RUN slow timeout timeout",
        "  slow timeout timeout",
    ]


def test_what_runs_no_jobs_is_refused(runtime: spanbus.Runtime) -> None:
    with pytest.raises(InputError, match=r"spanbus\.instrument\(arq\)"):
        runtime.instrument(RedisSettings())
    with pytest.raises(InputError, match="instrument the worker, or rq"):
        runtime.instrument(rq.Retry(max=1))
    with pytest.raises(InputError, match="instrument an App of Procrastinate"):
        runtime.instrument(procrastinate.RetryStrategy())


# --- RQ ---------------------------------------------------------------------------------------------------------------


TASKS = """
import os
import signal
import time
from pathlib import Path

import rq
from opentelemetry import trace

def ok():
    return trace.get_current_span().get_span_context().span_id

def wrong():
    raise ValueError("no: " + chr(0x1F4A5) * 2_000)

def tried(path):
    with Path(path).open("a") as times:
        times.write("x")
    times_tried = Path(path).stat().st_size
    if times_tried == 1:
        raise ConnectionError("refused")
    return rq.Retry(max=1) if times_tried == 2 else ok()

def slow():
    time.sleep(600)

def killed():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def nightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of jobs, for this process and for those that are spawned."""
    (tmp_path / "nightly.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


TRIED = [
    "RUN nightly.tried success",
    "  nightly.tried success",
    "    nightly.tried attempt 1 failure{error}",
    "    nightly.tried attempt 2 failure unsuccessful",
    "    nightly.tried attempt 3 success",
]


@pytest.mark.usefixtures("nightly")
@pytest.mark.parametrize("kind", ["Worker", "SimpleWorker", "SpawnWorker"])
def test_jobs_of_rq(
    runtime: spanbus.Runtime, drawn: Drawn, store: redis.Redis, tmp_path: Path, kind: str
) -> None:
    handle = runtime.instrument(rq)
    queue = rq.Queue(connection=store)
    here = "nightly."
    spans = [queue.enqueue(here + "ok") for _ in range(2)]
    queue.enqueue(here + "wrong")
    last = queue.enqueue(here + "tried", str(tmp_path / "tried"), retry=rq.Retry(max=3))
    queue.enqueue(here + "slow", job_timeout=1)
    if kind != "SimpleWorker":
        queue.enqueue(here + "killed")
    worker = getattr(rq.worker, kind)([queue], connection=store)
    worker.work(burst=True, logging_level="CRITICAL")
    found = [one.return_value() for one in (*spans, last)]
    if kind == "SpawnWorker":  # a process that is told nothing
        assert found == [0, 0, 0]
    else:
        assert len(set(found) - {0}) == 3, "each is current inside"
    assert (handle.state().errors, handle.state().last_error) == (0, None)
    handle.detach()
    queue.enqueue(here + "ok")
    rq.SimpleWorker([queue], connection=store).work(burst=True, logging_level="CRITICAL")
    error = " unsuccessful" if kind == "SpawnWorker" else " ConnectionError"
    dead = ["RUN nightly.killed failure killed", "  nightly.killed failure killed"]
    assert drawn() == [
        *(dead if kind != "SimpleWorker" else []),
        "RUN nightly.ok success",
        "  nightly.ok success",
        "RUN nightly.ok success",
        "  nightly.ok success",
        "RUN nightly.slow timeout timeout",
        "  nightly.slow timeout timeout",
        *(line.format(error=error) for line in TRIED),
        "RUN nightly.wrong failure ValueError",
        "  nightly.wrong failure ValueError",
    ]


@pytest.mark.usefixtures("nightly")
def test_one_worker_of_rq_alone(runtime: spanbus.Runtime, drawn: Drawn, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    mine = rq.SimpleWorker([queue], connection=store)
    other = rq.SimpleWorker([queue], connection=store)
    runtime.instrument(mine)
    for worker, name in ((mine, "nightly.ok"), (other, "nightly.wrong")):
        queue.enqueue(name)
        worker.work(burst=True, logging_level="CRITICAL")
    assert drawn() == ["RUN nightly.ok success", "  nightly.ok success"]


# --- Procrastinate ----------------------------------------------------------------------------------------------------


def test_jobs_of_procrastinate(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen: list[int] = []
    store = InMemoryConnector()
    app = procrastinate.App(connector=store)
    pages = iter([ConnectionError("refused"), None])

    @app.task(name="plain")
    def plain() -> None:
        seen.append(span_id())

    @app.task(name="later")
    async def later() -> None:
        seen.append(span_id())

    @app.task(name="wrong")
    def wrong() -> None:
        raise ValueError("no")

    @app.task(name="flaky", retry=procrastinate.RetryStrategy(max_attempts=3))
    def flaky() -> None:
        if (error := next(pages)) is not None:
            raise error

    @app.task(name="never", retry=1)
    async def never() -> None:
        raise ConnectionError("refused")

    @app.task(name="endless")
    async def endless() -> None:
        await asyncio.sleep(600)

    async def main() -> None:
        handle = runtime.instrument(app)
        options: dict[str, Any] = {"install_signal_handlers": False, "listen_notify": False}
        async with app.open_async():
            for task in (plain, later, plain, wrong, flaky, never):
                await task.defer_async()
            await app.configure_task("unknown", allow_unknown=True).defer_async()
            for _ in range(2):
                await app.run_worker_async(wait=False, concurrency=3, **options)
                for job in store.jobs.values():
                    job["scheduled_at"] = None
            await endless.defer_async()
            worker = asyncio.create_task(
                app.run_worker_async(abort_job_polling_interval=0.02, **options)
            )
            job_id, job = max(store.jobs.items())
            while job["status"] != "doing":
                await asyncio.sleep(0.01)
            assert await app.job_manager.cancel_job_by_id_async(job_id, abort=True)
            while job["status"] != "aborted":
                await asyncio.sleep(0.01)
            worker.cancel()
            with pytest.raises(asyncio.CancelledError):
                await worker
        assert (handle.state().errors, handle.state().last_error) == (0, None)

    asyncio.run(main())
    assert len(set(seen) - {0}) == 3, "each is current inside, in threads too"
    assert drawn() == [
        "RUN endless cancellation",
        "  endless cancellation",
        "RUN flaky success",
        "  flaky success",
        "    flaky attempt 1 failure ConnectionError",
        "    flaky attempt 2 success",
        "RUN later success",
        "  later success",
        "RUN never failure ConnectionError",
        "  never failure ConnectionError",
        "    never attempt 1 failure ConnectionError",
        "    never attempt 2 failure ConnectionError",
        "RUN plain success",
        "  plain success",
        "RUN plain success",
        "  plain success",
        "RUN unknown failure TaskNotFound",
        "  unknown failure TaskNotFound",
        "RUN wrong failure ValueError",
        "  wrong failure ValueError",
    ]


def test_the_example_of_the_documents(example: Callable[..., list[str]], drawn: Drawn) -> None:
    expected = example("Procrastinate")
    assert drawn() == expected
