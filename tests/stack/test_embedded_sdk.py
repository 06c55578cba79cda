"""A program of another language with the OpenTelemetry SDK as it is published, in front of the embedded backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli
from embedded import Up, ask
from servers import Json, eventually

pytestmark = pytest.mark.stack

PACKAGES = ("@opentelemetry/api@1.9.1", "@opentelemetry/sdk-node@0.223.0")

PROGRAM = """
const { NodeSDK } = require('@opentelemetry/sdk-node');
const { trace, metrics, SpanStatusCode, SpanKind } = require('@opentelemetry/api');
const sdk = new NodeSDK();   // everything else is in the environment
sdk.start();
const tracer = trace.getTracer('shop', '2.0');
const meter = metrics.getMeter('shop');
const orders = meter.createCounter('shop.orders', { unit: '{order}', description: 'Orders.' });
const latency = meter.createHistogram('shop.latency', { unit: 's' });
tracer.startActiveSpan('POST /order', { kind: SpanKind.SERVER, attributes: { 'http.route': '/order', items: 3, vip: true, tags: ['a', 'b'] } }, (top) => {
  tracer.startActiveSpan('reserve', (child) => {
    child.addEvent('retry', { attempt: 1 });
    child.recordException(new Error('sold <out>'));
    child.setStatus({ code: SpanStatusCode.ERROR, message: 'sold <out>' });
    child.end();
  });
  console.log(top.spanContext().traceId);
  top.end();
});
orders.add(4, { region: 'eu' });
latency.record(0.3, { region: 'eu' });
sdk.shutdown().catch((error) => { console.error(error); process.exit(1); });
"""


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not on this machine"
        if "TESTS_IN_CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program and what it needs."""
    needed("node")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    (folder / "shop.js").write_text(PROGRAM)
    install = [
        needed("npm"),
        "install",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--ignore-scripts",
        *PACKAGES,
    ]
    done = subprocess.run(
        install, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        reason = f"npm cannot install the SDK here: {done.stderr[-300:]}"
        if "TESTS_IN_CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def up(tmp_path: Path) -> Generator[Up]:
    one = Up(Cli(tmp_path))
    yield one
    one.stop()


def run(node: Path, url: str, protocol: str, **more: str) -> str:
    """Run the program; the id of its trace."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none", "OTEL_SERVICE_NAME": "shop-js", **more,
    }  # fmt: skip
    done = subprocess.run(
        [needed("node"), "shop.js"],
        cwd=node,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize(
    "more", [{}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}], ids=["plain", "gzip"]
)
def test_a_javascript_program_is_shown_with_its_spans_and_numbers(
    up: Up, node: Path, protocol: str, more: dict[str, str]
) -> None:
    trace_id = run(node, up.url, protocol, **more)
    status, document = ask(f"{up.url}/api/traces/{trace_id}")
    assert status == 200
    [trace] = cast("list[Json]", document["data"])
    spans = {span["operationName"]: span for span in cast("list[Json]", trace["spans"])}
    assert set(spans) == {"POST /order", "reserve"}
    tags = {tag["key"]: tag["value"] for tag in cast("list[Json]", spans["POST /order"]["tags"])}
    assert (tags["http.route"], tags["items"], tags["vip"], tags["tags"], tags["span.kind"]) == (
        "/order",
        3,
        True,
        '["a","b"]',
        "server",
    )
    reserve = spans["reserve"]
    assert cast("list[Json]", reserve["references"])[0]["spanID"] == spans["POST /order"]["spanID"]
    assert len(cast("list[Json]", reserve["logs"])) == 2
    assert ask(f"{up.url}/api/services")[1]["data"] == ["shop-js"]
    found = ask(f"{up.url}/api/traces?service=shop-js&tags=%7B%22error%22%3A%22true%22%7D")[1][
        "data"
    ]
    assert [each["traceID"] for each in cast("list[Json]", found)] == [trace_id]
    with urllib.request.urlopen(f"{up.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    [orders] = [line for line in lines if line.startswith("shop_orders_total{")]
    assert 'job="shop-js"' in orders
    assert 'region="eu"' in orders
    assert orders.endswith(" 4.0")
    assert any(
        line.startswith("shop_latency_seconds_count{") and line.endswith(" 1.0") for line in lines
    )


def test_many_programs_with_deltas_add_up(up: Up, node: Path) -> None:
    for _ in range(3):
        run(
            node,
            up.url,
            "http/protobuf",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            OTEL_RESOURCE_ATTRIBUTES="spanbus.lifetime=run",
        )

    def orders() -> list[str]:
        with urllib.request.urlopen(f"{up.url}/metrics", timeout=10) as answer:
            return [
                line.rpartition(" ")[2]
                for line in answer.read().decode().splitlines()
                if line.startswith("shop_orders_total{")
            ]

    eventually(lambda: orders() == ["12.0"])
