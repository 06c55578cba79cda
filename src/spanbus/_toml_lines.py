"""Line numbers of the keys of a TOML text, for error messages.

``tomllib`` returns values without positions. This scanner takes a text that ``tomllib`` has accepted, and records the line of
every key and array element by its path, such as ``tool.spanbus.workflows.standard.phases[2].needs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from spanbus._toml_document import document

_BARE_END = frozenset(" \t.=]\n\r#,}")


def lines_of(text: str) -> dict[str, int]:
    """Return line numbers, from 1, by path. ``text`` must be valid TOML."""
    return _Walker(text.replace("\r\n", "\n")).walk()


class Lines:
    """Lazily computed line numbers of a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lines) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @cached_property
    def _by_path(self) -> Mapping[str, int]:
        return lines_of(self._text)

    def of(self, path: str) -> int | None:
        """Return the line of ``path`` itself, None if it is absent."""
        return self._by_path.get(path)

    def near(self, path: str) -> int | None:
        """Return the line of ``path``, or of the nearest enclosing table or array that has one."""
        while path:
            if path in self._by_path:
                return self._by_path[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return None


NO_LINES = Lines("")


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _Walker:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._found: dict[str, int] = {}
        self._tables: dict[str, int] = {}

    def walk(self) -> dict[str, int]:
        base = ""
        while self._skip_blanks(newlines=True):
            if self._peek() == "[":
                base = self._header()
            else:
                self._pair(base)
        return self._found

    def _header(self) -> str:
        line = self._line
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        keys = self._keys()
        self._at += 2 if array else 1
        path = ""
        for position, key in enumerate(keys):
            path = _joined(path, key)
            last = position == len(keys) - 1
            if array and last:
                number = self._tables[path] = self._tables.get(path, -1) + 1
                self._found.setdefault(path, line)
                path = f"{path}[{number}]"
            elif path in self._tables:
                path = f"{path}[{self._tables[path]}]"
            self._found.setdefault(path, line)
        return path

    def _pair(self, base: str) -> None:
        line = self._line
        path = base
        for key in self._keys():
            path = _joined(path, key)
            self._found.setdefault(path, line)
        self._skip_blanks(newlines=False)
        self._at += 1  # the equals sign
        self._skip_blanks(newlines=False)
        self._value(path)

    def _value(self, path: str) -> None:
        match self._peek():
            case "[":
                self._at += 1
                number = 0
                while self._skip_blanks(newlines=True) and self._peek() != "]":
                    if self._peek() == ",":
                        self._at += 1
                        continue
                    self._found[f"{path}[{number}]"] = self._line
                    self._value(f"{path}[{number}]")
                    number += 1
                self._at += 1
            case "{":
                self._at += 1
                while self._skip_blanks(newlines=True) and self._peek() != "}":
                    if self._peek() == ",":
                        self._at += 1
                        continue
                    self._pair(path)
                self._at += 1
            case '"' | "'":
                self._string()
            case _:
                while self._at < len(self._text) and self._peek() not in ",]}\n#":
                    self._at += 1

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip_blanks(newlines=False)
            if self._peek() in "\"'":
                begin = self._at
                self._string()
                keys.append(str(document(f"k = {self._text[begin : self._at]}")["k"]))
            else:
                begin = self._at
                while self._at < len(self._text) and self._peek() not in _BARE_END:
                    self._at += 1
                keys.append(self._text[begin : self._at])
            self._skip_blanks(newlines=False)
            if self._peek() != ".":
                return keys
            self._at += 1

    def _string(self) -> None:
        quote = self._peek()
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        end = self._at + len(fence)
        while end < len(self._text) and not self._text.startswith(fence, end):
            end += 2 if quote == '"' and self._text[end] == "\\" else 1
        end += len(fence)
        while len(fence) == 3 and end < len(self._text) and self._text[end] == quote:
            end += 1  # quotes just before the closing fence
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else "\n"

    def _skip_blanks(self, *, newlines: bool) -> bool:
        """Skip blanks and comments; return False at the end of the text."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif character == "\n" and newlines:
                self._line += 1
                self._at += 1
            elif character in " \t":
                self._at += 1
            else:
                return True
        return False
