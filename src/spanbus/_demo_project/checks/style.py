"""Report files with tabs; ``--fix`` removes tabs and trailing blanks."""

import pathlib
import sys

FIX = "--fix" in sys.argv
wrong = 0
for path in sorted(pathlib.Path().glob("*/*.py")):
    before = path.read_text(encoding="utf-8")
    after = "".join(line.expandtabs(4).rstrip() + "\n" for line in before.splitlines())
    if FIX and after != before:
        path.write_text(after, encoding="utf-8")
        print(f"{path}: tidied")
    elif any("\t" in line for line in before.splitlines()):
        print(f"{path}: a tab")
        wrong += 1
print(f"style: {wrong} files with tabs")
sys.exit(bool(wrong))
