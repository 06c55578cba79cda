"""One run as one file: a self-contained page for a browser, or Markdown for the summary of a CI job.

The page loads nothing: its style, its script and its data stand in it, and its content security policy allows only those
two by their hashes. Where scripts are not run it still shows the phases and the output of what failed.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from spanbus.local.harmless import block, one_line
from spanbus.local.waterfall import Row, SpanDetail, Stored, Waterfall, detail, waterfall
from spanbus.telemetry.names import FAILED_RESULTS, Result
from spanbus.version import __version__

DETAILS_LIMIT_BYTES = 8 << 20
MARKDOWN_LIMIT_CHARS = 900_000  # GitHub cuts off a job summary of more than 1 MiB
_OUTPUT_LIMIT_CHARS = 4_096
_MARKS = {Result.SUCCESS: "✓", Result.FAILURE: "✗", Result.TIMEOUT: "⧖", Result.CANCELLATION: "⊘", Result.SKIP: "↷", Result.ERROR: "☠"}


def html_report(spans: Sequence[Stored], *, root: str | None = None, title: str | None = None) -> str:
    """The page. ``root`` is the span id (hexadecimal) of the run; without it the whole trace is shown."""
    fall = waterfall(spans, root=root)
    details, left_out = _details(spans, fall)
    name = one_line(title or _title(fall), 200)
    data = json.dumps({**fall, "details": details, "left_out": left_out}, separators=(",", ":"), ensure_ascii=True)
    # In a script element only </script and <!-- would end the data; every < is written as an escape of JSON.
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    style, script = _page_text("style.css"), _script()
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta name="generator" content="spanbus {html.escape(__version__)}"><title>{html.escape(name)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head>\n"
        f'<body><main id="main"><div id="top">{_static_head(fall, name)}</div><div id="waterfall"></div><div id="static">{_static_phases(fall)}</div></main>'
        '<div id="said" class="said" role="status" aria-live="polite"></div>\n'
        f'<script type="application/json" id="data">{data}</script>\n<script type="module">{script}</script></body></html>\n'
    )


def markdown_report(spans: Sequence[Stored], *, root: str | None = None, title: str | None = None) -> str:
    """GitHub-flavoured Markdown: the result, a table of the phases, the output of what failed."""
    fall = waterfall(spans, root=root)
    rows = fall["rows"]
    name = one_line(title or _title(fall), 200)
    head = rows[0] if rows else None
    lines = [f"### {_mark(head['result'] if head else '')} {_code(name)}: {_word(head['result']) if head else 'no spans'}, {_seconds(fall['length_us'])}", ""]
    phases = _phases(rows)
    if phases:
        lines += ["| Result | Phase | Duration | Attempts | Error |", "| --- | --- | ---: | ---: | --- |"]
        lines += [
            f"| {_mark(row['result'])} {_word(row['result'])} | {_cell(row['name'])} | {_took(row)} | {row['attempts']} | {_cell(row['error_type'])} |" for row in phases
        ]
        lines.append("")
    text = "\n".join(lines)
    for row in rows:
        said = block(_said(row))[-_OUTPUT_LIMIT_CHARS:].rstrip("\n")
        if not said:
            continue
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", said)), default=0))
        part = f"\n<details><summary>{html.escape(row['level'])} <code>{html.escape(one_line(row['name'], 100))}</code>: {_word(row['result'])}</summary>\n\n{fence}text\n{said}\n{fence}\n\n</details>\n"
        if len(text) + len(part) > MARKDOWN_LIMIT_CHARS:
            text += "\nMore failed; `spanbus show` has the rest.\n"
            break
        text += part
    return text if text.endswith("\n") else text + "\n"


def _title(fall: Waterfall) -> str:
    return fall["rows"][0]["name"] if fall["rows"] else "empty trace"


def _phases(rows: list[Row]) -> list[Row]:
    phases = [row for row in rows if row["level"] == "phase"]
    return phases or [row for row in rows if row["depth"] == 1]


def _said(row: Row) -> str:
    """What a row that failed said: its output, or an error text that is more than its type."""
    if row["result"] not in FAILED_RESULTS:
        return ""
    return row["output"] or (row["error"] if row["error"] != row["error_type"] else "")


def _details(spans: Sequence[Stored], fall: Waterfall) -> tuple[dict[str, SpanDetail], int]:
    """Details of as many spans as fit, what failed first; and of how many there are none."""
    by_id = {each.span.span_id.hex(): each.span for each in spans}
    found: dict[str, SpanDetail] = {}
    size = 0
    for row in sorted(fall["rows"], key=lambda each: (each["result"] not in FAILED_RESULTS, each["depth"])):
        one = detail(by_id[row["id"]])
        size += len(json.dumps(one))
        if size > DETAILS_LIMIT_BYTES:
            break
        found[row["id"]] = one
    return found, len(fall["rows"]) - len(found)


def _static_head(fall: Waterfall, name: str) -> str:
    result = fall["rows"][0]["result"] if fall["rows"] else ""
    started = datetime.fromtimestamp(fall["start_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"<h1><bdi>{html.escape(name)}</bdi> {_badge(result)}</h1>"
        f'<dl class="facts"><div><dt>started</dt><dd>{started}</dd></div><div><dt>took</dt><dd>{_seconds(fall["length_us"])}</dd></div>'
        f'<div><dt>spans</dt><dd>{len(fall["rows"])}</dd></div></dl>'
    )


def _static_phases(fall: Waterfall) -> str:
    rows = "".join(
        f"<tr><td>{_badge(row['result'])}</td><td><bdi>{html.escape(one_line(row['name']))}</bdi></td><td class=\"number\">{_took(row)}</td>"
        f"<td class=\"number\">{row['attempts']}</td><td><bdi>{html.escape(one_line(row['error_type']))}</bdi></td></tr>"
        for row in _phases(fall["rows"])
    )
    outputs = "".join(
        f"<h2>{html.escape(row['level'])} <bdi>{html.escape(one_line(row['name']))}</bdi></h2><pre class=\"output\">{html.escape(block(_said(row)))}</pre>"
        for row in [each for each in fall["rows"] if _said(each)][:100]
    )
    return (
        '<h2>Phases</h2><table><thead><tr><th scope="col">Result</th><th scope="col">Phase</th><th scope="col" class="number">Duration</th>'
        f'<th scope="col" class="number">Attempts</th><th scope="col">Error</th></tr></thead><tbody>{rows}</tbody></table>{outputs}'
    )


def _badge(result: str) -> str:
    known = result if result in set(Result) else "unknown"
    return f'<span class="badge r-{known}">{html.escape(one_line(result, 30)) or "unknown"}</span>'


def _word(result: str) -> str:
    """A result outside of code: one of ours, or that it is none; markup of somebody else would be read as such."""
    return result if result in set(Result) else "unknown"


def _mark(result: str) -> str:
    return next((mark for known, mark in _MARKS.items() if known == result), "·")


def _took(row: Row) -> str:
    """What was skipped took no time, not zero of it."""
    return "" if row["result"] == Result.SKIP else _seconds(row["length"])


def _seconds(us: int) -> str:
    seconds = us / 1e6
    if seconds < 1:
        return f"{us / 1_000:.0f} ms" if us >= 1_000 else f"{us} µs"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def _cell(text: str) -> str:
    """A table's cell as code, in which neither markup nor mentions work. A bar is escaped even there."""
    return _code(one_line(text, 200)).replace("|", "\\|") if text else ""


def _page_text(name: str) -> str:
    return files("spanbus.local").joinpath("page", name).read_text(encoding="utf-8")


def _script() -> str:
    """The page's own modules joined into one."""
    parts = [_page_text(name) for name in ("text.js", "waterfall.js", "report.js")]
    joined = "\n".join(re.sub(r"(?m)^import [^;]*;\n", "", part) for part in parts)
    return re.sub(r"(?m)^export ", "", joined)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
