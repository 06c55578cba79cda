"""The real servers with the shipped configuration, on free loopback ports."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self, cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Json = dict[str, object]


def binary(name: str) -> str:
    """Return the path of a server: built by `make stack`, or on the PATH. Without it the test is skipped; in CI it fails."""
    built = ROOT / ".stack" / "bin" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        reason = f"{name} is not there; `make stack` builds it"
        if "TESTS_IN_CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


_GIVEN: set[int] = set()


def free_port() -> int:
    """Return a free port below the ephemeral range, so that the system does not assign it to an outgoing connection."""
    while True:
        port = random.randrange(15_000, 32_000)
        if port in _GIVEN:
            continue
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def get(url: str, timeout_s: float = 5.0) -> object:
    """Fetch a JSON document; None if there is no good answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError, urllib.error.URLError):
        return None


def eventually(what: Callable[[], object], timeout_s: float = 90.0, every_s: float = 0.1) -> object:
    """Call ``what`` until it returns a true value, and return that; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(
                f"it did not come true within {timeout_s} s; the last value was {found!r}"
            )
        time.sleep(every_s)


class Server:
    """A server process with a log file and a URL that answers 200 when it is ready."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        ready: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.argv, self.folder, self.ready, self.env = (
            name,
            list(argv),
            folder,
            ready,
            dict(env or {}),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.was_killed = False

    def start(self) -> Self:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=self.folder, env={**os.environ, **self.env}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), urllib.request.urlopen(self.ready, timeout=2) as answer:
                if answer.status == 200:
                    return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not come up:\n{self.log()[-3_000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def stop(self, which: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(which)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            # SIGTERM too may kill it: a server that answers may not have installed its signal handler yet.
            self.was_killed = self.process.returncode < 0
        self.process = None


class Webhook:
    """A webhook that keeps the alerts that Alertmanager sends."""

    def __init__(self) -> None:
        self.alerts: list[Json] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.alerts += body["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def named(self, name: str, status: str = "firing", **labels: str) -> list[Json]:
        return [
            alert
            for alert in self.alerts
            if alert["status"] == status
            and cast("dict[str, str]", alert["labels"])["alertname"] == name
            and all(
                cast("dict[str, str]", alert["labels"]).get(key) == value
                for key, value in labels.items()
            )
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Stack:
    """Collector, Jaeger, Prometheus, and Alertmanager with a webhook receiver."""

    def __init__(
        self, folder: Path, collector_configs: Sequence[Path] = (ROOT / "collector-config.yaml",)
    ) -> None:
        self.folder = folder
        self.webhook = Webhook()
        ports = {
            name: free_port()
            for name in (
                "otlp_grpc",
                "otlp_http",
                "health",
                "counting",
                "own",
                "jaeger_otlp",
                "jaeger_health",
                "jaeger_query",
                "jaeger_grpc",
                "prometheus",
                "alertmanager",
            )
        }
        self.ports = ports
        self.otlp = f"http://127.0.0.1:{ports['otlp_http']}"
        self.jaeger_url = f"http://127.0.0.1:{ports['jaeger_query']}"
        self.prometheus_url = f"http://127.0.0.1:{ports['prometheus']}"
        self.alertmanager_url = f"http://127.0.0.1:{ports['alertmanager']}"
        self.collector = Server(
            "collector",
            [binary("otelcol"), *(f"--config={path}" for path in collector_configs)],
            folder,
            f"http://127.0.0.1:{ports['health']}/",
            {
                "OTLP_GRPC_ADDRESS": f"127.0.0.1:{ports['otlp_grpc']}",
                "OTLP_HTTP_ADDRESS": f"127.0.0.1:{ports['otlp_http']}",
                "HEALTH_ADDRESS": f"127.0.0.1:{ports['health']}",
                "COUNTING_ADDRESS": f"127.0.0.1:{ports['counting']}",
                "COUNT_EVERY": "200ms",
                "OWN_METRICS_HOST": "127.0.0.1",
                "OWN_METRICS_PORT": str(ports["own"]),
                "JAEGER_OTLP": f"127.0.0.1:{ports['jaeger_otlp']}",
                "PROMETHEUS_OTLP": f"{self.prometheus_url}/api/v1/otlp",
                "QUEUE_DIR": str(folder / "queue"),
            },
        )
        self.jaeger = Server(
            "jaeger",
            [binary("jaeger"), "--config", str(ROOT / "deploy/jaeger/config.yaml")],
            folder,
            f"http://127.0.0.1:{ports['jaeger_health']}/status",
            {
                "JAEGER_HEALTH_ADDRESS": f"127.0.0.1:{ports['jaeger_health']}",
                "JAEGER_QUERY_ADDRESS": f"127.0.0.1:{ports['jaeger_query']}",
                "JAEGER_QUERY_GRPC_ADDRESS": f"127.0.0.1:{ports['jaeger_grpc']}",
                "JAEGER_OTLP_ADDRESS": f"127.0.0.1:{ports['jaeger_otlp']}",
                "BADGER_DIR": str(folder / "badger"),
            },
        )
        self.prometheus = Server(
            "prometheus",
            [
                binary("prometheus"),
                f"--config.file={self._prometheus_config([('collector', ports['own'])])}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
                "--enable-feature=exemplar-storage",
                "--web.enable-otlp-receiver",
                "--log.level=warn",
            ],
            folder,
            f"{self.prometheus_url}/-/ready",
        )
        self.alertmanager = Server(
            "alertmanager",
            [
                binary("alertmanager"),
                f"--config.file={self._alertmanager_config()}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            folder,
            f"{self.alertmanager_url}/-/ready",
        )

    def _prometheus_config(self, targets: Sequence[tuple[str, int]]) -> Path:
        """Write the shipped configuration with other addresses and intervals: Prometheus reads none from the environment."""
        shipped = ROOT / "deploy/prometheus/prometheus.yml"
        config = yaml.safe_load(shipped.read_text())
        config["rule_files"] = [str(shipped.parent / name) for name in config["rule_files"]]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [
            f"127.0.0.1:{self.ports['alertmanager']}"
        ]
        config["global"].update(
            scrape_interval="500ms", scrape_timeout="400ms", evaluation_interval="500ms"
        )
        for job, (name, port) in zip(config["scrape_configs"], targets, strict=True):
            assert job["job_name"] == name
            job["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _alertmanager_config(self) -> Path:
        config = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
        [people] = [each for each in config["receivers"] if each["name"] == "people"]
        people["webhook_configs"] = [{"url": self.webhook.url, "send_resolved": True}]
        config["route"].update(group_wait="1s", group_interval="1s")
        path = self.folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(config))
        return path

    def start(self) -> Self:
        for server in (self.jaeger, self.collector, self.alertmanager, self.prometheus):
            server.start()
        eventually(self.has_alertmanager)  # Prometheus discovers it some seconds after its start
        return self

    def stop(self) -> None:
        for server in (self.prometheus, self.alertmanager, self.collector, self.jaeger):
            server.stop()
        self.webhook.close()

    # --- queries ------------------------------------------------------------------------------------------------------

    def has_alertmanager(self) -> bool:
        """Whether Prometheus has discovered its Alertmanager."""
        document = cast("Json", get(f"{self.prometheus_url}/api/v1/alertmanagers") or {})
        return bool(cast("Json", document.get("data") or {}).get("activeAlertmanagers"))

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Run an instant query, and return pairs of labels and value."""
        document = cast(
            "Json",
            get(f"{self.prometheus_url}/api/v1/query?query={urllib.parse.quote(expression)}") or {},
        )
        data = cast("Json", document.get("data") or {})
        return [
            (each["metric"], float(each["value"][1]))  # pyright: ignore[reportIndexIssue]
            for each in cast("list[Json]", data.get("result") or [])
        ]  # type: ignore[misc, index, arg-type]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return found[0][1] if len(found) == 1 else None

    def alerts(self) -> dict[str, str]:
        """Return the state of each pending or firing alert by name."""
        document = cast("Json", get(f"{self.prometheus_url}/api/v1/alerts") or {})
        data = cast("Json", document.get("data") or {})
        return {
            each["labels"]["alertname"]: each["state"]  # pyright: ignore[reportIndexIssue]
            for each in cast("list[Json]", data.get("alerts") or [])
        }  # type: ignore[index, misc]

    def trace(self, trace_id: str) -> list[Json]:
        """Return the resource spans of a trace from Jaeger as OTLP JSON; empty until Jaeger has the trace."""
        document = cast("Json", get(f"{self.jaeger_url}/api/v3/traces/{trace_id}") or {})
        return cast(
            "list[Json]", cast("Json", document.get("result") or {}).get("resourceSpans") or []
        )
