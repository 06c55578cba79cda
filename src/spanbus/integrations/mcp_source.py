"""Data sources of the MCP server: the store of a state directory and the live stream of its backend."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from spanbus._backend.address import read_address
from spanbus._runs.compare import PhaseChange, compare
from spanbus._runs.listing import RunHead as StoredHead
from spanbus._runs.sanitize import block, one_line
from spanbus._runs.summary import SpanSummary
from spanbus._runtime import STORE_NAME
from spanbus._store.store import Store
from spanbus._timestamps import iso
from spanbus.errors import BackendError, RunNotFound
from spanbus.integrations.mcp import Node, RunHead, RunTree

_NAME_CHARS = 200
_TEXT_CHARS = 8_000
_LARGEST_FRAME_BYTES = 16 << 20
_PATH_CHARS = 1_000


class StoredRuns:
    """Runs of a state directory. The store is opened for each query, because it may not exist yet.

    ``first`` is called before each query, to import the spans of killed programs.
    """

    def __init__(self, state_dir: Path, first: Callable[[], object]) -> None:
        self._path = state_dir / STORE_NAME
        self._first = first
        self._one_at_a_time = threading.Lock()

    def _is_there(self) -> bool:
        with self._one_at_a_time:
            self._first()
        return self._path.exists()

    def _open(self) -> Store:
        if not self._is_there():
            raise RunNotFound(f"no run is stored in {self._path.parent} yet")
        return Store.open_to_read(self._path)

    def runs(
        self, *, workflow: str | None, result: str | None, limit: int, offset: int
    ) -> Sequence[RunHead]:
        if not self._is_there():
            return []
        with Store.open_to_read(self._path) as store:
            return [
                _head(head)
                for head in store.run_heads(
                    workflow=workflow, result=result, limit=limit, offset=offset
                )
            ]

    def run(self, run: str) -> RunTree:
        with self._open() as store:
            head = store.run_head(run)
            summary = store.run(head.run_id)
        return {"head": _head(head), "nodes": list(_nodes(summary.phases, ""))}

    def compare(self, baseline: str, candidate: str) -> Mapping[str, object]:
        with self._open() as store:
            found = compare([store.run(baseline)], store.run(candidate))

        def shown(phase: PhaseChange) -> PhaseChange:
            return phase._replace(name=one_line(phase.name, _NAME_CHARS))

        readable = found._replace(
            workflow=one_line(found.workflow, _NAME_CHARS),
            run=shown(found.run),
            phases=tuple(map(shown, found.phases)),
            baseline_workflows=tuple(
                one_line(name, _NAME_CHARS) for name in found.baseline_workflows
            ),
        )
        return readable.document()


def _head(head: StoredHead) -> RunHead:
    return {
        "run_id": head.run_id,  # unchanged: it is the key to read the run
        "workflow": one_line(head.workflow, _NAME_CHARS),
        "result": one_line(head.result, 20),
        "error_type": one_line(head.error_type, _NAME_CHARS) if head.error_type else None,
        "started_at": iso(head.started_at_ns),
        "duration_s": head.duration_s,
    }


def _nodes(spans: Sequence[SpanSummary], above: str) -> Iterator[Node]:
    for span in spans:
        name = one_line(span.name, _NAME_CHARS)
        path = f"{above} > {name}" if above else name
        if len(path) > _PATH_CHARS:
            path = "…" + path[-_PATH_CHARS:]
        yield {
            "path": path,
            "kind": one_line(span.kind, 20),
            "result": one_line(span.result, 20),
            "duration_s": span.duration_s,
            "attempts": span.attempts,
            "error_type": one_line(span.error_type, _NAME_CHARS) if span.error_type else None,
            "error": block(span.message[:_TEXT_CHARS]) if span.message else None,
            "output": block(span.output_tail[-_TEXT_CHARS:]) if span.output_tail else None,
        }
        yield from _nodes(span.children, path)


@asynccontextmanager
async def live_feed(state_dir: Path) -> AsyncGenerator[AsyncGenerator[Mapping[str, object]]]:
    """Open the live stream of the backend of this state directory. Raises BackendError if there is none."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    address = read_address(state_dir)
    if address is None:
        raise BackendError(
            "waiting needs the live stream, and no backend serves this state directory; start `spanbus up`"
        )
    url = address.url.replace("http", "ws", 1) + "/live"
    try:
        async with connect(
            url,
            additional_headers={"Authorization": f"Bearer {address.token}"},
            max_size=_LARGEST_FRAME_BYTES,
            proxy=None,
        ) as socket:

            async def messages() -> AsyncGenerator[Mapping[str, object], None]:
                async for frame in socket:
                    document: object = json.loads(frame)
                    members = (
                        cast("dict[str, object]", document) if isinstance(document, dict) else {}
                    )
                    past = members.get("type") == "hello"
                    for message in _unfolded(members):
                        yield {**message, "past": True} if past else message

            yield messages()
    except (OSError, WebSocketException) as error:
        raise BackendError(f"the live stream of {address.url} broke off: {error}") from error


def _unfolded(members: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    if members.get("type") == "messages":
        yield from cast("list[Mapping[str, object]]", members.get("messages", []))
        return
    for run in cast("list[Mapping[str, object]]", members.get("runs") or []):
        span = run.get("span")
        if isinstance(span, dict):
            yield cast("Mapping[str, object]", span)
        yield from cast("list[Mapping[str, object]]", run.get("open") or [])
        if run.get("state") in ("killed", "ended"):
            yield {"type": "run_state", "run_id": run.get("run_id"), "state": run.get("state")}
