"""The servers of docker-compose.yml as local processes, with the shipped configuration files.

They listen on the loopback interface and write below one folder. The addresses are those of docker-compose.yml, and can be
changed with the environment variables of the shipped files.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from spanbus._cli.compose import PORTS, Port
from spanbus.errors import BackendError

_ADDRESSES = {
    "OTLP_HTTP_ADDRESS": "127.0.0.1:4318",
    "OTLP_GRPC_ADDRESS": "127.0.0.1:4317",
    "JAEGER_QUERY_ADDRESS": "127.0.0.1:16686",
    "PROMETHEUS_ADDRESS": "127.0.0.1:9090",
    "ALERTMANAGER_ADDRESS": "127.0.0.1:9093",
    "JAEGER_OTLP_ADDRESS": "127.0.0.1:14317",
    "OWN_METRICS_ADDRESS": "127.0.0.1:8888",
}
_PROGRAMS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "collector": (
        ("otelcol-contrib", "otelcol"),
        "https://github.com/open-telemetry/opentelemetry-collector-releases/releases (otelcol-contrib)",
    ),
    "jaeger": (("jaeger",), "https://www.jaegertracing.io/download/"),
    "prometheus": (("prometheus",), "https://prometheus.io/download/"),
    "alertmanager": (("alertmanager",), "https://prometheus.io/download/"),
}
_STOP_S = 20.0
_LOG_LINES = 5


@dataclass
class LocalStack:
    """The servers as child processes. ``files`` is the folder of the shipped files, ``data`` that of the servers' data.

    A context manager: entering starts the servers, leaving stops them and lets each flush its data. Raises
    :class:`~spanbus.errors.BackendError` if programs are missing, with their download pages.
    """

    files: Path
    data: Path
    bin: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _processes: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"], init=False
    )

    def __enter__(self) -> Self:
        programs = self._programs()
        with ExitStack() as undo:
            undo.callback(self._stop)
            for name, (argv, environment) in self._commands(programs).items():
                self._processes[name] = self._start(name, argv, environment)
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def addresses(self) -> Mapping[Port, str]:
        """Return ``host:port`` of the published ports."""
        names = {
            4318: "OTLP_HTTP_ADDRESS",
            4317: "OTLP_GRPC_ADDRESS",
            16686: "JAEGER_QUERY_ADDRESS",
            9090: "PROMETHEUS_ADDRESS",
            9093: "ALERTMANAGER_ADDRESS",
        }
        return {port: self._address(names[port.inside]) for port in PORTS if port.inside in names}

    def ended(self) -> Mapping[str, str]:
        """Return the servers that have exited, with the end of their logs."""
        return {
            name: self._end_of_log(name)
            for name, process in self._processes.items()
            if process.poll() is not None
        }

    # --- command lines --------------------------------------------------------------------------------------------------

    def _address(self, name: str) -> str:
        return self.env.get(name) or _ADDRESSES[name]

    def _programs(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        missing: list[str] = []
        for name, (words, where) in _PROGRAMS.items():
            path = next((path for word in words if (path := self._program(word))), None)
            if path is None:
                missing.append(f"{words[0]} ({where})")
            else:
                found[name] = path
        if missing:
            place = f"in {self.bin}" if self.bin is not None else "on the PATH"
            raise BackendError(
                f"not found {place}: {', '.join(missing)}; get them there, or give their folder with --bin"
            )
        return found

    def _program(self, word: str) -> str | None:
        return shutil.which(word, path=str(self.bin) if self.bin is not None else None)

    def _commands(
        self, programs: Mapping[str, str]
    ) -> Mapping[str, tuple[Sequence[str], Mapping[str, str]]]:
        prometheus, alertmanager = (
            self._address("PROMETHEUS_ADDRESS"),
            self._address("ALERTMANAGER_ADDRESS"),
        )
        host, _, port = self._address("OWN_METRICS_ADDRESS").rpartition(":")
        return {
            "jaeger": (
                [programs["jaeger"], "--config", str(self.files / "deploy/jaeger/config.yaml")],
                {
                    "JAEGER_OTLP_ADDRESS": self._address("JAEGER_OTLP_ADDRESS"),
                    "JAEGER_QUERY_ADDRESS": self._address("JAEGER_QUERY_ADDRESS"),
                    "BADGER_DIR": str(self.data / "badger"),
                },
            ),
            "alertmanager": (
                [
                    programs["alertmanager"],
                    f"--config.file={self.files / 'deploy/alertmanager/alertmanager.yml'}",
                    f"--storage.path={self.data / 'alertmanager'}",
                    "--cluster.listen-address=",
                    f"--web.listen-address={alertmanager}",
                ],
                {},
            ),
            "prometheus": (
                [
                    programs["prometheus"],
                    f"--config.file={self._prometheus_config(alertmanager, f'{host}:{port}')}",
                    f"--storage.tsdb.path={self.data / 'prometheus'}",
                    "--storage.tsdb.retention.time=30d",
                    "--storage.tsdb.retention.size=2GB",
                    "--enable-feature=exemplar-storage",
                    "--web.enable-otlp-receiver",
                    f"--web.listen-address={prometheus}",
                ],
                {},
            ),
            "collector": (
                [programs["collector"], f"--config={self.files / 'collector-config.yaml'}"],
                {
                    "OTLP_HTTP_ADDRESS": self._address("OTLP_HTTP_ADDRESS"),
                    "OTLP_GRPC_ADDRESS": self._address("OTLP_GRPC_ADDRESS"),
                    "JAEGER_OTLP": self._address("JAEGER_OTLP_ADDRESS"),
                    "PROMETHEUS_OTLP": f"http://{prometheus}/api/v1/otlp",
                    "OWN_METRICS_HOST": host,
                    "OWN_METRICS_PORT": port,
                    "QUEUE_DIR": str(self.data / "queue"),
                },
            ),
        }

    def _prometheus_config(self, alertmanager: str, own_metrics: str) -> Path:
        """Write the shipped configuration and rules with local addresses in place of Compose's host names."""
        shipped, folder = self.files / "deploy/prometheus", self.data / "prometheus-config"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped / "rules.yml", folder / "rules.yml")
        alerts = (shipped / "alerts.yml").read_text(encoding="utf-8")
        alerts = alerts.replace("127.0.0.1:16686", self._address("JAEGER_QUERY_ADDRESS"))
        if grafana := self.env.get("GRAFANA_ADDRESS"):
            alerts = alerts.replace("127.0.0.1:3000", grafana)
        else:  # no Grafana is started: remove the links to it
            alerts = re.sub(r"^ +dashboard: .*\n", "", alerts, flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(alerts, encoding="utf-8")
        text = (shipped / "prometheus.yml").read_text(encoding="utf-8")
        text = re.sub(r"\balertmanager:9093\b", alertmanager, text)
        text = re.sub(r"\bcollector:8888\b", own_metrics, text)
        (folder / "prometheus.yml").write_text(text, encoding="utf-8")
        return folder / "prometheus.yml"

    # --- processes ------------------------------------------------------------------------------------------------------

    def _start(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        self._log(name).parent.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("wb") as log:
            try:
                return subprocess.Popen(
                    argv,
                    cwd=self.data,
                    env={**self.env, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C must not reach them: they are stopped in order
                )
            except OSError as error:
                raise BackendError(
                    f"{argv[0]} cannot be started: {error.strerror or error}"
                ) from error

    def _stop(self) -> None:
        """Stop the servers, the collector first so that it can flush to the others; kill those that do not end in time."""
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"

    def _end_of_log(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])
