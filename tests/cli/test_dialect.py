"""`spanbus dialect`: a dialect is suggested for an unknown stream, and reads it."""

from __future__ import annotations

import json
import tomllib
from typing import Any, cast

import pytest
from command_line import Cli

AT_S = 1_764_324_000


def stream(cli: Cli, *events: tuple[str, dict[str, object]]) -> str:
    lines = [
        json.dumps({"type": kind, "timestamp": AT_S + number, "payload": payload})
        for number, (kind, payload) in enumerate(events)
    ]
    (cli.folder / "stream.jsonl").write_text("\n".join(lines))
    return "stream.jsonl"


CONVEYOR: list[tuple[str, dict[str, object]]] = [
    ("batch.opened", {"batch": "b-7"}),
    ("station.entered", {"batch": "b-7", "station": "press"}),
    ("heartbeat", {"batch": "b-7"}),
    ("station.left", {"batch": "b-7", "station": "press"}),
    ("station.entered", {"batch": "b-7", "station": "oven"}),
    ("station.jammed", {"batch": "b-7", "station": "oven", "error": "ValueError: too hot"}),
    ("batch.closed", {"batch": "b-7"}),
    ("batch.opened", {"batch": "b-8"}),
    ("station.entered", {"batch": "b-8", "station": "press"}),
    ("station.left", {"batch": "b-8", "station": "press"}),
    ("batch.closed", {"batch": "b-8"}),
]


def test_the_suggested_dialect_reads_the_stream(cli: Cli) -> None:
    recorded = stream(cli, *CONVEYOR)
    blind = cli("dialect", "check", "crackerjack", recorded)
    assert blind.code == 0 and "spanbus dialect suggest stream.jsonl" in blind.err
    suggested = cli("dialect", "suggest", recorded, "--name", "conveyor")
    assert (suggested.code, suggested.err) == (0, "")
    assert tomllib.loads(suggested.out)["name"] == "conveyor"
    explained = [
        line for line in suggested.out.splitlines() if line.startswith(("type", "run_", "phase_"))
    ]
    assert {line.split()[0] for line in explained} >= {"type", "phase_keys"}
    assert [line for line in explained if "#" not in line] == []
    (cli.folder / "conveyor.toml").write_text(suggested.out)
    checked = cli("dialect", "check", "conveyor.toml", recorded, "--json").json()
    types = checked["types"]
    assert isinstance(types, list)
    assert [
        (each["type"], each["level"], each["verb"], each["events"], each["names"]) for each in types
    ] == [
        ("batch.opened", "run", "start", 2, []),
        ("station.entered", "phase", "start", 3, ["press", "oven"]),
        ("heartbeat", None, "event", 1, []),
        ("station.left", "phase", "end", 2, ["press"]),
        ("station.jammed", "phase", "end", 1, ["oven"]),
        ("batch.closed", "run", "end", 2, []),
    ]
    replayed = cli("replay", recorded, "--dialect", "conveyor.toml", "--json", "--dry-run").json()
    runs = replayed["runs"]
    assert isinstance(runs, list)
    assert [
        (run["run_id"], [(phase["name"], phase["result"]) for phase in run["phases"]])
        for run in runs
    ] == [("b-7", [("press", "success"), ("oven", "failure")]), ("b-8", [("press", "success")])]


