"""What goes wrong around a phase on Celery: workers, hosts, broker, results, the run itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import pytest
from brokers import Redis, Worker, library
from spans import attributes

import spanbus
from spanbus import Phase, RunResult, Workflow
from spanbus.errors import InputError
from spanbus.testing import Receiver

Start = Callable[[Worker], Worker]
RESTORED_SOON = (
    '{"broker_transport_options": {"visibility_timeout": 4, "unacked_restore_interval": 1, '
    '"unacked_restore_throttle": 1}}'
)


@pytest.fixture
def runtime(collector: Receiver, state_dir: Path) -> Generator[spanbus.Runtime]:
    env = {**collector.env, "SPANBUS_STATE_DIR": str(state_dir)}
    with spanbus.open_runtime_sync(env=env) as runtime:
        yield runtime


def told(result: RunResult) -> list[tuple[str, str, str | None]]:
    return [(one.name, one.result, one.error_type) for one in result.phases]


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
async def test_a_host_that_is_killed_gives_its_task_to_another(
    broker: str,
    request: pytest.FixtureRequest,
    redis: Redis,
    collector: Receiver,
    runtime: spanbus.Runtime,
    workers: Start,
    tmp_path: Path,
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    url = f"{redis.url}/4" if broker == "redis" else request.getfixturevalue("rabbitmq").url
    backend, env, queue = f"{redis.url}/5", dict(collector.env), f"killed-{broker}"
    if broker == "redis":
        env["TASKS_SETTINGS"] = RESTORED_SOON
    tasks, mark = make(url, backend), tmp_path / "mark"
    one = workers(Worker(tmp_path / "one", url, backend, env, "-c", "1", "-Q", queue, name="one"))
    action = on_celery(tasks.late, args=(str(mark), 1.0), queue=queue)
    found: list[RunResult] = []
    async with anyio.create_task_group() as group:

        async def run() -> None:
            found.append(
                await runtime.run(Workflow("host", (Phase("late", action=action, timeout_s=60.0),)))
            )

        group.start_soon(run)
        with anyio.fail_after(30):
            while not mark.exists():
                await anyio.sleep(0.02)
        one.kill()
        workers(Worker(tmp_path / "two", url, backend, env, "-c", "1", "-Q", queue, name="two"))
    assert told(found[0]) == [("late", "success", None)]
    assert found[0].phases[0].value == "second", "the second execution knows that it is one"
    # what was open on the first host is told by the next process there
    workers(
        Worker(tmp_path / "one", url, backend, env, "-c", "1", "-Q", f"{queue}-2", name="again")
    )
    tasks.ok.apply_async(queue=f"{queue}-2")
    assert collector.wait_until(lambda got: len(_executions(got, "late")) == 2, 30.0)
    killed, second = _executions(collector, "late")
    assert killed == ("error", "killed", "one@test", None)
    assert second == ("success", None, "two@test", True)


def _executions(collector: Receiver, name: str) -> list[tuple[object, ...]]:
    spans = sorted(collector.spans(), key=lambda span: span.start_time_unix_nano)
    return [
        tuple(
            attributes(span).get(key)
            for key in (
                "cicd.pipeline.task.run.result",
                "error.type",
                "spanbus.worker",
                "spanbus.redelivered",
            )
        )
        for span in spans
        if span.name == name and attributes(span).get("spanbus.level") == "execution"
    ]


async def test_a_task_that_somebody_else_revokes_is_cancelled(
    redis: Redis, collector: Receiver, runtime: spanbus.Runtime, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    broker, backend = f"{redis.url}/6", f"{redis.url}/7"
    tasks, mark = make(broker, backend), tmp_path / "mark"
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-c", "1"))
    ids: list[str] = []
    from celery.signals import after_task_publish

    def published(headers: dict[str, object], **_: object) -> None:
        ids.append(str(headers["id"]))

    after_task_publish.connect(published, weak=False)
    found: list[RunResult] = []
    try:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                phase = Phase("late", action=on_celery(tasks.late, args=(str(mark), 60.0)))
                found.append(await runtime.run(Workflow("revoked", (phase,)), run_id="x" * 10_000))

            group.start_soon(run)
            with anyio.fail_after(30):
                while not mark.exists():
                    await anyio.sleep(0.02)
            tasks.app.control.revoke(ids[0], terminate=True, signal="SIGTERM")
    finally:
        after_task_publish.disconnect(published)
    assert told(found[0]) == [("late", "cancellation", None)]
    assert found[0].result == "cancellation"
    assert len(ids[0]) <= 155, "a run id of ten thousand characters makes no task id that long"
    assert collector.wait_until(lambda got: len(_executions(got, "late")) == 1, 30.0)
    assert _executions(collector, "late") == [("error", "terminated", "worker@test", None)]


async def test_a_run_that_is_cancelled_revokes_its_task_and_waits_for_nothing(
    redis: Redis, collector: Receiver, runtime: spanbus.Runtime, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations._celery_results import results_of
    from spanbus.integrations.celery import on_celery

    broker, backend = f"{redis.url}/8", f"{redis.url}/9"
    tasks, mark = make(broker, backend), tmp_path / "mark"
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-c", "1"))
    first = Phase("late", action=on_celery(tasks.late, args=(str(mark), 60.0)))
    second = Phase("queued", action=on_celery(tasks.late, args=(str(tmp_path / "never"), 0.0)))
    async with anyio.create_task_group() as group:
        group.start_soon(runtime.run, Workflow("first", (first,)))
        with anyio.fail_after(30):
            while not mark.exists():
                await anyio.sleep(0.02)
            group.start_soon(runtime.run, Workflow("second", (second,)))
            while len(results_of(tasks.app).statistics().awaited) < 2:
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    assert collector.wait_until(lambda got: len(_executions(got, "late")) == 1, 30.0)
    assert _executions(collector, "late") == [("error", "terminated", "worker@test", None)]
    assert (await _phases(runtime, collector)) == {"late": "cancellation", "queued": "cancellation"}
    assert not (tmp_path / "never").exists(), "what was queued is discarded"


async def _phases(runtime: spanbus.Runtime, collector: Receiver) -> dict[object, object]:
    assert runtime.flush()
    return {
        attributes(span)["cicd.pipeline.task.name"]: attributes(span)[
            "cicd.pipeline.task.run.result"
        ]
        for span in collector.spans()
        if attributes(span).get("spanbus.level") == "phase"
    }


async def test_without_a_broker_the_phase_fails_with_its_error(
    redis: Redis, runtime: spanbus.Runtime, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make
    from servers import free_port

    from spanbus.integrations.celery import on_celery

    tasks = make(f"amqp://127.0.0.1:{free_port()}//", f"{redis.url}/10")
    with anyio.fail_after(30):
        result = await runtime.run(
            Workflow("broker", (Phase("build", action=on_celery(tasks.ok), timeout_s=20.0),))
        )
    assert told(result) == [("build", "failure", "kombu.exceptions.OperationalError")]


async def test_results_that_are_away_are_waited_for(
    collector: Receiver, runtime: spanbus.Runtime, redis: Redis, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    results = Redis(tmp_path / "results").start()
    try:
        broker, backend = f"{redis.url}/11", f"{results.url}/0"
        tasks, mark = make(broker, backend), tmp_path / "mark"
        workers(Worker(tmp_path / "w", broker, backend, collector.env, "-c", "1"))
        found: list[RunResult] = []
        async with anyio.create_task_group() as group:

            async def run() -> None:
                phases = (
                    Phase(
                        "late", action=on_celery(tasks.late, args=(str(mark), 2.0)), timeout_s=60.0
                    ),
                )
                found.append(await runtime.run(Workflow("results", phases)))

            group.start_soon(run)
            with anyio.fail_after(30):
                while not mark.exists():
                    await anyio.sleep(0.02)
            results.kill()
            from spanbus.integrations._celery_results import results_of

            with anyio.fail_after(30):
                while not results_of(tasks.app).statistics().read_errors:
                    await anyio.sleep(0.02)
            results.start()
        assert told(found[0]) == [("late", "success", None)]
    finally:
        results.kill()


async def test_five_hundred_phases_are_read_together(
    redis: Redis, collector: Receiver, runtime: spanbus.Runtime, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations._celery_results import results_of
    from spanbus.integrations.celery import on_celery

    broker, backend = f"{redis.url}/12", f"{redis.url}/13"
    tasks = make(broker, backend)
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-P", "threads", "-c", "8"))
    phases = tuple(Phase(f"p{n}", action=on_celery(tasks.ok, args=(n,))) for n in range(500))
    before = threading.active_count()
    result = await runtime.run(Workflow("many", phases), concurrency=500)
    assert result.success and [one.value for one in result.phases] == list(range(500))
    reads = results_of(tasks.app).statistics().reads
    assert reads <= 250, f"{reads} reads of results for 500 phases"
    assert threading.active_count() - before < 60
    assert collector.wait_until(lambda got: len(_executions(got, "ok")) == 500, 60.0)
    assert len({span.trace_id for span in collector.spans()}) == 1


async def test_a_run_id_that_is_used_again_is_a_new_task(
    redis: Redis, runtime: spanbus.Runtime, collector: Receiver, workers: Start, tmp_path: Path
) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import on_celery

    broker, backend = f"{redis.url}/14", f"{redis.url}/15"
    tasks = make(broker, backend)
    workers(Worker(tmp_path / "w", broker, backend, collector.env, "-P", "solo"))
    values: list[object] = []
    for n in range(2):
        phase = Phase("build", action=on_celery(tasks.ok, args=(n,)))
        result = await runtime.run(Workflow("nightly", (phase,)), run_id="nightly")
        values.append(result.phases[0].value)
    assert values == [0, 1], "not the result of the night before"


def test_bad_input_is_one_line(redis: Redis) -> None:
    library("celery")
    from celery_tasks import make

    from spanbus.integrations.celery import instrument, on_celery

    tasks = make(f"{redis.url}/1", f"{redis.url}/1")
    for call, words in (
        (lambda: on_celery(print), "takes a task of a Celery app, not builtin_function_or_method"),
        (lambda: on_celery(tasks.ok, poll_s=0), "poll_s must be greater than 0"),
        (lambda: on_celery(tasks.ok, task_id="mine"), "task_id is made of run, phase and attempt"),
        (lambda: on_celery(tasks.ok, ignore_result=True), "its results are ignored"),
        (
            lambda: on_celery(make("memory://", "rpc://").ok),
            "results of rpc:// reach one process only",
        ),
        (lambda: on_celery(make("memory://", "").ok), "its app has no result backend"),
        (
            lambda: on_celery(make("memory://", "nonsense://").ok),
            "the result backend cannot be used",
        ),
        (
            lambda: on_celery(make("memory://", "file:///no/such").ok),
            "file-system backend does not work correctly, please make sure",
        ),
        (lambda: on_celery(make("memory://", "cache://").ok), "cache backend 'cache' is unknown"),
        (lambda: instrument(object()), "takes the Celery app, not object"),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_servers_queue_is_left_as_it_was(redis: Redis) -> None:
    """Instrumenting an app opens no connection, and connects nothing that a detached handle still hears."""
    library("celery")
    from celery import signals
    from celery_tasks import make

    from spanbus.integrations.celery import instrument

    tasks = make("amqp://127.0.0.1:1//", "")
    before = len(signals.task_prerun.receivers)
    handle = instrument(tasks.app, workflow="orders")
    assert instrument(tasks.app) is handle
    assert len(signals.task_prerun.receivers) == before + 1
    handle.detach()
    assert len(signals.task_prerun.receivers) == before
