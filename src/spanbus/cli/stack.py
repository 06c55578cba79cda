"""spanbus stack: the collector, Jaeger, Prometheus and Alertmanager of docker-compose.yml."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus.cli.options import Json

if TYPE_CHECKING:
    from spanbus.cli.compose import Port

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False,
    help="Start and stop the servers of docker-compose.yml: collector, Jaeger, Prometheus, Alertmanager, Grafana.",
)

Files = Annotated[
    list[Path] | None, typer.Option("--file", "-f", metavar="FILE", help="A Compose file instead of the shipped one; may be repeated, as with Compose."),
]

_EVERY_S = 0.5
_QUESTION_S = 3.0


@app.command()
def up(
    file: Files = None,
    grafana: Annotated[bool, typer.Option("--grafana", help="Grafana with the dashboards too.")] = False,
    wait: Annotated[float, typer.Option("--wait", "-w", metavar="S", min=0, help="How long to wait until all of them answer, in seconds.")] = 120.0,
) -> None:
    """Start the servers, wait until they answer, print their addresses.

    Exit code: 0 when all answer, 1 when one does not, 2 when Compose or its file is missing.
    """
    from spanbus.cli import console
    from spanbus.cli.compose import compose

    program = compose(file or ())
    if program.run("up", "-d", grafana=grafana):
        console.note("spanbus: Compose could not start it; what it says stands above. Is the Docker daemon running, is a port taken? `spanbus doctor` looks at ports")
        raise typer.Exit(1)
    wanted = _wanted(program.addresses(), grafana=grafana)
    with _waiting() as doing:
        states = _until_all_answer(wanted, wait, doing)
    _tell(wanted, states)
    collector = next((address for port, address in wanted.items() if port.inside == 4318), None)
    if collector is not None:
        console.say(f"\nexport OTEL_EXPORTER_OTLP_ENDPOINT=http://{collector}")
    if any(states.values()):
        console.note("spanbus: not everything answers; `docker compose logs` has the reasons")
        raise typer.Exit(1)
    console.note("spanbus: the stack is up; `spanbus doctor` looks whether a trace comes through, `spanbus stack down` stops it")


@app.command()
def down(
    file: Files = None,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete what was stored too: metrics, alerts' states, waiting traces.")] = False,
) -> None:
    """Stop the servers, Grafana too. What is stored is kept, unless --volumes.

    Exit code: 0, 1 when Compose failed, 2 when Compose or its file is missing.
    """
    from spanbus.cli.compose import compose

    if compose(file or ()).run("down", *(("--volumes",) if volumes else ()), grafana=True):
        raise typer.Exit(1)


@app.command()
def status(file: Files = None, as_json: Json = False) -> None:
    """Which of the servers answer, and where; works without Compose too.

    Exit code: 0 when all but Grafana answer, 1 when one does not.
    """
    from spanbus.cli import console
    from spanbus.cli.compose import GRAFANA, PORTS, compose
    from spanbus.errors import BackendError

    program = None
    try:
        program = compose(file or ())
        addresses = program.addresses()
    except BackendError:
        addresses = {port: port.default for port in PORTS}
    states = _states(addresses)
    if as_json:
        console.document([
            {"service": port.service, "what": port.what, "address": address, "answers": not states[port], "message": states[port]} for port, address in addresses.items()
        ])
    else:
        _tell(addresses, states)
        if program is not None:
            console.say(f"\nCompose  {' '.join(program.argv())}")
    if any(problem for port, problem in states.items() if port.service != GRAFANA):
        raise typer.Exit(1)


def _wanted(addresses: Mapping[Port, str], *, grafana: bool) -> Mapping[Port, str]:
    from spanbus.cli.compose import GRAFANA

    return {port: address for port, address in addresses.items() if grafana or port.service != GRAFANA}


def _tell(addresses: Mapping[Port, str], states: Mapping[Port, str]) -> None:
    from spanbus.cli import console
    from spanbus.local.harmless import one_line

    for port, address in addresses.items():
        console.say(f"{port.what:<13} {f'http://{address}':<24} {one_line(states[port], 200) or 'answers'}")


@contextmanager
def _waiting() -> Generator[Callable[[Sequence[str]], None]]:
    """Names who is being waited for, to a person who waits."""
    from spanbus.cli import console

    screen = console.output(to_stderr=True)
    if not screen.is_terminal:
        yield lambda missing: None
        return
    with screen.status("starting", spinner="dots" if "utf" in (screen.encoding or "").lower() else "line") as shown:
        yield lambda missing: shown.update(f"waiting for {', '.join(missing)}")


def _until_all_answer(addresses: Mapping[Port, str], wait_s: float, doing: Callable[[Sequence[str]], None]) -> Mapping[Port, str]:
    deadline = time.monotonic() + wait_s
    while True:
        states = _states(addresses)
        missing = [port.what for port, problem in states.items() if problem]
        if not missing or time.monotonic() >= deadline:
            return states
        doing(missing)
        time.sleep(_EVERY_S)


def _states(addresses: Mapping[Port, str]) -> dict[Port, str]:
    """Why each does not answer as it should; empty for one that does. All are asked at once."""
    import anyio

    states = dict.fromkeys(addresses, "")

    async def ask_all() -> None:
        from spanbus.examine.asking import within

        async def one(port: Port, address: str) -> None:
            states[port] = await within(_QUESTION_S, lambda: _problem(port, address), "does not answer in time")

        async with anyio.create_task_group() as group:
            for port, address in addresses.items():
                group.start_soon(one, port, address)

    anyio.run(ask_all)
    return states


def _problem(port: Port, address: str) -> str:
    from spanbus.delivery.endpoints import Endpoint
    from spanbus.delivery.outcomes import Delivered, Retry
    from spanbus.delivery.signals import Signal
    from spanbus.examine import collector, servers
    from spanbus.examine.asking import Server, Silence, ask

    url = f"http://{address}"
    if port.service == "collector":
        http = port.inside == 4318
        endpoint = Endpoint(f"{url}/v1/traces" if http else url, "http/protobuf" if http else "grpc", insecure=True)
        sent = collector.send(endpoint, Signal.TRACES, b"", {}, _QUESTION_S)
        if sent.otlp:
            return ""
        if isinstance(sent.outcome, Delivered):
            return "another program answers"
        return "does not answer" if isinstance(sent.outcome, Retry) and not sent.outcome.heard else sent.outcome.reason
    where = Server(url)
    look = {"jaeger": servers.jaeger, "prometheus": servers.prometheus, "alertmanager": servers.alertmanager}.get(port.service)
    if look is not None:
        seen = look(where, {}, _QUESTION_S)
        return "" if seen.there else "does not answer" if seen.finding.state == "not_configured" else seen.finding.said.removeprefix(f"{url} ")
    answer = ask(where, "/api/health", {}, _QUESTION_S)
    return "does not answer" if isinstance(answer, Silence) else "" if answer.status == 200 else answer.described
