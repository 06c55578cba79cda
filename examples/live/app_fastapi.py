"""A FastAPI application that serves the events of its bus on a WebSocket, with a token.

TOKEN=secret python app_fastapi.py --port 8000
TOKEN=secret python client.py ws://127.0.0.1:8000/live
curl -X POST http://127.0.0.1:8000/jobs/import
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket

import uvicorn
from fastapi import FastAPI, WebSocket

import spanbus
from spanbus.integrations.websocket import EventBusWebSocketBridge

bus = spanbus.WorkflowEventBus()
bridge = EventBusWebSocketBridge()
bridge.attach(bus)
app = FastAPI(lifespan=bridge.lifespan)


@app.websocket("/live")
async def live(websocket: WebSocket) -> None:
    shown = websocket.headers.get("authorization", "").removeprefix("Bearer ")
    if not secrets.compare_digest(shown.encode(), os.environ["TOKEN"].encode()):
        await websocket.close(1008)
        return
    await bridge.serve(websocket)


@app.post("/jobs/{job}")
async def start(job: str) -> dict[str, int]:
    work = {"workflow_id": job, "step_id": "load", "password": "hunter2"}
    await bus.publish("workflow.started", {"workflow_id": job})
    await bus.publish("workflow.phase.started", {**work, "command": "load --token s3cr3t-value"})
    await bus.publish("workflow.phase.completed", work)
    await bus.publish("workflow.completed", {"workflow_id": job})
    return {"published": 4}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    listener = socket.create_server(("127.0.0.1", parser.parse_args().port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
