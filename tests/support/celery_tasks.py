"""Celery tasks of the tests, for workers (``celery -A celery_tasks``) and for publishers."""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

from celery import Celery
from opentelemetry import trace

import spanbus


class Broken(Exception):
    """An exception whose module a publisher that imports this file under another name cannot find."""


def make(broker: str, backend: str, **settings: object) -> SimpleNamespace:
    app = Celery("celery_tasks", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_track_started=True,
        worker_prefetch_multiplier=1,
        # Celery kills a child that is not up in time and starts another. The default of 4 s is too short for a busy machine.
        worker_proc_alive_timeout=120.0,
        **settings,
    )

    @app.task(name="ok")
    def ok(value: object = "done") -> object:
        return value

    @app.task(name="no")
    def no() -> bool:
        return False

    @app.task(name="boom")
    def boom() -> None:
        raise Broken("2 of 40 failed")

    @app.task(name="soft", soft_time_limit=1)
    def soft() -> None:
        _sleep(30)

    @app.task(name="hard", time_limit=1)
    def hard() -> None:
        _sleep(30)

    @app.task(name="slow")
    def slow(seconds: float = 30.0) -> None:
        _sleep(seconds)

    @app.task(name="flaky", bind=True, max_retries=5)
    def flaky(self: object, failures: int = 2) -> str:
        if self.request.retries < failures:
            raise self.retry(countdown=0, exc=Broken("not yet"))
        return "good"

    @app.task(name="dies")
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="dies_once", bind=True, acks_late=True, reject_on_worker_lost=True)
    def dies_once(self: object) -> str:
        if not self.request.delivery_info.get("redelivered"):
            os.kill(os.getpid(), signal.SIGKILL)
        return "second"

    @app.task(name="late", bind=True, acks_late=True)
    def late(self: object, mark: str, seconds: float) -> str:
        with open(mark, "a") as file:
            file.write("began\n")
        _sleep(seconds)
        return "second" if self.request.delivery_info.get("redelivered") else "first"

    @app.task(name="inner")
    def inner() -> None:
        trace.get_current_span().set_attribute("app.deep", True)
        ok.delay()

    @app.task(name="collect")
    def collect(values: object) -> object:
        return values

    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    tasks = [ok, no, boom, soft, hard, slow, flaky, dies, dies_once, late, inner, collect, add]
    return SimpleNamespace(app=app, **{task.name: task for task in tasks})


def _sleep(seconds: float) -> None:
    """Sleep in short pieces, so that the signal of a time limit is handled between them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)


if "TASKS_BROKER" in os.environ:
    tasks = make(
        os.environ["TASKS_BROKER"],
        os.environ["TASKS_BACKEND"],
        **json.loads(os.environ.get("TASKS_SETTINGS", "{}")),
    )
    app = tasks.app
    if os.environ.get("TASKS_INSTRUMENTED", "yes") == "yes":
        spanbus.instrument(app)
