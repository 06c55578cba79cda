"""spanbus stack: the collector, Jaeger, Prometheus and Alertmanager of docker-compose.yml."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus._cli.options import Json
from spanbus._cli.stopping import stop_on_signals

if TYPE_CHECKING:
    from spanbus._cli.compose import Port

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start and stop the servers of docker-compose.yml: collector, Jaeger, Prometheus, Alertmanager, Grafana; with `up --local` from binaries, without containers.",
)

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A Compose file instead of the shipped one; may be repeated, as with Compose.",
    ),
]

_EVERY_S = 0.5
_QUESTION_S = 3.0


@app.command()
def up(
    file: Files = None,
    grafana: Annotated[
        bool, typer.Option("--grafana", help="Also start Grafana with the dashboards.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            "-w",
            metavar="S",
            min=0,
            help="How long to wait until all of them answer, in seconds.",
        ),
    ] = 120.0,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Without containers: start the binaries that are on the PATH, and stop them with Ctrl-C.",
        ),
    ] = False,
    binaries: Annotated[
        Path | None,
        typer.Option(
            "--bin", metavar="DIR", help="With --local: the folder that holds the binaries."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="With --local: the folder of traces, metrics and queues; default: `stack` in the state directory.",
        ),
    ] = None,
) -> None:
    """Start the servers, wait until they answer, print their addresses.

    Exit code: 0 when all answer, 1 when one does not, 2 when Compose, its file or a binary is missing.
    """
    from spanbus._cli import console
    from spanbus._cli.compose import compose, other_compose_file

    if local:
        _up_local(file or (), grafana, wait, binaries, data)
        return
    if binaries is not None or data is not None:
        raise typer.BadParameter("--bin and --data go with --local")
    program = compose(file or ())
    if not file and (other := other_compose_file(Path.cwd())) is not None:
        console.note(f"spanbus: {other} is not taken, but the shipped one; --file {other} takes it")
    if program.run("up", "-d", grafana=grafana):
        console.note(
            "spanbus: Compose could not start it; what it says stands above. Is the Docker daemon running, is a port taken? `spanbus doctor` looks at ports"
        )
        raise SystemExit(1)
    wanted = _wanted(program.addresses(), grafana=grafana)
    with _waiting() as doing:
        states = _until_all_answer(wanted, wait, doing)
    _print_servers(wanted, states)
    collector = next((address for port, address in wanted.items() if port.inside == 4318), None)
    if collector is not None:
        console.line(f"\nexport OTEL_EXPORTER_OTLP_ENDPOINT=http://{collector}")
    if any(states.values()):
        console.note("spanbus: not everything answers; `docker compose logs` has the reasons")
        raise SystemExit(1)
    console.note(
        "spanbus: the stack is up; `spanbus doctor` looks whether a trace comes through, `spanbus stack down` stops it"
    )


def _up_local(
    files: Sequence[Path], grafana: bool, wait_s: float, binaries: Path | None, data: Path | None
) -> None:
    """Run the servers as local processes until Ctrl-C or until one of them exits."""
    from spanbus._cli import console
    from spanbus._cli.compose import shipped
    from spanbus._cli.local_stack import LocalStack
    from spanbus._settings import load_settings
    from spanbus.errors import BackendError

    if files or grafana:
        raise typer.BadParameter(
            "--file and --grafana are for Compose; --local takes the shipped files"
        )
    compose_file = shipped(Path.cwd())
    if compose_file is None:
        raise BackendError("the stack's files are missing from the package; install spanbus again")
    folder = data if data is not None else load_settings().state_dir / "stack"
    with stop_on_signals() as stopped:
        with LocalStack(compose_file.parent, folder.absolute(), binaries) as stack:
            addresses = stack.addresses()
            with _waiting() as doing:
                states = _until_all_answer(
                    addresses, wait_s, doing, over=lambda: stopped.is_set() or bool(stack.ended())
                )
            if not stopped.is_set() and not stack.ended():
                _print_servers(addresses, states)
                http = next(address for port, address in addresses.items() if port.inside == 4318)
                console.line(f"\nexport OTEL_EXPORTER_OTLP_ENDPOINT=http://{http}")
                console.note(
                    f"spanbus: the stack is up, its data and logs are in {folder}; Ctrl-C stops it"
                )
            while not stopped.wait(_EVERY_S) and not stack.ended():
                pass
            ended: Mapping[str, str] = {} if stopped.is_set() else stack.ended()
        for name, log in ended.items():
            console.note(f"spanbus: {name} has ended; the end of its log:\n{log}")
        if ended:
            raise SystemExit(1)


@app.command()
def down(
    file: Files = None,
    volumes: Annotated[
        bool,
        typer.Option(
            "--volumes", help="Also delete stored data: metrics, alerts' states, waiting traces."
        ),
    ] = False,
) -> None:
    """Stop the servers, Grafana too. What is stored is kept, unless --volumes.

    Exit code: 0, 1 when Compose failed, 2 when Compose or its file is missing.
    """
    from spanbus._cli.compose import compose

    if compose(file or ()).run("down", *(("--volumes",) if volumes else ()), grafana=True):
        raise SystemExit(1)


@app.command()
def status(file: Files = None, as_json: Json = False) -> None:
    """List the servers that answer, and where.

    Works without Compose too.

    Exit code: 0 when all but Grafana answer, 1 when one does not.
    """
    from spanbus._cli import console
    from spanbus._cli.compose import GRAFANA, PORTS, compose
    from spanbus.errors import BackendError

    program = None
    try:
        program = compose(file or ())
        addresses = program.addresses()
    except BackendError:
        addresses = {port: port.default for port in PORTS}
    states = _states(addresses)
    if as_json:
        console.document(
            [
                {
                    "service": port.service,
                    "what": port.what,
                    "address": address,
                    "answers": not states[port],
                    "message": states[port],
                }
                for port, address in addresses.items()
            ]
        )
    else:
        _print_servers(addresses, states)
        if program is not None:
            console.line(f"\nCompose  {' '.join(program.argv())}")
    if any(problem for port, problem in states.items() if port.service != GRAFANA):
        raise SystemExit(1)


def _wanted(addresses: Mapping[Port, str], *, grafana: bool) -> Mapping[Port, str]:
    from spanbus._cli.compose import GRAFANA

    return {
        port: address for port, address in addresses.items() if grafana or port.service != GRAFANA
    }


def _print_servers(addresses: Mapping[Port, str], states: Mapping[Port, str]) -> None:
    from spanbus._cli import console
    from spanbus._runs.sanitize import one_line

    for port, address in addresses.items():
        console.line(
            f"{port.what:<13} {f'http://{address}':<24} {one_line(states[port], 200) or 'answers'}"
        )


@contextmanager
def _waiting() -> Generator[Callable[[Sequence[str]], None]]:
    """Show the servers that do not answer yet, on a terminal only."""
    from spanbus._cli import console

    screen = console.output(to_stderr=True)
    if not screen.is_terminal:
        yield lambda missing: None
        return
    from spanbus._cli.rich_console import rich_console

    with rich_console(to_stderr=True).status(
        "starting", spinner="dots" if "utf" in (screen.encoding or "").lower() else "line"
    ) as shown:
        yield lambda missing: shown.update(f"waiting for {', '.join(missing)}")


def _until_all_answer(
    addresses: Mapping[Port, str],
    wait_s: float,
    doing: Callable[[Sequence[str]], None],
    over: Callable[[], bool] = lambda: False,
) -> Mapping[Port, str]:
    deadline = time.monotonic() + wait_s
    while True:
        states = _states(addresses)
        missing = [port.what for port, problem in states.items() if problem]
        if not missing or time.monotonic() >= deadline or over():
            return states
        doing(missing)
        time.sleep(_EVERY_S)


def _states(addresses: Mapping[Port, str]) -> dict[Port, str]:
    """Query all servers concurrently. Returns the problem of each, empty if it answers."""
    import anyio

    states = dict.fromkeys(addresses, "")

    async def ask_all() -> None:
        from spanbus._doctor.asking import within

        async def one(port: Port, address: str) -> None:
            states[port] = await within(
                _QUESTION_S, lambda: _problem(port, address), "does not answer in time"
            )

        async with anyio.create_task_group() as group:
            for port, address in addresses.items():
                group.start_soon(one, port, address)

    anyio.run(ask_all)
    return states


def _problem(port: Port, address: str) -> str:
    from spanbus._delivery.endpoints import Endpoint
    from spanbus._delivery.outcomes import Delivered, Retry
    from spanbus._doctor import collector, servers
    from spanbus._doctor.asking import Server, Silence, ask
    from spanbus._otlp.signals import Signal

    url = f"http://{address}"
    if port.service == "collector":
        http = port.inside == 4318
        endpoint = Endpoint(
            f"{url}/v1/traces" if http else url, "http/protobuf" if http else "grpc", insecure=True
        )
        sent = collector.send(endpoint, Signal.TRACES, b"", {}, _QUESTION_S)
        if sent.otlp:
            return ""
        if isinstance(sent.outcome, Delivered):
            return "another program answers"
        return (
            "does not answer"
            if isinstance(sent.outcome, Retry) and not sent.outcome.heard
            else sent.outcome.reason
        )
    where = Server(url)
    look = {
        "jaeger": servers.jaeger,
        "prometheus": servers.prometheus,
        "alertmanager": servers.alertmanager,
    }.get(port.service)
    if look is not None:
        seen = look(where, {}, _QUESTION_S)
        return (
            ""
            if seen.there
            else "does not answer"
            if seen.finding.state == "not_configured"
            else seen.finding.message.removeprefix(f"{url} ")
        )
    answer = ask(where, "/api/health", {}, _QUESTION_S)
    return (
        "does not answer"
        if isinstance(answer, Silence)
        else ""
        if answer.status == 200
        else answer.described
    )
