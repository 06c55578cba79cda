"""Airflow: what is recorded of DAG runs and task instances, by the one line and by the plugin."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

HOME = Path(tempfile.mkdtemp(prefix="airflow-"))  # read when Airflow is imported
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
}

import airflow  # noqa: E402
from airflow.listeners.listener import get_listener_manager  # noqa: E402
from airflow.utils.db import initdb  # noqa: E402

import spanbus  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Airflow
Drawn = Callable[[], list[str]]
DAGS = """
from datetime import timedelta

from airflow.sdk import PokeReturnValue, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from opentelemetry import trace

calls, pokes, seen = [], [], []


def span_id():
    return trace.get_current_span().get_span_context().span_id


@dag(schedule=None)
def nightly():
    @task(retries=2, retry_delay=timedelta(0))
    def fetch():
        calls.append(1)
        seen.append(span_id())
        if len(calls) == 1:
            raise ConnectionError("refused")

    @task
    def left_out():
        raise AirflowSkipException("nothing to do")

    @task(execution_timeout=timedelta(seconds=0.05))
    def late():
        import time
        time.sleep(20)

    @task(retries=3)
    def gives_up():
        raise AirflowFailException("it will not help")

    @task
    def after():
        pass

    fetch() >> left_out() >> after()
    late()
    gives_up()


@dag(schedule=None)
def weekly():
    @task.branch
    def choose():
        return "left"

    @task
    def left():
        pass

    @task
    def right():
        pass

    @task
    def of_right():
        pass

    @task(trigger_rule="none_failed_min_one_success")
    def joined():
        pass

    chosen, one, other, after = choose(), left(), right(), of_right()
    chosen >> [one, other]
    other >> after
    [one, after] >> joined()


@dag(schedule=None)
def hourly():
    @task
    def square(number):
        return number * number

    @task.sensor(poke_interval=0.01, mode="reschedule")
    def ready():
        pokes.append(1)
        return PokeReturnValue(is_done=len(pokes) % 2 == 0)

    ready() >> square.expand(number=[1, 2])


nightly, weekly, hourly = nightly(), weekly(), hourly()
"""


@pytest.fixture(scope="module")
def module_of_dags() -> Any:
    folder = HOME / "dags"
    folder.mkdir()
    (folder / "several.py").write_text(DAGS)
    initdb()
    sys.path.insert(0, str(folder))
    import several

    return several


@pytest.fixture
def dags(module_of_dags: Any) -> Any:
    """The DAGs, with nothing executed yet."""
    for executed in (module_of_dags.calls, module_of_dags.pokes, module_of_dags.seen):
        executed.clear()
    return module_of_dags


@pytest.fixture
def handle(runtime: spanbus.Runtime) -> Generator[spanbus.Handle]:
    handle = runtime.instrument(airflow)
    yield handle
    assert handle.state().errors == 0, handle.state().last_error
    handle.detach()


def test_success_retry_time_out_skip_and_failure(
    dags: Any, handle: spanbus.Handle, drawn: Drawn
) -> None:
    assert dags.nightly.test().state == "failed"
    assert len(dags.seen) == 2 and 0 not in dags.seen
    assert dags.span_id() == 0
    lines = drawn()
    assert lines[0].startswith("RUN nightly failure")
    assert lines[1:] == [
        "  after skip",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 success",
        "  gives_up failure airflow.sdk.exceptions.AirflowFailException",
        "  late timeout timeout",
        "  left_out skip",
    ]


def test_tasks_that_a_branch_leaves_out_are_skipped(
    dags: Any, handle: spanbus.Handle, drawn: Drawn
) -> None:
    assert dags.weekly.test().state == "success"
    lines = drawn()
    assert lines[0] == "RUN weekly success"
    assert sorted(lines[1:]) == [
        "  choose success",
        "  joined success",
        "  left success",
        "  of_right skip",
        "  right skip",
    ]
    assert handle.state().phases_ended == 5


def test_a_run_is_told_by_whoever_ends_it(
    dags: Any, runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    """A scheduler that did not begin it, or the server where somebody stops it."""
    ended, stopped = dags.weekly.test(), dags.weekly.test()
    handle = runtime.instrument(airflow)
    listeners = get_listener_manager().hook
    listeners.on_dag_run_running(dag_run=ended, msg="")
    assert handle.state().runs_open == 0
    listeners.on_dag_run_success(dag_run=ended, msg="success")
    by_hand = "Dag Run's state was manually set to `failed`."
    listeners.on_dag_run_failed(dag_run=stopped, msg=by_hand)
    left_out = ["  of_right skip", "  right skip"]
    assert drawn() == ["RUN weekly cancellation", *left_out, "RUN weekly success", *left_out]
    assert (handle.state().errors, handle.state().runs_open) == (0, 0)
    handle.detach()


def test_mapped_tasks_a_task_that_is_scheduled_again_and_a_run_of_every_day(
    dags: Any, handle: spanbus.Handle, drawn: Drawn
) -> None:
    for _ in range(2):
        assert dags.hourly.test().state == "success"
    assert len(dags.pokes) == 4
    one = ["RUN hourly success", "  ready success", "  square[0] success", "  square[1] success"]
    assert drawn() == one * 2
    handle.detach()
    assert dags.hourly.test().state == "success"
    assert handle.state().runs_ended == 2


def test_what_is_no_airflow_is_refused(runtime: spanbus.Runtime, dags: Any) -> None:
    with pytest.raises(spanbus.errors.InputError, match="instrument the module"):
        runtime.instrument(dags.nightly)


def test_the_example_of_the_documents(
    dags: Any, example: Callable[..., list[str]], drawn: Drawn
) -> None:
    expected = example("Airflow", HOME / "dags" / "documented.py")
    assert drawn() == expected
