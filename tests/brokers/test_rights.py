"""Credentials files and rights, as the documents have them: each is enough for what it is for, and for nothing else."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from brokers import Nats, library
from nats_credentials import Accounts
from servers import eventually

import spanbus
from spanbus import Event
from spanbus.errors import BackendError
from spanbus.integrations import nats_stream

INBOX = ("_INBOX.>",)
SETTING_UP = ("$JS.API.INFO", "$JS.API.STREAM.>")
CARRYING = ("spanbus.v1.event.>", "$KV.spanbus_alive.>")
DELIVERING = (
    "$JS.API.CONSUMER.INFO.SPANBUS.deliver-audit",
    "$JS.API.CONSUMER.CREATE.SPANBUS.deliver-audit",
    "$JS.API.CONSUMER.MSG.NEXT.SPANBUS.deliver-audit",
    "$JS.ACK.SPANBUS.deliver-audit.>",
)
GIVEN_UP = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.SPANBUS.deliver-audit"


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    library("nats")
    library("nkeys")
    return Accounts(tmp_path / "accounts")


@pytest.fixture
def nats(accounts: Accounts, tmp_path: Path) -> Generator[Nats]:
    server = Nats(tmp_path / "nats", *accounts.options)
    try:
        yield server.start()
    finally:
        server.kill()


def test_each_credentials_file_is_enough_for_what_it_is_for(
    nats: Nats, accounts: Accounts, tmp_path: Path
) -> None:
    from spanbus.integrations.nats import deliver

    setup = accounts.user("setup", SETTING_UP, INBOX)
    publisher = accounts.user("publisher", CARRYING, INBOX)
    handler = accounts.user("handler", DELIVERING, (*INBOX, GIVEN_UP))
    wanted = nats_stream.Wanted(max_bytes=2**26)
    assert nats_stream.set_up(nats.url, wanted, credentials=setup).done == "made"
    assert nats_stream.status(nats.url, credentials=setup).messages == 0
    with pytest.raises(BackendError) as refused:
        nats_stream.set_up(nats.url, wanted)
    assert "uthoriz" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(BackendError) as refused:
        nats_stream.status(nats.url, credentials=publisher)
    assert "ermissions" in str(refused.value), str(refused.value)

    heard: list[Event] = []
    with deliver(nats.url, heard.append, name="audit", credentials=handler) as one:
        with pytest.raises(BackendError, match=r"(?i)permissions"):
            deliver(nats.url, heard.append, name="other", credentials=handler)
        env = {
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "SPANBUS_NATS_URL": nats.url,
            "SPANBUS_NATS_CREDS": str(publisher),
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        }
        with spanbus.open_runtime_sync(env=env) as runtime:
            runtime.bus.publish_nowait("order.paid", {"message": "7"}, run_id="r")
            assert runtime.flush(20.0)
        eventually(lambda: one.state().delivered == 1, 30.0)
    assert [(event.event_type, event.run_id) for event in heard] == [("order.paid", "r")]
