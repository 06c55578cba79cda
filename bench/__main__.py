"""`make bench`: one table of measurement, yardstick, ratio and goal."""

from __future__ import annotations

import platform
import sys
from importlib import import_module, metadata
from pathlib import Path

from bench.rounds import Row


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| What (yardstick) | Ours | Yardstick | Ratio | Goal | |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    lines.extend(
        f"| {row.name} | {_number(row.ours)} {row.unit} | {_number(row.yardstick)} {row.unit} | {row.ratio:.2f} | {row.goal} | {'met' if row.met else 'missed'} |"
        for row in rows
    )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def machine() -> str:
    """The machine and versions of this run."""
    import os

    from spanbus._correlation import correlator as correlator

    build = "interpreted" if (correlator.__file__ or "").endswith(".py") else "compiled"
    return (
        f"spanbus {build}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"opentelemetry-sdk {metadata.version('opentelemetry-sdk')}, protobuf {metadata.version('protobuf')}"
    )


def main() -> int:
    wanted = sys.argv[1:]
    rows: list[Row] = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if wanted and path.stem.removeprefix("bench_") not in wanted:
            continue
        print(f"{path.stem} ...", file=sys.stderr, flush=True)
        rows += import_module(f"bench.{path.stem}").measure()
    print(table(rows))
    print(f"\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
