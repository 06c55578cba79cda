"""pytest plugin: ``pytest -p spanbus``. A session is a run and a test a phase, with set-up, call and tear-down.

Under pytest-xdist each worker is a run below the session. A session with ``TRACEPARENT`` in its environment continues that
trace.
"""

from __future__ import annotations

import os
from asyncio import CancelledError
from collections.abc import Generator
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from spanbus import _loggers
from spanbus._attaching.work import Work
from spanbus.adapters import _watching

if TYPE_CHECKING:
    from spanbus import Handle

_PARENT = "spanbus_traceparent"


class TestsFailed(Exception):
    """Error of a session; the message has the number of failed tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder of this session. A failure to set up telemetry is a warning and fails no test."""
    if config.pluginmanager.has_plugin("spanbus-session") or config.option.collectonly:
        return
    import spanbus

    handle = spanbus.instrument(None)
    _make_loggers()
    config.pluginmanager.register(_Session(config, handle), "spanbus-session")


def _make_loggers() -> None:
    """Create now the loggers that the sending thread would create: pytest iterates over all loggers at each test, and fails
    if one is added meanwhile.
    """
    import urllib3  # each of its modules creates a logger

    del urllib3
    if any(
        value.startswith("grpc")
        for name, value in os.environ.items()
        if name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("PROTOCOL")
    ):
        with suppress(ImportError):
            import_module("grpc")
    _loggers.make_all()


class _Session:
    """Recorder of a session, or of the part that a worker of pytest-xdist runs."""

    def __init__(self, config: Any, handle: Handle) -> None:
        self._handle = handle
        worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._name = "pytest" if worker is None else str(worker["workerid"])
        self._parent: str | None = worker.get(_PARENT) if worker is not None else None
        self._run: Work | None = None
        self._inside = ExitStack()
        self._test: Work | None = None
        self._outcome: BaseException | None = None
        self._skipped: str | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        details = {"traceparent": self._parent} if self._parent else {}
        self._run = _watching.begun(self._handle, "run", self._name, **details)
        self._inside.enter_context(self._run.inside())

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Pass the trace context from the controller of pytest-xdist to a worker."""
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            flags = int(context.trace_flags)
            node.workerinput[_PARENT] = (
                f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._outcome = self._skipped = None
        test = self._test = _watching.begun(self._handle, "phase", item.nodeid)
        try:
            with test.inside():
                result = yield
        except BaseException as error:  # the session is interrupted
            test.end(error)
            raise
        if self._skipped is not None and self._outcome is None:
            test.skip(reason=self._skipped)
        else:
            test.end(self._outcome)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        return (yield from self._stage("setup"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        return (yield from self._stage("call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        return (yield from self._stage("teardown"))

    def _stage(self, name: str) -> Generator[None, Any, Any]:
        """Record a stage of a test. Whether its exception fails the test is decided by pytest."""
        stage = _watching.begun(self._handle, "hook", name)
        try:
            with stage.inside():
                result = yield
        except pytest.skip.Exception:
            stage.end()
            raise
        except BaseException as error:
            stage.end(error)
            raise
        stage.end()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
        report: pytest.TestReport = yield
        raised = call.excinfo.value if call.excinfo is not None else None
        if report.skipped:
            self._skipped = "expected to fail" if hasattr(report, "wasxfail") else str(raised)
        elif report.failed and self._outcome is None:
            self._outcome = _failure(raised)
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Start the next attempt if pytest-rerunfailures runs the test again."""
        if report.outcome == "rerun" and self._test is not None:
            self._test.retry(self._outcome)
            self._outcome = self._skipped = None
            self._test.begin()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> Generator[None, Any, Any]:
        try:
            return (yield)
        finally:
            self._inside.close()
            error = None
            if exitstatus == pytest.ExitCode.INTERRUPTED:
                error = CancelledError()
            elif exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                error = TestsFailed(f"{session.testsfailed} failed")
            if self._run is not None:
                self._run.end(error)
            self._handle.detach()


def _failure(raised: BaseException | None) -> BaseException:
    """Return the error of a failed test. pytest-timeout has no exception class of its own."""
    if raised is None:
        return TestsFailed("passed, and was expected to fail")
    if isinstance(raised, pytest.fail.Exception) and str(raised).startswith("Timeout"):
        return TimeoutError(str(raised))
    return raised
