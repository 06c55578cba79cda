"""The tasks of the demo's workflow, for its workers (``celery -A tasks``) and publishers."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from opentelemetry import trace

import spanbus

app = Celery("tasks", broker=os.environ["DEMO_BROKER"], backend=os.environ["DEMO_RESULTS"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)
spanbus.instrument(app)


@app.task(name="checkout")
def checkout() -> str:
    return work(0.8)


@app.task(name="lint")
def lint() -> str:
    return work(1.5)


@app.task(name="build")
def build(target: str) -> str:
    trace.get_current_span().set_attribute("app.target", target)
    return work({"linux": 1.6, "arm": 2.2}[target])


@app.task(name="tests", bind=True)
def tests(self: Any, suite: str) -> str:
    """The slow suite fails the first time."""
    did = work({"unit": 1.2, "slow": 1.8}[suite])
    if suite == "slow" and (self.request.headers or {}).get("spanbus_attempt") == 1:
        raise ConnectionError("the registry did not answer")
    return did


@app.task(name="package")
def package() -> str:
    return work(0.9)


@app.task(name="publish")
def publish() -> str:
    return work(0.6)


def work(seconds: float) -> str:
    """A placeholder for real work."""
    time.sleep(seconds)
    return f"{seconds:g} s of work"
