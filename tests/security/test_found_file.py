"""A settings file found in a project may set only settings of the project; other attempts are reported once."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from command_line import Cli

from spanbus import _settings
from spanbus._settings import FOUND_FILE_MAY_SET, SETTINGS, Settings, load_settings, user_file

FORBIDDEN = {
    "state_dir": '".cache"',
    "exit_timeout_s": "3600",
    "spool_quota_bytes": '"1MiB"',
    "local": '"off"',
    "store_days": "1",
    "store_bytes": "1048576",
    "redact": "false",
}
ALLOWED = {
    "events": '"both"',
    "lifetime": '"service"',
    "redact_patterns": '["ACME-[0-9]{6}"]',
    "payload_allow": '["parcel"]',
    "dialects": '{ conveyor = "conveyor.toml" }',
    "default_workflow": '"night"',
}


@pytest.fixture(autouse=True)
def nobody_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_settings, "_warned", set[str]())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def value(settings: Settings, name: str) -> object:
    return getattr(settings, name)


def test_every_setting_belongs_to_the_project_or_to_the_user() -> None:
    assert set(FORBIDDEN) & set(ALLOWED) == set()
    assert set(ALLOWED) | {"workflows"} == FOUND_FILE_MAY_SET
    unknown = {setting.name for setting in SETTINGS} - set(FORBIDDEN) - set(ALLOWED)
    assert not unknown & FOUND_FILE_MAY_SET


@pytest.mark.parametrize("header", ["", "[tool.spanbus]\n"])
@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_a_found_file_cannot_set_settings_of_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, header: str
) -> None:
    folder = tmp_path / "cloned"
    file = "pyproject.toml" if header else "spanbus.toml"
    write(folder / file, f"{header}{name} = {FORBIDDEN[name]}\n")
    before = load_settings(cwd=tmp_path, env={})
    with caplog.at_level(logging.WARNING, "spanbus"):
        found = [load_settings(cwd=folder, env={}) for _ in range(3)]
    for settings in found:
        assert value(settings, name) == value(before, name)
        assert settings.origin[name] == "default"
        assert settings.warnings == ()
    [told] = caplog.messages
    assert told == found[0].ignored[0]
    assert name in told and file in told and str(user_file()) in told and "\n" not in told


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_found_file_sets_settings_of_the_project(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    write(tmp_path / "cloned" / "spanbus.toml", f"{name} = {ALLOWED[name]}\n")
    settings = load_settings(cwd=tmp_path / "cloned", env={})
    assert settings.origin[name] != "default"
    assert settings.ignored == () and not caplog.messages


def test_all_ignored_settings_of_a_file_are_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "".join(f"{name} = {given}\n" for name, given in FORBIDDEN.items())
    write(tmp_path / "cloned" / "spanbus.toml", text)
    load_settings(cwd=tmp_path / "cloned" / "deeper", env={})
    [told] = caplog.messages
    assert all(name in told for name in FORBIDDEN)


def test_a_found_file_may_add_redaction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "config" / "spanbus" / "spanbus.toml", "redact = false\n")
    assert not load_settings(cwd=tmp_path, env={}).redact
    write(tmp_path / "cloned" / "spanbus.toml", "redact = true\n")
    assert load_settings(cwd=tmp_path / "cloned", env={}).redact
    assert not caplog.messages


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_an_explicit_file_and_the_users_file_may_set_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    text = f"{name} = {FORBIDDEN[name]}\n"
    default = value(load_settings(cwd=tmp_path, env={}), name)
    file = write(tmp_path / "given.toml", text)
    assert value(load_settings(file, env={}), name) != default
    own = write(tmp_path / "config" / "spanbus" / "spanbus.toml", text)
    settings = load_settings(cwd=tmp_path, env={})
    assert value(settings, name) != default
    assert settings.origin[name] == f"{own}:1"
    assert not caplog.messages


def test_a_found_file_cannot_reduce_the_users_redaction(tmp_path: Path) -> None:
    write(tmp_path / "config" / "spanbus" / "spanbus.toml", 'redact_patterns = ["MINE-[0-9]+"]\n')
    write(tmp_path / "cloned" / "spanbus.toml", 'redact_patterns = ["THEIRS"]\n')
    settings = load_settings(cwd=tmp_path / "cloned", env={})
    assert settings.redact_patterns == ("MINE-[0-9]+", "THEIRS")


def test_the_users_file_is_used_if_no_other_is_found(tmp_path: Path) -> None:
    own = write(
        tmp_path / "config" / "spanbus" / "spanbus.toml",
        'default_workflow = "mine"\n[workflows.mine]\nphases = [{ name = "p", run = "true" }]\n',
    )
    settings = load_settings(cwd=tmp_path, env={})
    assert (settings.file, settings.workflow().name) == (own, "mine")


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to give a file away"
)
def test_a_configuration_file_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    own = write(tmp_path / "config" / "spanbus" / "spanbus.toml", "redact = false\n")
    os.chown(own, 65534, 65534)
    assert load_settings(cwd=tmp_path, env={}).redact


def test_a_command_reports_ignored_settings_once_and_keeps_the_history(cloned: Cli) -> None:
    home = Path(cloned.env["HOME"]) / "state" / "spanbus"
    assert cloned("exec", "--workflow", "mine", "--", "true").code == 0
    hostile = "".join(f"{name} = {given}\n" for name, given in FORBIDDEN.items())
    write(cloned.folder / "spanbus.toml", hostile)
    write(
        cloned.folder / ".cache" / "backend.json",
        json.dumps({"v": 1, "url": "file:///etc/passwd", "token": "t", "pid": os.getpid()}),
    )
    done = cloned("runs", "--json")
    assert done.err.count("spanbus.toml:1") == 1 and len(done.err.splitlines()) == 1
    assert "mine" in done.out
    assert (home / "store.sqlite3").exists()
    assert os.listdir(cloned.folder / ".cache") == ["backend.json"]


# --- files that are made to take long, or to be taken for another ---------------------------------------------------------------


TROUBLE = {
    "a key of many parts": "x" + ".x" * 50_000 + " = 1\n",
    "a key of many quoted parts": '"a b"' + ' . "a b"' * 30_000 + " = 1\n",
    "a header of many parts": "[x" + ".x" * 50_000 + "]\n",
    "an inline table of many parts": "y = {x" + ".x" * 50_000 + " = 1}\n",
    "arrays in arrays": "y = " + "[" * 50_000 + "]" * 50_000 + "\n",
    "tables in tables": "y = " + "{a=" * 50_000 + "1" + "}" * 50_000 + "\n",
    "a number of many digits": "y = " + "9" * 50_000 + "\n",
    "a large file": "# " + "x" * (1 << 20) + "\n",
}


@pytest.mark.parametrize("name", ["spanbus.toml", "pyproject.toml"])
@pytest.mark.parametrize("what", TROUBLE)
def test_an_expensive_toml_file_is_refused_with_one_line(
    tmp_path: Path, name: str, what: str
) -> None:
    write(tmp_path / "cloned" / name, TROUBLE[what] + "[tool.spanbus]\nevents = 'log'\n")
    settings = load_settings(cwd=tmp_path / "cloned", env={}, strict=False)
    assert settings.events == "span"
    assert all(len(each) < 500 for each in settings.warnings)
    skipped = (what, name) == ("a large file", "pyproject.toml")  # it may be another program's
    assert len(settings.warnings) == (0 if skipped else 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_file_in_another_encoding_sets_nothing(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "cloned" / "spanbus.toml"
    file.parent.mkdir()
    file.write_bytes("redact = false # größe\nstate_dir = '.cache'\n".encode(encoding))
    settings = load_settings(cwd=file.parent, env={}, strict=False)
    assert settings.redact and settings.origin["state_dir"] == "default"


SPELLINGS = [
    '"redact" = false\n"state_dir" = ".cache"\n',
    "\ufeffredact = false\nstate_dir = '.cache'\n",
    '"\\u0072edact" = false\n"\\u0073tate_dir" = ".cache"\n',
    "tool.spanbus.redact = false\ntool.spanbus.state_dir = '.cache'\n",
    "tool = { spanbus = { redact = false, state_dir = '.cache' } }\n",
    "[tool]\nspanbus.redact = false\nspanbus.state_dir = '.cache'\n",
    "redact = false\r\nstate_dir = '.cache'\r\n",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_notation_of_a_setting_is_recognized(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cloned" / "spanbus.toml", text)
    settings = load_settings(cwd=tmp_path / "cloned" / "deeper", env={}, strict=False)
    assert settings.redact and settings.origin["state_dir"] == "default"
    assert "redact" in settings.ignored[0] and "state_dir" in settings.ignored[0]


@pytest.mark.parametrize(
    "text",
    [
        "SPANBUS_REDACT = false\n",
        "Redact = false\n",
        "settings.redact = false\n",
        "env = { SPANBUS_REDACT = 'off' }\n",
        "OTEL_EXPORTER_OTLP_ENDPOINT = 'http://evil.example'\n",
        "nats_url = 'nats://evil.example'\n",
        "nats_creds = '/etc/passwd'\n",
        "delivery = 'sdk'\n",
        "output = 'logs'\n",
        "python = 'evil:hook'\n",
        "extends = '/etc/passwd'\n",
    ],
)
def test_other_keys_in_a_found_file_change_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cloned" / "spanbus.toml", text)
    before = load_settings(cwd=tmp_path, env={})
    settings = load_settings(cwd=tmp_path / "cloned", env={}, strict=False)
    for name in (each.name for each in SETTINGS if each.name != "dialects"):
        assert value(settings, name) == value(before, name), name
    assert settings.warnings or settings.ignored


@pytest.mark.parametrize(
    "what", ["a link to the user's own", "a link to a device", "a pipe", "a folder"]
)
def test_links_pipes_and_folders_are_not_settings_files(tmp_path: Path, what: str) -> None:
    folder, own = tmp_path / "cloned", tmp_path / "config" / "spanbus" / "spanbus.toml"
    folder.mkdir()
    write(own, "redact = false\n")
    file = folder / "spanbus.toml"
    match what:
        case "a link to the user's own":
            file.symlink_to(own)
        case "a link to a device":
            file.symlink_to("/dev/zero")
        case "a pipe":
            os.mkfifo(file)
        case _:
            file.mkdir()
    assert not load_settings(cwd=folder, env={}).redact  # as the user's own file says


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder", "a large file", "no file"])
def test_a_dialect_named_by_a_found_file_must_be_a_file(cloned: Cli, what: str) -> None:
    path = cloned.folder / "d.toml"
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a folder":
            path.mkdir()
        case "a large file":
            path.write_text("# " + "x" * (2 << 20))
        case _:
            pass
    write(cloned.folder / "spanbus.toml", '[dialects]\nmine = "d.toml"\n')
    write(cloned.folder / "events.jsonl", '{"type": "workflow.started", "run_id": "r"}\n')
    done = cloned("replay", "events.jsonl", "--dialect", "mine", timeout_s=30)
    assert done.code == 2
    assert "d.toml" in done.err and len(done.err.splitlines()) == 1