def test_known_words_get_no_rule(cli: Cli) -> None:
    recorded = stream(
        cli,
        ("PipelineStarted", {"run_id": "r"}),
        ("TaskStarted", {"run_id": "r", "task": "fetch"}),
        ("TaskFailed", {"run_id": "r", "task": "fetch"}),
        ("PipelineFailed", {"run_id": "r"}),
    )
    suggested = cli("dialect", "suggest", recorded)
    assert "rules" not in tomllib.loads(suggested.out)
    assert "Read already by their life-cycle words: PipelineStarted" in suggested.out
    shown = cli("dialect", "check", "generic", recorded)
    assert (shown.code, shown.err) == (0, "")
    rows = [line.split() for line in shown.out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["PipelineStarted", "run", "start"],
        ["TaskStarted", "phase", "start"],
        ["TaskFailed", "phase", "end"],
        ["PipelineFailed", "run", "end"],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nowhere.toml", "stream.jsonl"], "no dialect 'nowhere.toml'"),
        (["check", "generc", "stream.jsonl"], "did you mean 'generic'?"),
        (["check", "generic", "nowhere.jsonl"], "nowhere.jsonl"),
        (["suggest", "nowhere.jsonl"], "nowhere.jsonl"),
        (["suggest", "empty.jsonl"], "no event in this file"),
    ],
)
def test_a_mistake_in_a_dialect_is_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    stream(cli, *CONVEYOR)
    (cli.folder / "empty.jsonl").write_text("")
    done = cli("dialect", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("lauf", "begonnen", "beendet", "aufgabe", "fertig", "gescheitert"), ("lauf", "fehler")),
        (("运行", "开始", "结束", "任务", "完成", "失败"), ("批次", "原因")),
        (("tarea", "empezada", "acabada", "paso", "hecho", "fallido"), ("lote", "motivo")),
    ],
)
def test_words_of_any_language_get_rules_by_their_order(
    cli: Cli, words: tuple[str, ...], keys: tuple[str, str]
) -> None:
    run, begins, ends, task, done, failed = words
    of, error = keys
    events: list[tuple[str, dict[str, object]]] = []
    for number, result in (("7", failed), ("8", done)):
        whole: dict[str, object] = {of: number}
        fetch: dict[str, object] = {of: number, task: "fetch"}
        test: dict[str, object] = {of: number, task: "test"}
        ended: dict[str, object] = {**test, error: "x"} if result == failed else test
        events += [
            (f"{run}.{begins}", whole),
            (f"{task}.{begins}", fetch),
            (f"{task}.{done}", fetch),
            (f"{task}.{begins}", test),
            (f"{task}.{result}", ended),
            (f"{run}.{ends}", whole),
        ]
    suggested = cli("dialect", "suggest", stream(cli, *events), "--name", "theirs")
    (cli.folder / "theirs.toml").write_text(suggested.out)
    checked = cli("dialect", "check", "theirs.toml", "stream.jsonl", "--json").json()
    types = checked["types"]
    assert isinstance(types, list)
    assert [(one["level"], one["verb"], one["names"], one["results"]) for one in types] == [
        ("run", "start", [], []),
        ("phase", "start", ["fetch", "test"], []),
        ("phase", "end", ["fetch", "test"], ["success"]),
        ("phase", "end", ["test"], ["failure"]),
        ("run", "end", [], ["success"]),
    ]


@pytest.mark.parametrize(
    "spell", ["{}_{}", "{}-{}", "{} {}"], ids=["underscores", "hyphens", "spaces"]
)
def test_types_of_one_part_are_taken_apart_by_their_words(cli: Cli, spell: str) -> None:
    events: list[tuple[str, dict[str, object]]] = [
        (spell.format("lauf", "gestartet"), {"ablauf": "nächtlich"}),
        (spell.format("schritt", "gestartet"), {"schritt": "holen"}),
        (spell.format("schritt", "beendet"), {"schritt": "holen"}),
        (spell.format("schritt", "gestartet"), {"schritt": "testen"}),
        (spell.format("schritt", "fehlgeschlagen"), {"schritt": "testen", "fehler": "2 von 40"}),
        (spell.format("lauf", "fehlgeschlagen"), {}),
    ]
    recorded = stream(cli, *events)
    suggested = cli("dialect", "suggest", recorded, "--name", "theirs")
    (cli.folder / "theirs.toml").write_text(suggested.out)
    replayed = cli("replay", recorded, "--dialect", "theirs.toml", "--json", "--dry-run").json()
    (run,) = cast("list[dict[str, Any]]", replayed["runs"])
    assert (run["workflow"], run["result"]) == ("nächtlich", "failure")
    assert [(phase["name"], phase["result"]) for phase in run["phases"]] == [
        ("holen", "success"),
        ("testen", "failure"),
    ]
