"""spanbus view: the page, in a browser."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import webbrowser
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from spanbus.cli.options import File

_WITHIN_S = 15.0
_PAGE = re.compile(r"^page +(\S+)\n", re.MULTILINE)


def command(
    run: Annotated[str | None, typer.Argument(help="A run's id, the beginning of one, or 'last'; default: the list of runs.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
    file: File = None,
) -> None:
    """Open the page in a browser; starts a backend when none serves this state directory."""
    from spanbus.cli import console
    from spanbus.cli.stored import store
    from spanbus.local.address import read_address
    from spanbus.settings import load_settings

    settings = load_settings(file)
    fragment = ""
    if run is not None:
        with store(file) as (opened, _):
            fragment = f"#/run/{quote(opened.run_head(run).run_id, safe='')}"  # who sent the run chose its id
    address = read_address(settings.state_dir)
    if address is None:
        url = _started(file)
    else:
        url = f"{address.url}/?token={address.token}"
    url += fragment
    console.say(url)
    if not no_browser:
        webbrowser.open(url)


def _started(file: Path | None) -> str:
    """The page's address of a backend that is started now and outlives this command."""
    from spanbus.cli import console
    from spanbus.errors import BackendError

    arguments = [sys.executable, "-c", "from spanbus.cli import main; main()", "up", "--port", "0", *(["--file", str(file)] if file else [])]
    with tempfile.TemporaryDirectory(prefix="spanbus-view-", ignore_cleanup_errors=True) as folder:  # no pipes: nobody reads them when this command has ended
        said, complained = Path(folder) / "said", Path(folder) / "complained"
        with said.open("wb") as out, complained.open("wb") as err:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        deadline = time.monotonic() + _WITHIN_S
        while (page := _PAGE.search(said.read_text("utf-8"))) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                why = complained.read_text("utf-8", "replace").strip().removeprefix("spanbus: ") or f"no answer in {_WITHIN_S:.0f} s"
                raise BackendError(f"the backend could not be started: {why}")
            time.sleep(0.05)
    console.note(f"spanbus: a backend was started (process {process.pid}); `kill {process.pid}` stops it")
    return page[1]
