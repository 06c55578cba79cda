"""A client that prints one line of JSON for each message and resumes after the last one when the connection breaks.

python client.py ws://127.0.0.1:8000/live [--place FILE] [--until TYPE]

FILE stores the place: the `epoch` of the server's start and the `id` of the last message. So a client that was
stopped misses nothing either, as long as the server still has the messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


class Place:
    """The position of this client in the stream."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.epoch, self.last_id = "", 0
        if file is not None and file.exists():
            kept: dict[str, Any] = json.loads(file.read_text())
            self.epoch, self.last_id = kept["epoch"], kept["last_id"]

    def query(self) -> str:
        return f"?after={self.last_id}&epoch={self.epoch}" if self.epoch else ""

    def at(self, epoch: str, last_id: int) -> None:
        self.epoch, self.last_id = epoch, last_id
        if self._file is not None:
            self._file.write_text(json.dumps({"epoch": epoch, "last_id": last_id}))


async def follow(url: str, place: Place, until: str | None) -> None:
    token = os.environ.get("TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    while True:
        try:
            async with connect(url + place.query(), additional_headers=headers) as socket:
                async for text in socket:
                    for message in messages(json.loads(text), place):
                        print(json.dumps(message), flush=True)
                        if message.get("name", message["type"]) == until:
                            return
        except (ConnectionClosed, OSError):
            pass  # the server restarts, or the network is down
        await asyncio.sleep(1)


def messages(frame: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    """The messages of a frame; `hello` and `missed` are passed on unchanged."""
    if frame["type"] == "hello":
        place.at(frame["epoch"], frame["last_id"])
        return [frame]
    if frame["type"] == "missed":
        place.at(place.epoch, frame["next_id"] - 1)
        return [frame]
    found: list[dict[str, Any]] = frame["messages"]
    place.at(place.epoch, found[-1]["id"])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--until", help="leave after a message of this type or event of this name")
    given = parser.parse_args()
    asyncio.run(follow(given.url, Place(given.place), given.until))
