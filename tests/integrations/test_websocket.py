"""The WebSocket bridge in an application: the examples as processes, their client, and redaction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import spanbus
from spanbus._backend.event_messages import EventMessages
from spanbus._telemetry.redaction import Redactor
from spanbus.errors import InputError
from spanbus.integrations.websocket import EventBusWebSocketBridge, LiveLimits

LIVE = Path(__file__).parents[2] / "examples" / "live"
EVENTS = [
    "workflow.started",
    "workflow.phase.started",
    "workflow.phase.completed",
    "workflow.completed",
]


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPANBUS_")}
    return kept | {"SPANBUS_STATE_DIR": str(folder), "TOKEN": "the-token"}


class App(NamedTuple):
    folder: Path
    url: str

    def publish(self, job: str) -> None:
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/jobs/{job}", b"", method="POST"), timeout=20
        ) as answer:
            assert json.loads(answer.read()) == {"published": 4}

    def client(self, *, token: str = "the-token") -> subprocess.Popen[str]:
        """A client that reads until a run has ended and keeps its position for the next client."""
        return subprocess.Popen(
            [
                *(sys.executable, LIVE / "client.py", self.url.replace("http", "ws") + "/live"),
                *("--place", self.folder / "place", "--until", "workflow.completed"),
            ],
            env=environment(self.folder) | {"TOKEN": token},
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(params=["app_starlette.py", "app_fastapi.py"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    process = subprocess.Popen(
        [sys.executable, LIVE / request.param, "--port", "0"],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield App(tmp_path, process.stdout.readline().strip())
    process.terminate()
    process.communicate(timeout=20)


def line(client: subprocess.Popen[str]) -> Any:
    assert client.stdout is not None
    return json.loads(client.stdout.readline())


def rest(client: subprocess.Popen[str]) -> list[Any]:
    return [json.loads(each) for each in client.communicate(timeout=30)[0].splitlines()]


def test_a_client_of_the_example_receives_events_and_resumes(
    app: App,
) -> None:
    with app.client() as first:
        assert line(first)["resumed"] is False
        app.publish("import")
        received = rest(first)
    assert [each["name"] for each in received] == EVENTS
    assert [each["id"] for each in received] == [1, 2, 3, 4]
    started = received[1]["attributes"]
    assert started["spanbus.payload.step_id"] == "load"
    assert "s3cr3t-value" not in started["spanbus.payload.command"]
    assert "hunter2" not in json.dumps(received)

    app.publish("export")  # nobody listens now
    with app.client() as second:
        received = rest(second)
    assert received[0]["resumed"] is True
    assert [each["id"] for each in received[1:]] == [5, 6, 7, 8]
    assert {each["attributes"]["spanbus.payload.workflow_id"] for each in received[1:5]} == {
        "export"
    }


SECRETS = {
    "password": "hunter2",
    "error": "login failed: password=hunter2 for bob",
    "command": "deploy --token hunter2",
    "message": "postgres://bob:hunter2@db/one",
    "customer": "hunter2, which no key allows",
    "counts": {"password": "hunter2", "passed": 3},
}


@pytest.mark.parametrize(
    "form",
    [
        lambda payload: spanbus.Event("hooks.execution.failed", "1", 2_000, payload),
        lambda payload: {"type": "hooks.execution.failed", "payload": payload},
        lambda payload: type("Failed", (), {"event_type": "x.failed", "payload": payload})(),
    ],
    ids=["our own event", "a mapping", "an object"],
)
def test_routed_events_are_redacted_like_span_events(
    form: Callable[[dict[str, object]], object],
) -> None:
    message = EventMessages(Redactor()).of(form(SECRETS))
    assert "hunter2" not in json.dumps(message)
    attributes: Any = message["attributes"]
    assert attributes["spanbus.payload.counts.passed"] == 3
    assert attributes["spanbus.payload.error"].startswith("login failed: password=")
    assert "spanbus.payload.customer" not in attributes


def test_secrets_in_names_are_redacted() -> None:
    event = spanbus.Event("password=hunter2", "1", 2_000, {}, "token=hunter2", "r", "pw=hunter2 x")
    message = EventMessages(Redactor()).of(event._replace(phase="password=hunter2"))
    assert "hunter2" not in json.dumps(message)


def test_redaction_settings_are_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spanbus.toml").write_text(
        'redact_patterns = ["order-[0-9]+"]\npayload_allow = ["customer"]\n'
    )
    monkeypatch.chdir(tmp_path)
    bridge = EventBusWebSocketBridge()
    heard: list[Any] = []
    bridge.on_message(heard.append)
    bridge.observer(spanbus.Event("a", "1", 2_000, {"customer": "bob of order-12", "other": 1}))
    bridge.drain_inbox()
    (message,) = heard
    assert "order-12" not in json.dumps(message)
    assert message["attributes"]["spanbus.payload.customer"].startswith("bob of ")
    assert "spanbus.payload.other" not in message["attributes"]


def test_an_unreadable_event_does_not_block_the_publisher() -> None:
    class Broken:
        @property
        def event_type(self) -> str:
            raise OSError("gone")

    bridge = EventBusWebSocketBridge()
    heard: list[Any] = []
    bridge.on_message(heard.append)
    for event in (None, 7, Broken(), {}, spanbus.Event("a", "1", 2_000)):
        bridge.observer(event)
    bridge.drain_inbox()
    assert [each["name"] for each in heard] == ["a"]
    assert bridge.statistics().missed == 4


def test_the_inbox_is_bounded_and_reports_dropped_messages() -> None:
    bridge = EventBusWebSocketBridge(LiveLimits(inbox=10))
    heard: list[Any] = []
    bridge.on_message(heard.append)
    for number in range(25):
        bridge.observer(spanbus.Event("a", str(number), 2_000))
    bridge.drain_inbox()
    assert [each["event_id"] for each in heard[:-1]] == [str(number) for number in range(15, 25)]
    assert heard[-1]["type"] == "dropped"
    assert heard[-1]["count"] == 15


def test_an_object_that_is_not_a_bus_is_refused_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"bridge\.observer"):
        EventBusWebSocketBridge().attach(object())  # type: ignore[arg-type]


async def test_detaching_ends_the_routing() -> None:
    bridge = EventBusWebSocketBridge()
    heard: list[Any] = []
    bridge.on_message(heard.append)
    async with spanbus.WorkflowEventBus() as bus:
        detach = bridge.attach(bus)
        await bus.publish("one", {})
        assert detach()
        await bus.publish("two", {})
    bridge.drain_inbox()
    assert [each["name"] for each in heard] == ["one"]
