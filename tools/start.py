"""Generate src/spanbus/_cli/start_data.py from the commands: help, and the table for parsing and completing command lines.

``python tools/start.py`` writes the module, ``--check`` compares.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src" / "spanbus" / "_cli" / "start_data.py"


def data() -> str:
    """A module of two constants, as ruff would format it."""
    text = (
        '"""Help and option names as typer says them; written by ``python tools/start.py``."""\n\n'
        "from __future__ import annotations\n\n"
        f"HELP = '''{_help()}'''\n\n"
        "Bounds = tuple[float | None, float | None] | None\n"
        "Argument = tuple[str, str, bool, bool]\n"
        '"""The parameter, its kind, whether it has to be given, whether it takes all that is left."""\n'
        "Option = tuple[tuple[str, ...], bool, str, str, Bounds]\n"
        '"""The names, whether it may be given again, the parameter, its kind, the least and the most."""\n'
        "Command = tuple[bool, tuple[Argument, ...], tuple[Option, ...]]\n"
        '"""Whether this says all of it, arguments, options. A kind is flag, text, path, whole or number, else empty."""\n\n'
        f"COMMANDS: dict[str, Command] = {_commands()!r}\n"
    )
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(DATA), "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


def _help() -> str:
    """The help of typer for a terminal of 80 columns."""
    program = (
        "import sys; sys.argv = ['spanbus', '--help']; from spanbus._cli.app import main; main()"
    )
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.split("\n"))


_KINDS = {
    "text": "text",
    "str": "text",
    "path": "path",
    "int": "whole",
    "int range": "whole",
    "integer": "whole",
    "integer range": "whole",
    "float": "number",
    "float range": "number",
}


def _commands() -> dict[str, object]:
    import typer.core

    from spanbus._cli.app import app

    group: Any = typer.main.get_command(app)
    root = group.make_context("spanbus", ["show"], resilient_parsing=True)
    found: dict[str, object] = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        context = command.make_context(name, [], parent=root, resilient_parsing=True)
        if hasattr(command, "list_commands"):  # a group: its commands come before its options
            found[name] = (False, (), ())
            continue
        params = [
            param for param in command.get_params(context) if not getattr(param, "hidden", False)
        ]
        arguments = tuple(
            (param.name, _KINDS.get(param.type.name, ""), bool(param.required), param.nargs == -1)
            for param in params
            if param.param_type_name == "argument"
        )
        options = tuple(_option(param) for param in params if param.param_type_name == "option")
        alike = type(command) is typer.core.TyperCommand and context.allow_interspersed_args
        plain = alike and not any(
            getattr(param, "envvar", None)
            or getattr(param, "secondary_opts", None)
            or (param.required and param.param_type_name == "option")
            for param in params
        )
        kinds = [kind for _, kind, *_ in arguments] + [
            kind for names, _, _, kind, _ in options if "--help" not in names
        ]
        found[name] = (plain and all(kinds), arguments, options)
    return found


def _option(param: Any) -> tuple[object, ...]:
    least, most = getattr(param.type, "min", None), getattr(param.type, "max", None)
    kind = "flag" if param.is_flag else _KINDS.get(param.type.name, "")
    return (
        _ordered(*param.opts, *param.secondary_opts),
        bool(param.multiple),
        param.name,
        "" if "--help" in param.opts else kind,
        None if least is None and most is None else (least, most),
    )


def _ordered(*names: str) -> tuple[str, ...]:
    """The long names of an option first; the names of help come from an unordered set."""
    return tuple(sorted(names, key=lambda name: (not name.startswith("--"), names.index(name))))


def main() -> int:
    wanted = data()
    if DATA.exists() and DATA.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{DATA.relative_to(ROOT)} is not what the commands say; run python tools/start.py")
        return 1
    DATA.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
