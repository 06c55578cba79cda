"""FastStream: its own telemetry with spanbus's provider, as the example of the documents has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus.testing import Receiver

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"


def test_the_example_of_the_documents(collector: Receiver, tmp_path: Path, delivery: str) -> None:
    text = DOCUMENT.read_text().split("\n## FastStream\n")[1].split("\n## ")[0]
    found = re.search(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    (tmp_path / "example.py").write_text(found[1])
    env = {**os.environ, **collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "state")}
    env |= {"SPANBUS_EXIT_TIMEOUT_S": "20", "SPANBUS_DELIVERY": delivery}
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=env, timeout=60, check=True)
    spans = {span.name: span for span in collector.spans()}
    known = {span.span_id: span for span in spans.values()}

    def above(name: str) -> list[str]:
        """The names of the spans above one, the nearest first."""
        span, found = spans[name], list[str]()
        while span.parent_span_id in known:
            span = known[span.parent_span_id]
            found.append(span.name)
        return found

    assert len(spans) == len(collector.spans())
    assert spans["orders publish"].kind == Span.SPAN_KIND_PRODUCER
    assert above("orders publish")[-2:] == ["announce", "RUN shop"]
    assert above("orders process")[-2:] == ["announce", "RUN shop"], "what a subscriber does, too"
    assert len({span.trace_id for span in spans.values()}) == 1
