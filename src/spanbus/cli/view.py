"""spanbus view: the page, in a browser."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from spanbus.cli.options import File


def command(
    run: Annotated[str | None, typer.Argument(help="A run's id, the beginning of one, or 'last'; default: the list of runs.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
    file: File = None,
) -> None:
    """Open the page in a browser; starts a backend when none serves this state directory."""
    import subprocess
    import sys
    import time

    from spanbus.cli import console
    from spanbus.cli.stored import store
    from spanbus.errors import BackendError
    from spanbus.local.address import read_address
    from spanbus.settings import load_settings

    settings = load_settings(file)
    fragment = ""
    if run is not None:
        with store(file) as (opened, _):
            fragment = f"#/run/{opened.run_head(run).run_id}"
    address = read_address(settings.state_dir)
    if address is None:
        arguments = [sys.executable, "-c", "from spanbus.cli import main; main()", "up", "--port", "0", *(["--file", str(file)] if file else [])]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + 15.0
        while (address := read_address(settings.state_dir)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr is not None and process.poll() is not None else "no answer in 15 s"
                raise BackendError(f"the backend could not be started: {said}")
            time.sleep(0.05)
        console.note(f"spanbus: a backend was started (process {process.pid}); `kill {process.pid}` stops it")
    url = f"{address.url}/?token={address.token}{fragment}"
    console.say(url)
    if not no_browser:
        webbrowser.open(url)
