"""Generate src/spanbus/_telemetry/secret_data.py from secrets.toml; Python loads in a hundredth of the time.

``python tools/secret_rules.py`` writes the module, ``--check`` compares.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "src" / "spanbus" / "_telemetry" / "secrets.toml"
DATA = RULES.with_name("secret_data.py")


def data() -> str:
    """A module of one constant, a rule in each line."""
    tables = tomllib.loads(RULES.read_text(encoding="utf-8"))
    lines = [
        '"""The rules of ``secrets.toml``; written by ``python tools/secret_rules.py``."""',
        "",
        "# fmt: off",
        "RULES: dict[str, dict[str, dict[str, object]]] = {",
    ]
    for kind, rules in tables.items():
        lines.append(f"    {kind!r}: {{")
        lines += [f"        {name!r}: {rule!r}," for name, rule in rules.items()]
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def main() -> int:
    wanted = data()
    if DATA.exists() and DATA.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(
            f"{DATA.relative_to(ROOT)} is not what secrets.toml says; run python tools/secret_rules.py"
        )
        return 1
    DATA.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
