"""What telemetry costs where it is not used: importing, and being switched off."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.rounds import Row, seconds_of
from spanbus.runtime import Runtime
from spanbus.settings import load_settings

_PHASES = 2_000


def _import_ms(module: str) -> float:
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return statistics.median(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(9)) * 1e3


def measure() -> list[Row]:
    ours, sdk = _import_ms("spanbus"), _import_ms("opentelemetry.sdk.trace")
    rows = [Row("import spanbus (import of the SDK's traces)", ours, sdk, "ms", ours / sdk, "<= SDK + 10 ms", ours <= sdk + 10)]
    with tempfile.TemporaryDirectory() as folder:
        env = {"SPANBUS_STATE_DIR": folder, "OTEL_SDK_DISABLED": "true"}
        with Runtime(load_settings(env=env, cwd=Path(folder)), env=env) as runtime:
            feed = runtime.handle.feed
            event: dict[str, object] = {}

            def work() -> None:
                for _ in range(_PHASES):
                    feed(event)
                    feed(event)
                    feed(event)
                    feed(event)
                    feed(event)

            spent = statistics.median(seconds_of(work) / _PHASES * 1e6 for _ in range(15))

            def nothing() -> None:
                for _ in range(_PHASES):
                    pass

            empty = statistics.median(seconds_of(nothing) / _PHASES * 1e6 for _ in range(15))
    rows.append(Row("telemetry off: five events of a phase (an empty loop)", spent, empty, "µs", spent / empty, "<= 1 µs", spent <= 1.0))
    return rows
