"""Dialects that the settings name."""

from __future__ import annotations

from command_line import Cli

RULES = """
[[rules]]
type = "batch.opened"
level = "run"
verb = "start"

[[rules]]
type = "batch.closed"
level = "run"
verb = "end"
"""


def test_a_dialect_of_the_settings_is_found_and_suggested_for_a_typo(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text('dialects = { conveyor = "rules/conveyor.toml" }\n')
    (cli.folder / "rules").mkdir()
    (cli.folder / "rules" / "conveyor.toml").write_text(RULES)
    (cli.folder / "s.jsonl").write_text('{"type": "batch.opened"}\n{"type": "batch.closed"}\n')
    assert "1 run, 2 events seen, 2 events recorded" in cli(
        "replay", "s.jsonl", "--dialect", "conveyor", "--dry-run"
    ).out.replace("\n", " ")
    slip = cli("replay", "s.jsonl", "--dialect", "conveyer", "--dry-run")
    assert slip.code == 2
    assert "did you mean 'conveyor'?" in slip.err
    assert slip.err.count("\n") == 1


def test_counts_of_one_are_singular(cli: Cli) -> None:
    events = ("workflow.started", "workflow.failed")
    (cli.folder / "s.jsonl").write_text(
        "".join(
            f'{{"event_type": "{name}", "payload": {{"workflow_id": "w"}}}}\n' for name in events
        )
        + "broken\n"
    )
    said = cli("replay", "s.jsonl", "--dry-run").out.replace("\n", " ")
    assert "1 run, 2 events seen, " in said
    assert "1 run failure, " in f"{said}, "
    assert "1 broken line;" in said
