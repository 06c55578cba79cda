"""`spanbus up` as a user runs it, and requests to it."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request

from command_line import Cli, Json


class Up:
    """A running `spanbus up` on a free port."""

    def __init__(self, cli: Cli, *arguments: str) -> None:
        self.cli = cli
        self.process = cli.start("up", "--port", "0", *arguments)
        assert self.process.stdout is not None
        self.page = self.process.stdout.readline().split()[1]
        self.url = self.process.stdout.readline().split()[1]
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said += self.process.stderr

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self._reader.join(5)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        assert "Traceback" not in "".join(self.said)


def ask(url: str) -> tuple[int, Json]:
    """Return status and JSON document of an answer, also of an error. Another body is returned as ``{"text": ...}``."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, {"text": body.decode()}
