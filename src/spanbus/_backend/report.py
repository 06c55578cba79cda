"""Report of one run in one file: a self-contained page for a browser, or Markdown for the summary of a CI job.

The page loads nothing: style, script and data are inline, and its content security policy allows only this style and script, by
their hashes. Without scripts it still shows the phases and the output of failures.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from spanbus._runs.markdown import failure_text, markdown, phases_of, seconds_text, took
from spanbus._runs.sanitize import block, one_line
from spanbus._runs.tree import Row, Stored, Waterfall, detail, waterfall
from spanbus._semantics import FAILED_RESULTS, Result
from spanbus._version import __version__

SIZE_LIMIT_BYTES = 2_000_000
"""Limit of the file; above it details of spans are left out, those of failed spans last."""

_PHASES_SHOWN = 500
_OUTPUTS_SHOWN = 30
_UNFLUSHED = 80_000
"""Bytes that the compressor may buffer until its end."""
_MARKS = 50_000
"""Limit on event marks of all bars together."""


def html_report(
    spans: Sequence[Stored], *, root: str | None = None, title: str | None = None
) -> str:
    """Render the page. ``root`` is the span id (hexadecimal) of the run; without it the whole trace is shown."""
    fall = waterfall(spans, root=root)
    name = one_line(title or _title(fall), 200)
    style, script = page_text("style.css"), _script()
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    before = (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta name="generator" content="spanbus {html.escape(__version__)}"><title>{html.escape(name)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head>\n"
        f'<body><main id="main"><div id="top">{_static_head(fall, name)}</div><div id="waterfall"></div><div id="static">{_static_phases(fall)}</div></main>'
        '<div id="said" class="said" role="status" aria-live="polite"></div>\n'
        '<script type="text/plain" id="data">'
    )
    after = f'</script>\n<script type="module">{script}</script></body></html>\n'
    room = SIZE_LIMIT_BYTES - len(before.encode()) - len(after.encode())
    return before + _data(spans, fall, room * 3 // 4) + after


def _data(spans: Sequence[Stored], fall: Waterfall, most_bytes: int) -> str:
    """Rows, and details of as many spans as fit, as deflated JSON in base64, which cannot end its element."""
    for output_bytes, marks, error_chars in (
        (most_bytes // 2, _MARKS, 2_000),
        (most_bytes // 8, 0, 120),
    ):
        rows = json.dumps(
            _short(fall["rows"], output_bytes, marks, error_chars), separators=(",", ":")
        )
        packer = zlib.compressobj()
        packed = bytearray(
            packer.compress(
                f'{{"start_us":{fall["start_us"]},"length_us":{fall["length_us"]},"rows":{rows},"details":{{'.encode()
            )
        )
        if len(packed) < most_bytes * 3 // 4:
            break
    by_id = {each.span.span_id.hex(): each.span for each in spans}
    found = 0
    for row in sorted(
        fall["rows"], key=lambda each: (each["result"] not in FAILED_RESULTS, each["depth"])
    ):
        one = json.dumps(detail(by_id[row["id"]]), separators=(",", ":"))
        if len(packed) + len(one) // 4 > most_bytes - _UNFLUSHED:
            break
        packed += packer.compress(f'{"," if found else ""}"{row["id"]}":{one}'.encode())
        found += 1
    packed += packer.compress(f'}},"left_out":{len(fall["rows"]) - found}}}'.encode())
    packed += packer.flush()
    return base64.b64encode(packed).decode()


def _short(rows: Sequence[Row], output_bytes: int, marks: int, error_chars: int) -> list[Row]:
    """The rows with as many outputs as fit, what failed first, and a bounded number of marks."""
    kept: set[str] = set()
    for row in sorted(rows, key=lambda each: each["result"] not in FAILED_RESULTS):
        if row["output"]:
            output_bytes -= len(zlib.compress(row["output"].encode("utf-8", "replace")))
            if output_bytes < 0:
                break
            kept.add(row["id"])
    each_row = max(1, marks // max(1, len(rows))) if marks else 0
    return [
        {
            **row,
            "output": row["output"] if row["id"] in kept else "",
            "error": row["error"][:error_chars],
            "marks": row["marks"][:each_row],
        }
        for row in rows
    ]


def markdown_report(
    spans: Sequence[Stored], *, root: str | None = None, title: str | None = None
) -> str:
    """Render GitHub-flavoured Markdown: the result, a table of the phases, the output of failures."""
    fall = waterfall(spans, root=root)
    return markdown(fall["rows"], title or _title(fall), fall["length_us"])


def _title(fall: Waterfall) -> str:
    return fall["rows"][0]["name"] if fall["rows"] else "empty trace"


def _static_head(fall: Waterfall, name: str) -> str:
    result = fall["rows"][0]["result"] if fall["rows"] else ""
    started = datetime.fromtimestamp(fall["start_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"<h1><bdi>{html.escape(name)}</bdi> {_badge(result)}</h1>"
        f'<dl class="facts"><div><dt>started</dt><dd>{started}</dd></div><div><dt>took</dt><dd>{seconds_text(fall["length_us"])}</dd></div>'
        f"<div><dt>spans</dt><dd>{len(fall['rows'])}</dd></div></dl>"
    )


def _static_phases(fall: Waterfall) -> str:
    phases = phases_of(fall["rows"])
    rows = "".join(
        f'<tr><td>{_badge(row["result"])}</td><td><bdi>{html.escape(one_line(row["name"]))}</bdi></td><td class="number">{took(row)}</td>'
        f'<td class="number">{row["attempts"]}</td><td><bdi>{html.escape(one_line(row["error_type"]))}</bdi></td></tr>'
        for row in phases[:_PHASES_SHOWN]
    )
    more = len(phases) - _PHASES_SHOWN
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    outputs = "".join(
        f'<h2>{html.escape(row["level"])} <bdi>{html.escape(one_line(row["name"]))}</bdi></h2><pre class="output">{html.escape(block(failure_text(row)))}</pre>'
        for row in [each for each in fall["rows"] if failure_text(each)][:_OUTPUTS_SHOWN]
    )
    return (
        '<h2>Phases</h2><table><thead><tr><th scope="col">Result</th><th scope="col">Phase</th><th scope="col" class="number">Duration</th>'
        f'<th scope="col" class="number">Attempts</th><th scope="col">Error</th></tr></thead><tbody>{rows}</tbody></table>{rest}{outputs}'
    )


def _badge(result: str) -> str:
    known = result if result in set(Result) else "unknown"
    return f'<span class="badge r-{known}">{html.escape(one_line(result, 30)) or "unknown"}</span>'


def page_text(name: str) -> str:
    """Text of one file of the page, from the installed package."""
    return files("spanbus._backend").joinpath("page", name).read_text(encoding="utf-8")


def _script() -> str:
    """The page's modules joined into one script."""
    parts = [
        page_text(name)
        for name in ("text.js", "tree.js", "keys.js", "detail.js", "waterfall.js", "report.js")
    ]
    joined = "\n".join(re.sub(r"(?m)^import [^;]*;\n", "", part) for part in parts)
    return re.sub(r"(?m)^export ", "", joined)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
