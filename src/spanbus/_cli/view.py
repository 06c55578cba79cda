"""spanbus view: open the page in a browser."""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlsplit

from spanbus._cli.lazy import options, typer

if TYPE_CHECKING:
    from spanbus._backend.address import Address

_WITHIN_S = 15.0


def command(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's id, the beginning of one, or 'last'; default: the list of runs."
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address only.")
    ] = False,
    file: options.File = None,
) -> None:
    """Open the page in a browser; starts a backend when none serves this state directory."""
    from spanbus._backend.address import read_address
    from spanbus._cli import console
    from spanbus._cli.stored import store
    from spanbus._cli.up import page_address
    from spanbus._settings import load_settings

    settings = load_settings(file)
    fragment = ""
    if run is not None:
        with store(file) as (opened, _):
            run_id = opened.run_head(run).run_id  # chosen by the sender: may contain anything
            fragment = f"#/run/{quote(run_id, safe='')}"
    address = read_address(settings.state_dir)
    if address is None:
        address = _started(file, settings.state_dir)
    if no_browser:
        console.line(page_address(address) + fragment)
        return
    console.line(f"{address.url}/{fragment}")
    webbrowser.open(f"{address.url}/?code={_code(address)}{fragment}")


def _code(address: Address) -> str:
    """Return a one-time login code: the URL is visible in the arguments of the browser's process."""
    from spanbus.errors import BackendError

    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_WITHIN_S)
    try:
        connection.request("POST", "/login/code", b"", {"Authorization": f"Bearer {address.token}"})
        answer = connection.getresponse()
        document: object = json.loads(answer.read(4_096)) if answer.status == 200 else None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise BackendError(f"the backend at {address.url} does not answer: {error}") from None
    finally:
        connection.close()
    match document:
        case {"code": str(code)} if code.replace("-", "").replace("_", "").isalnum():
            return code
        case _:
            raise BackendError(
                f"the backend at {address.url} is of another version; stop process {address.process.pid} and try again"
            )


def _started(file: Path | None, state_dir: Path) -> Address:
    """Start a backend that outlives this command."""
    from spanbus._backend.address import read_address
    from spanbus._cli import console, interpreter
    from spanbus.errors import BackendError

    arguments = interpreter.argv("up", "--port", "0", *(["--file", str(file)] if file else []))
    # stderr is a file: a pipe would lose its reader when this command ends
    with tempfile.TemporaryDirectory(prefix="spanbus-view-", ignore_cleanup_errors=True) as folder:
        errors = Path(folder) / "stderr"
        with errors.open("wb") as err:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=interpreter.environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + _WITHIN_S
        while True:
            address = read_address(state_dir)
            if address is not None and address.process.pid == process.pid:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                why = (
                    errors.read_text("utf-8", "replace").strip().removeprefix("spanbus: ")
                    or f"no answer in {_WITHIN_S:.0f} s"
                )
                raise BackendError(f"the backend could not be started: {why}")
            time.sleep(0.05)
    console.note(
        f"spanbus: a backend was started (process {process.pid}); `kill {process.pid}` stops it"
    )
    return address
