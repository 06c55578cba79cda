"""``spanbus doctor``: query all servers, send test telemetry, wait until it arrives.

Independent checks run concurrently. Each request has a timeout, so a server that does not answer delays no other check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import anyio

from spanbus._delivery.endpoints import Endpoint, endpoints
from spanbus._delivery.outcomes import Delivered
from spanbus._doctor import brokers, collector, configuration, probe, servers, state
from spanbus._doctor.asking import Answer, Server, Silence, ask, on_loopback, server, within
from spanbus._doctor.collector import Sent
from spanbus._doctor.findings import (
    Finding,
    Report,
    bad,
    in_order,
    not_configured,
    ok,
    warning,
    wrong,
)
from spanbus._doctor.servers import Seen
from spanbus._otlp.signals import OTLP_SIGNALS, Signal
from spanbus._runs.format import duration
from spanbus._settings import Settings
from spanbus._version import __version__
from spanbus.errors import SettingsError

JAEGER, PROMETHEUS, ALERTMANAGER = (
    "http://127.0.0.1:16686",
    "http://127.0.0.1:9090",
    "http://127.0.0.1:9093",
)
"""Default addresses, as in docker-compose.yml."""

_QUESTION_S = 5.0
_LOOK_EVERY_S = 0.2
_SKEW_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Examination:
    """Options of an examination. ``timeout_s`` limits the wait for test telemetry and each single request."""

    env: Mapping[str, str]
    file: Path | None = None
    jaeger: str | None = None
    prometheus: str | None = None
    alertmanager: str | None = None
    timeout_s: float = 20.0

    async def report(self, doing: Callable[[str], None] | None = None) -> Report:
        """Run all checks; ``doing`` is called with the current activity.

        Raises :class:`~spanbus.errors.InputError` for an invalid URL. Problems of servers are part of the report.
        """
        named = (
            server(self.jaeger or JAEGER, "--jaeger", configured=self.jaeger is not None),
            server(
                self.prometheus or PROMETHEUS,
                "--prometheus",
                configured=self.prometheus is not None,
            ),
            server(
                self.alertmanager or ALERTMANAGER,
                "--alertmanager",
                configured=self.alertmanager is not None,
            ),
        )
        settings, found = configuration.configuration(self.file, self.env)
        work = _Work(
            settings,
            settings.usable(self.env),
            self.timeout_s,
            *named,
            doing=doing or (lambda text: None),
        )
        work.findings += found
        await work.examine()
        return Report(
            in_order(work.findings),
            configuration.settings_rows(settings),
            configuration.environment_rows(self.env),
        )


@dataclass
class _Work:
    """State of a running examination."""

    settings: Settings
    env: Mapping[str, str]
    timeout_s: float
    jaeger: Server
    prometheus: Server
    alertmanager: Server
    doing: Callable[[str], None]
    findings: list[Finding] = field(default_factory=list[Finding])
    skews: dict[str, float] = field(default_factory=dict[str, float])
    ways: dict[Signal, Endpoint] = field(default_factory=dict[Signal, Endpoint])
    taken: set[Signal] = field(default_factory=set[Signal])
    embedded: Server | None = None
    servers: dict[str, Finding] = field(default_factory=dict[str, Finding])
    there: set[str] = field(default_factory=set[str])
    jaeger_there: bool = False
    prometheus_there: bool = False
    before: float | None = None

    @property
    def question_s(self) -> float:
        return min(_QUESTION_S, self.timeout_s)

    @property
    def sends(self) -> bool:
        """Whether there is a destination besides the local store."""
        return self.settings.endpoint_configured or self.settings.local == "off"

    async def examine(self) -> None:
        self._find_ways()
        self.doing("looking around")
        async with anyio.create_task_group() as group:
            group.start_soon(self._here)
            group.start_soon(self._embedded)
            group.start_soon(self._brokers)
            group.start_soon(self._see, "jaeger", partial(servers.jaeger, self.jaeger))
            group.start_soon(self._see, "prometheus", partial(servers.prometheus, self.prometheus))
            group.start_soon(
                self._see, "alertmanager", partial(servers.alertmanager, self.alertmanager)
            )
            if not self.sends:
                group.start_soon(self._nobody_configured)
        self.findings += servers.down(self.servers, self._of_a_stack())
        if self.embedded is None and self.prometheus_there:
            self.before = await self._ask(
                partial(servers.points_in_prometheus, self.prometheus), None
            )
        elif self.embedded is not None:
            self.before = await self._ask(
                partial(servers.points_in_exposition, self.embedded), None
            )
        trace, points = probe.trace_probe(), probe.point_probes()
        if self.ways:
            self.doing("sending a test trace and test points")
        async with anyio.create_task_group() as group:
            for signal in self.ways:
                bodies = (
                    (trace.body,)
                    if signal is Signal.TRACES
                    else points.bodies
                    if signal is Signal.METRICS
                    else (probe.log_probe(),)
                )
                group.start_soon(self._send, signal, bodies)
            if self.prometheus_there:
                group.start_soon(self._rules)
        self.doing("waiting for them to come out")
        async with anyio.create_task_group() as group:
            group.start_soon(self._trace, trace.trace_id)
            group.start_soon(self._series, points.instances)
        self._clock()

    # --- looking around -----------------------------------------------------------------------------------------------

    def _find_ways(self) -> None:
        if not self.sends:
            return
        logs = self.settings.events in ("log", "both") or self.settings.exception_signal is not None
        for signal in OTLP_SIGNALS:
            if signal is Signal.LOGS and not logs:
                self.findings.append(
                    not_configured("collector.logs", "no log events are sent (SPANBUS_EVENTS=span)")
                )
                continue
            try:
                self.ways[signal] = endpoints(self.env, signal)
            except SettingsError as error:
                self.findings.append(
                    wrong(
                        f"collector.{signal}", str(error), "until then nothing of it is delivered"
                    )
                )

    async def _here(self) -> None:
        found = await within(
            self.timeout_s, partial(state.state, self.settings, sends=self.sends), None
        )
        self.findings += (
            found
            if found is not None
            else [
                wrong(
                    "state_dir",
                    f"{self.settings.state_dir} does not answer in time",
                    "set SPANBUS_STATE_DIR to a folder on a disk of this machine",
                )
            ]
        )
        self.findings.append(
            await self._ask(
                partial(state.backend, self.settings),
                wrong("backend", "`spanbus up` does not answer in time", "start it again"),
            )
        )

    async def _brokers(self) -> None:
        if self.settings.nats_url:
            silent = wrong("nats", f"{self.settings.nats_stream}: no answer in time", "is it up?")
            self.findings += await self._ask(partial(brokers.brokers, self.settings), [silent])

    async def _embedded(self) -> None:
        """Find out whether the configured collector is the embedded backend."""
        way = self.ways.get(Signal.TRACES)
        if way is None or way.protocol == "grpc":
            return
        parts = urlsplit(way.url)
        origin = Server(
            urlunsplit((parts.scheme, parts.netloc, "", "", "")), way.headers, configured=True
        )
        answer: Answer | Silence = await self._ask(
            partial(ask, origin, "/health"), Silence("no answer in time")
        )
        version = None if isinstance(answer, Silence) else state.backend_version(answer)
        if version is None:
            return
        self.embedded = origin
        if version == __version__:
            self.findings.append(
                ok("collector", f"{origin.url} is `spanbus up`, which keeps what it is sent")
            )
        else:
            self.findings.append(
                warning(
                    "collector",
                    f"{origin.url} is `spanbus up` of version {version}, this is {__version__}",
                    "start it again with the same version",
                )
            )

    async def _nobody_configured(self) -> None:
        message = "OTEL_EXPORTER_OTLP_ENDPOINT is not set: everything goes to the local store alone"
        found: Sent | None = await within(
            _QUESTION_S, partial(collector.identify_listener, collector.DEFAULT_URL, self.env), None
        )
        if found is None or (found.answer is None and not isinstance(found.outcome, Delivered)):
            self.findings.append(
                not_configured("collector", message, "set it to send to a collector too")
            )
        elif found.otlp:
            self.findings.append(
                not_configured(
                    "collector",
                    f"{message}; one listens at {collector.DEFAULT_URL}",
                    f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.DEFAULT_URL} sends there",
                )
            )
        else:
            assert found.answer is not None
            self.findings.append(
                warning(
                    "collector",
                    f"{message}; and port 4318 is taken by another program ({found.answer.described})",
                    "`spanbus up --port N` takes another, a collector needs one of its own too",
                )
            )

    async def _see(self, name: str, look: Callable[[Mapping[str, str], float], Seen]) -> None:
        silent = Seen(bad(name, "no answer in time", "see whether it is well", ours=True), False)
        seen = await self._ask(look, silent)
        self.servers[name] = seen.finding
        if seen.there:
            self.there.add(name)
        if seen.skew_s is not None:
            self.skews[name] = seen.skew_s
        if name == "jaeger":
            self.jaeger_there = seen.there
        elif name == "prometheus":
            self.prometheus_there = seen.there

    def _of_a_stack(self) -> set[str]:
        """Return the servers found at their default addresses, as in docker-compose.yml."""
        places = {
            "jaeger": self.jaeger,
            "prometheus": self.prometheus,
            "alertmanager": self.alertmanager,
        }
        return {name for name in self.there if not places[name].configured}

    async def _ask(self, question: Callable[[Mapping[str, str], float], T], otherwise: T) -> T:
        return await within(self.question_s, lambda: question(self.env, self.question_s), otherwise)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _send(self, signal: Signal, bodies: Sequence[bytes]) -> None:
        """Send the bodies in turn up to the first failure, and add one finding."""
        endpoint = self.ways[signal]
        sent: Sent | SettingsError | None = None
        for body in bodies:
            sent = await within(
                self.question_s, partial(self._attempt, signal, endpoint, body), None
            )
            if (
                isinstance(sent, Sent)
                and sent.answer is not None
                and sent.answer.skew_s is not None
            ):
                self.skews["the collector"] = sent.answer.skew_s
            if (
                not isinstance(sent, Sent)
                or not isinstance(sent.outcome, Delivered)
                or sent.outcome.rejected
                or not sent.otlp
            ):
                break
        else:
            self.taken.add(signal)
        late = wrong(
            f"collector.{signal}", f"{endpoint.shown}: no answer in time", "see whether it is well"
        )
        self.findings.append(
            await within(
                4 * _QUESTION_S, partial(collector.judge, signal, endpoint, sent, self.env), late
            )
        )

    def _attempt(self, signal: Signal, endpoint: Endpoint, body: bytes) -> Sent | SettingsError:
        try:
            return collector.send(endpoint, signal, body, self.env, self.question_s)
        except SettingsError as error:
            return error

    async def _rules(self) -> None:
        late = warning("prometheus.rules", "no answer in time", "see Prometheus' log")
        self.findings.append(
            await self._ask(
                partial(servers.rules, self.prometheus, ours=self._ours(self.prometheus)), late
            )
        )
        self.findings.append(
            await self._ask(
                partial(servers.alerting, self.prometheus),
                warning("prometheus.alerting", "no answer in time", "see Prometheus' log"),
            )
        )

    def _ours(self, where: Server) -> bool:
        """Whether the server belongs to our setup: named by the user, or server and collector are at the default addresses.
        Otherwise it may belong to another application.
        """
        way = self.ways.get(Signal.METRICS)
        return where.configured or (
            way is not None
            and on_loopback(way.url)
            and urlsplit(way.url).port in (4317, 4318)
            and self.embedded is None
        )

    # --- waiting for the test telemetry -------------------------------------------------------------------------------

    async def _trace(self, trace_id: str) -> None:
        where = self.embedded or (self.jaeger if self.jaeger_there else None)
        if where is None or Signal.TRACES not in self.taken:
            return
        began = time.monotonic()
        arrived = await self._until(partial(servers.has_trace, where, trace_id), bool, False)
        took_s = time.monotonic() - began
        if arrived:
            self.findings.append(
                ok(
                    "jaeger.trace",
                    f"the test trace came out of {where.url} after {duration(took_s)}",
                )
            )
        elif where is self.embedded:
            self.findings.append(
                wrong(
                    "jaeger.trace",
                    f"the test trace did not come out of {where.url} within {duration(took_s)}",
                    "see what `spanbus up` prints",
                )
            )
        else:
            self.findings.append(
                bad(
                    "jaeger.trace",
                    f"the test trace did not come out of {where.url} within {duration(took_s)}",
                    "see the collector's log: does it export to this Jaeger, does it sample?"
                    + ("" if where.configured else " --jaeger names another one"),
                    ours=self._ours(where),
                )
            )

    async def _series(self, instances: tuple[str, ...]) -> None:
        if Signal.METRICS not in self.taken:
            return
        began = time.monotonic()
        if self.embedded is not None:
            after = await self._until(
                partial(servers.points_in_exposition, self.embedded),
                lambda found: servers.counted(self.before, found),
                None,
            )
            counted = servers.counted(self.before, after)
            self.findings.append(
                ok("prometheus.series", f"{self.embedded.url}/metrics has the test points")
                if counted
                else wrong(
                    "prometheus.series",
                    f"{self.embedded.url}/metrics does not have the test points",
                    "see what `spanbus up` prints",
                )
            )
        elif self.prometheus_there:
            after = await self._until(
                partial(servers.points_in_prometheus, self.prometheus),
                lambda found: servers.counted(self.before, found),
                None,
            )
            late = warning("prometheus.series", "no answer in time", "see Prometheus' log")
            counting = servers.Counting(self.before, after, instances, time.monotonic() - began)
            say = partial(
                servers.series, self.prometheus, counting, ours=self._ours(self.prometheus)
            )
            self.findings.append(await self._ask(say, late))

    async def _until(
        self,
        question: Callable[[Mapping[str, str], float], T],
        enough: Callable[[T], bool],
        nothing: T,
    ) -> T:
        """Repeat the question until ``enough`` or the timeout, and return the last answer."""
        deadline = time.monotonic() + self.timeout_s
        last = nothing
        while True:
            last = await self._ask(question, last)
            if enough(last) or time.monotonic() >= deadline:
                return last
            await anyio.sleep(_LOOK_EVERY_S)

    def _clock(self) -> None:
        if not self.skews:
            return
        name, skew_s = max(self.skews.items(), key=lambda item: abs(item[1]))
        if abs(skew_s) < _SKEW_S:
            self.findings.append(
                ok("clock", "agrees with that of " + ", ".join(sorted(self.skews)))
            )
        else:
            self.findings.append(
                warning(
                    "clock",
                    f"the clock of {name} is {duration(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} ours",
                    "set both by NTP: spans stand at the wrong time, and rules over minutes lie",
                )
            )
