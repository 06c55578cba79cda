"""One-shot processes in a few processes: each run has a runtime, a spool and an exit of its own, as `spanbus run` has.

    python one_shots.py ENDPOINT FOLDER WORKFLOW PER_SECOND run|service

Each run is a line on stdout: its trace id, its workflow and whether it failed. It goes on until stdin is closed,
delivers what waits and prints
whether everything was acknowledged. ``service`` is one long-lived runtime with all runs in it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from typing import cast

from spanbus._runtime import Lifetime, Runtime


def environment(endpoint: str, folder: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "SPANBUS_STATE_DIR": folder,
        "SPANBUS_LOCAL": "off",
        "OTEL_SERVICE_NAME": "chaos",
        "SPANBUS_EXIT_TIMEOUT_S": "5",  # who gives up earlier on a busy machine sends again what was taken
    }


def run_once(
    runtime: Runtime, workflow: str, run_id: str, *, fails: bool, parent: str | None = None
) -> None:
    feed = runtime.handle.feed
    step = {"workflow_id": run_id, "workflow": workflow, "step_id": "check", "phase": "check"}
    feed(
        {
            "event_type": "workflow.started",
            **({"traceparent": parent} if parent is not None else {}),
            "payload": {"workflow_id": run_id, "workflow": workflow},
        }
    )
    feed({"event_type": "workflow.quality.started", "payload": step})
    end = "workflow.failed" if fails else "workflow.quality.completed"
    feed({"event_type": end, "payload": step})
    feed(
        {
            "event_type": "workflow.failed" if fails else "workflow.completed",
            "payload": {"workflow_id": run_id},
        }
    )


def main(endpoint: str, folder: str, workflow: str, per_second: float, lifetime: Lifetime) -> None:
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    os.environ.update(environment(endpoint, folder))
    service = Runtime(lifetime="service").open() if lifetime == "service" else None
    began, count = time.monotonic(), 0
    while not stop.wait(max(0.0, began + count / per_second - time.monotonic())):
        trace_id, fails = secrets.token_hex(16), count % 4 == 3
        parent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
        if service is not None:
            run_once(service, workflow, trace_id, fails=fails, parent=parent)
        else:
            with Runtime(lifetime="run") as runtime:
                run_once(runtime, workflow, trace_id, fails=fails, parent=parent)
        count += 1
        print(json.dumps({"trace": trace_id, "workflow": workflow, "failed": fails}), flush=True)
    if service is not None:
        service.close(20)
    with Runtime(lifetime="run") as last:  # adopts what others left
        last.wiring()
        print(json.dumps({"delivered": last.flush(60)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), cast("Lifetime", sys.argv[5]))
