"""A Starlette application that serves the events of its bus on a WebSocket.

python app_starlette.py --port 8000
python client.py ws://127.0.0.1:8000/live
curl -X POST http://127.0.0.1:8000/jobs/import
"""

from __future__ import annotations

import argparse
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import spanbus
from spanbus.integrations.websocket import EventBusWebSocketBridge

bus = spanbus.WorkflowEventBus()
bridge = EventBusWebSocketBridge()
bridge.attach(bus)


async def live(websocket: WebSocket) -> None:
    # The application decides who may connect; here it refuses browsers whose Origin is another site.
    origin = websocket.headers.get("origin")
    if origin is not None and origin != f"http://{websocket.headers.get('host')}":
        await websocket.close(1008)
        return
    await bridge.serve(websocket)


async def start(request: Request) -> JSONResponse:
    job = request.path_params["job"]
    work = {"workflow_id": job, "step_id": "load", "password": "hunter2"}
    await bus.publish("workflow.started", {"workflow_id": job})
    await bus.publish("workflow.phase.started", {**work, "command": "load --token s3cr3t-value"})
    await bus.publish("workflow.phase.completed", work)
    await bus.publish("workflow.completed", {"workflow_id": job})
    return JSONResponse({"published": 4})


app = Starlette(
    routes=[WebSocketRoute("/live", live), Route("/jobs/{job}", start, methods=["POST"])],
    lifespan=bridge.lifespan,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    listener = socket.create_server(("127.0.0.1", parser.parse_args().port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
