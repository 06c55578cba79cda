"""One run over two hosts: phases on Celery workers, events over NATS, observers that make its spans and metrics; one is killed.

    python examples/distributed/demo.py [--keep]        # or: make demo-distributed

All processes are real, on loopback, in a folder that is removed at the end (``--keep`` keeps it). No data of
yours is read or written. A host is a state directory here. Needs `make brokers`; takes about half a minute.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import drawing
from processes import (
    HERE,
    Process,
    Trouble,
    nats_server,
    redis_server,
    spanbus_command,
    wait_for,
    worker,
)
from rich.console import Console
from rich.text import Text
from telemetry import PROCESS, spans, total

from spanbus import Event
from spanbus.integrations.nats import deliver
from spanbus.testing import Receiver

HOSTS = ("east", "west")
_MARKS = {
    "workflow.phase.completed": ("✓", "green"),
    "workflow.phase.failed": ("✗", "red"),
    "workflow.phase.retrying": ("↻", "yellow"),
}


class Demo:
    """The steps, one after another."""

    def __init__(self, console: Console, folder: Path, cleaning: ExitStack) -> None:
        self._console, self._folder, self._cleaning = console, folder, cleaning
        self._began_s = time.monotonic()
        self._collector = cleaning.enter_context(Receiver())
        self._observers: dict[str, Process] = {}
        self._started: dict[str, int] = {}
        self._ended = 0

    def run(self) -> bool:
        """Return whether all expectations were met."""
        self._step(
            1,
            "Servers",
            "nats-server with JetStream carries events, redis-server tasks and results",
        )
        nats = self._own(nats_server(self._folder / "nats"))
        redis = self._own(redis_server(self._folder / "redis"))
        self._env = {
            "SPANBUS_NATS_URL": nats,
            "SPANBUS_TELEMETRY": "elsewhere",
            "SPANBUS_LOCAL": "off",
            "SPANBUS_EXIT_TIMEOUT_S": "5",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_SERVICE_NAME": "demo",
            "DEMO_BROKER": f"{redis}/0",
            "DEMO_RESULTS": f"{redis}/1",
        }
        self._said("spanbus nats setup makes the stream and the buckets")
        self._command("setup", "nats", "setup", nats, "--max-bytes", "64MiB")

        self._step(
            2,
            "Two hosts",
            "each with a state directory, a Celery worker and an observer of half of the stream",
        )
        workers = {host: self._worker(host) for host in HOSTS}
        for place, host in enumerate(HOSTS):
            self._observe(host, place)
        for host, process in workers.items():
            process.said(" ready.")
            self._said(
                f"host {host}: worker {process.pid}, observer {self._observers[host].pid}",
                drawing.HOSTS[host],
            )

        self._step(
            3,
            "One run",
            "its engine publishes tasks and events, and makes no telemetry; these lines come over NATS",
        )
        with deliver(nats, self._heard, name="demo", types=tuple(_MARKS)):
            engine = self._process(
                "engine",
                "run",
                "release",
                "--file",
                str(HERE / "spanbus.toml"),
                "--json",
                host="engine",
            )
            wait_for(lambda: self._ended >= 3 or engine.code is not None, "three phases")
            self._kill_the_observer_of_the_run()
            wait_for(lambda: engine.code is not None, "the engine does not end")
            [run] = json.loads(self._json(engine))["runs"]
            phases: list[dict[str, Any]] = run["phases"]
            wait_for(lambda: self._ended >= len(phases), "the events of all phases")

        self._step(
            4,
            "One trace",
            "its spans were told by the workers, and by the observers: before and after",
        )
        tries = sum(int(phase["attempts"]) for phase in phases)
        more = [int(phase["attempts"]) for phase in phases if int(phase["attempts"]) > 1]
        wanted = 1 + len(phases) + sum(more) + tries
        self._settled(wanted)
        told = spans(self._collector)
        drawing.trace(self._console, told)

        self._step(
            5,
            "Exact counts",
            f"{self._collector.url} took every span and metric; what came twice would be counted twice",
        )
        codes = [process.end() for process in self._observers.values()]
        known = {span.span_id for span in told}
        level = {name: sum(span.level == name for span in told) for name in ("phase", "execution")}
        rows = [
            ("phases", len(phases), level["phase"]),
            ("tasks executed by the workers", tries, level["execution"]),
            ("spans", wanted, len(told)),
            ("spans that came twice", 0, len(told) - len(known)),
            ("spans whose parent is missing", 0, sum(bool(span.parent_id) and span.parent_id not in known for span in told)),
            ("traces", 1, len({span.trace_id for span in told})),
            ("phases in spanbus.phase.duration", len(phases), total(self._collector, "spanbus.phase.duration")),
            ("retries in spanbus.phase.retries", tries - len(phases), total(self._collector, "spanbus.phase.retries")),
            ("failures in spanbus.phase.failures", 0, total(self._collector, "spanbus.phase.failures")),
            ("observers that ended in good order", len(codes), codes.count(0)),
        ]  # fmt: skip
        return drawing.counts(self._console, rows)

    # --- steps -------------------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        """Handle an event of the run that arrives over NATS."""
        mark, style = _MARKS[event.event_type]
        seconds = event.payload.get("duration")
        took = f"{float(str(seconds)):.1f} s" if seconds is not None else ""
        why = event.payload.get("error") or ""
        self._said(f"{mark} {event.phase}  {took}  {why}".rstrip(), style)
        self._ended += event.event_type != "workflow.phase.retrying"

    def _kill_the_observer_of_the_run(self) -> None:
        status = json.loads(self._command("status", "nats", "status", "--json"))
        holders = {
            str(each["holder"]).split("/")[1] for each in status["partitions"] if each["open_runs"]
        }
        host = next(
            (host for host, process in self._observers.items() if str(process.pid) in holders),
            HOSTS[0],
        )
        place = HOSTS.index(host)
        before = self._observers[host]
        before.kill()
        self._said(
            f"kill -9 of observer {before.pid} on host {host}, which has this run", "bold red"
        )
        time.sleep(1.0)
        self._observe(host, place)
        after = self._observers[host]
        self._said(f"observer {after.pid} goes on there: reads the open run again, unheard", "bold")

    def _settled(self, wanted: int) -> None:
        """Wait for all expected telemetry, and a moment longer for unexpected telemetry."""
        wait_for(lambda: len(spans(self._collector)) >= wanted, f"{wanted} spans")
        time.sleep(1.5)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _own(self, server: tuple[Process, str]) -> str:
        process, url = server
        self._cleaning.enter_context(process)
        self._said(f"{process.name}  {url}  (process {process.pid})")
        return url

    def _environment(self, process: str, host: str) -> Mapping[str, str]:
        return {
            **self._env,
            "SPANBUS_STATE_DIR": str(self._folder / host / "state"),
            "OTEL_RESOURCE_ATTRIBUTES": f"{PROCESS}={process}",
        }

    def _worker(self, host: str) -> Process:
        env = self._environment(f"worker {host}", host)
        return self._cleaning.enter_context(worker(host, self._folder / host, env))

    def _observe(self, host: str, place: int) -> None:
        number = self._started[host] = self._started.get(host, 0) + 1
        process = self._process(
            f"observer {host} {number}", "observe", "--share", f"{place}/{len(HOSTS)}", host=host
        )
        self._observers[host] = process.said("until told to stop")

    def _process(self, name: str, *words: str, host: str) -> Process:
        env = self._environment(name, host)
        return self._cleaning.enter_context(
            Process(name, spanbus_command(*words), self._folder / host, env)
        )

    def _command(self, name: str, *words: str) -> str:
        """Run a command to its end and return its output."""
        process = self._process(name, *words, host="engine")
        command = f"spanbus {' '.join(words)}"
        wait_for(lambda: process.code is not None, command)
        if process.code != 0:
            raise Trouble(f"{command} ended with {process.code}:\n{process.log()[-2_000:]}")
        return process.log()

    def _json(self, engine: Process) -> str:
        if engine.code != 0:
            raise Trouble(f"the run ended with {engine.code}:\n{engine.log()[-2_000:]}")
        said = engine.log()
        return said[said.index("{") : said.rindex("}") + 1]

    # --- output -------------------------------------------------------------------------------------------------

    def _step(self, number: int, title: str, what: str) -> None:
        self._console.print(f"\n[bold]{number}  {title}[/]  [dim]{what}[/]", soft_wrap=True)

    def _said(self, line: str, style: str = "") -> None:
        passed_s = time.monotonic() - self._began_s
        self._console.print(
            Text.assemble((f"{passed_s:6.1f} s  ", "dim"), (line, style)), soft_wrap=True
        )


def main() -> int:
    console = Console(highlight=False)
    keep = "--keep" in sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="spanbus-distributed-"))
    began_s = time.monotonic()
    try:
        with ExitStack() as cleaning:
            good = Demo(console, folder, cleaning).run()
    except Trouble as trouble:
        console.print(f"{trouble}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    where = f"logs and state are in {folder}" if keep else "its folder is removed; --keep leaves it"
    console.print(
        f"\n[dim]{time.monotonic() - began_s:.0f} s, {where}. docs/distributed.md and docs/celery.md say more.[/]",
        soft_wrap=True,
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
