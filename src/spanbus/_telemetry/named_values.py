"""Remove values of sensitive names: in assignments, headers, JSON, YAML, TOML, XML, forms and options, also quoted ones."""

from __future__ import annotations

import re
from functools import cache

from spanbus._telemetry.secret_rules import REDACTED, Span, replaced
from spanbus._telemetry.sensitive_names import CAMEL, LONGEST_NAME, PARTS, WORDS, is_sensitive

QUOTED = (
    r"(?:(?P<escape>\\+)(?P<mark>[\"'])[^\r\n]*?(?:(?<!\\)(?P=escape)(?P=mark)|\Z|(?=[\r\n]))"  # quoted twice, as JSON in JSON
    r"|\"(?:[^\"\\\r\n]|\\++.)*+\"?|'(?:[^'\\\r\n]|\\++.)*+'?)"
)
_GLUED = r"[0-9A-Za-z_.%+/@!#$~^*-]*+"
"""Characters that a shell joins to a quoted text."""
_BARE = r"(?:[^\s,;&'\"<\])}\\]|\\(?![nrt'\"])|[,;](?![\s\\]|\Z|[\w.-]{1,100}+\s{0,9}[=:])|[\])}](?=[0-9A-Za-z!#$%*+@^_~-]))+"
_SEPARATOR = r"\s{0,99}(?:=>|:=|[?+|]{1,2}=|[:=](?![:=]))\s{0,99}"
_LETTERS = r"(?:[A-Za-z@$]{1,3}(?=\\{0,9}['\"]))?"
"""Prefixes of quoted bytes, raw and verbatim strings."""
_MARKS = r"(?:&[\w-]{1,99}[ \t]{1,9}|!{1,2}[\w!/:.-]{0,99}[ \t]{1,9}){0,3}"
"""A YAML anchor or tag."""
_WRAPPED = r"(?:(?:[A-Za-z_][\w.:]{0,60}\(\s{0,9}){1,3}&?(?:b(?=['\"]))?)"
"""Wrappers such as ``Some(``, ``Secret(``, ``os.getenv(``."""
_NEXT = r"\\*['\"]?(?:[\s,]|\\+[nrt]){1,99}\\*['\"]?(?:value|val|content|data)\\*['\"]?\s{0,9}(?:[:=]|=>)\s{0,9}"
"""A value whose name is the value of another key: ``key="password" value="…"``, ``name: TOKEN`` / ``value: …``."""
_NAMED = r"['\"]?[\w.-]{1,100}+['\"]?[ \t]{0,9}[:=](?![= \t]{0,9}(?:[\r\n]|\Z))"
"""A line with a name and a value; it is not the value of an option at the end of the previous line."""

_VALUES = {
    # patterns of values, matched directly behind the name
    "yaml block": r"(?P<keep>['\"]?[ \t]{0,99}:[ \t]{0,99}[|>][+-]?\d?[ \t]{0,99}\r?\n(?P<indent>[ \t]{1,99}))[^\r\n]++(?:\r?\n(?P=indent)[^\r\n]*+)*+",
    "escaped yaml block": r"(?P<keep>[ \t]{0,99}:[ \t]{0,99}[|>][+-]?\d?[ \t]{0,99}(?:\\r)?\\n(?P<indent>[ \t]{1,99}))(?:[^\r\n\\\"']|\\(?![nr]))++(?:(?:\\r)?\\n(?P=indent)(?:[^\r\n\\\"']|\\(?![nr]))*+)*+",
    "yaml list": r"(?P<keep>['\"]?[ \t]{0,99}:[ \t]{0,99}\r?\n(?P<indent>[ \t]{0,99})-[ \t]{1,99})[^\r\n]++(?:\r?\n(?P=indent)-[ \t][^\r\n]*+)*+",
    "escaped yaml list": r"(?P<keep>[ \t]{0,99}:[ \t]{0,99}(?:\\r)?\\n[ \t]{0,99}-[ \t]{1,99})(?:[^\r\n\\\"']|\\(?![nr]))++(?:(?:\\r)?\\n[ \t]{0,99}-[ \t](?:[^\r\n\\\"']|\\(?![nr]))*+)*+",
    "json": r"(?P<keep>\\*['\"]?\s{0,99}:\s{0,99})(?:\[[^\[\]]*+\]?|\{[^{}]*+\}?)",
    "triple": rf"(?P<keep>['\"]?{_SEPARATOR})(?:\"\"\"(?:[^\"]|\"(?!\"\"))*+(?:\"\"\")?|'''(?:[^']|'(?!''))*+(?:''')?"
    r"|(?:\\++\"){3}[^\r\n]*?(?:(?:\\++\"){3}|\Z|(?=[\r\n])))",
    "wrapped": rf"(?P<keep>\\*['\"]?{_SEPARATOR}{_WRAPPED})(?:{REDACTED}|{QUOTED})",
    "typed": rf"(?P<keep>\s{{0,9}}:\s{{0,9}}[&?]?[A-Za-z_][\w.&\[\]<>| ]{{0,60}}?[\]>]?\s{{0,9}}=\s{{0,9}})(?:{REDACTED}|{QUOTED})",
    "typed in go": rf"(?P<keep>\s{{1,9}}(?:string|String)\s{{0,9}}=\s{{0,9}})(?:{REDACTED}|{QUOTED})",
    "called": rf"(?P<keep>\(\s{{0,9}})(?:{REDACTED}|{QUOTED})(?=\s{{0,9}}\))",
    "indexed": rf"(?P<keep>\\*['\"]?\s{{0,9}}[\]}}]\s{{0,9}}=>?\s{{0,9}})(?:{REDACTED}|{QUOTED})",
    "property": r"(?P<keep></key>\s{0,99}<(?:string|data)>)[^<]++",
    "assigned": rf"(?P<keep>\\*['\"]?{_SEPARATOR}{_MARKS}{_LETTERS})(?:{REDACTED}|{QUOTED}{_GLUED}|{_BARE})",
    "next": rf"(?P<keep>{_NEXT})(?:{REDACTED}|{QUOTED}|{_BARE})",
    # name and value as items of a tuple or list: ['login', '--token', 'abc'], ("password", "abc")
    "pair": rf"(?P<keep>\\*['\"]\s{{0,99}},\s{{0,99}}b?)(?!\\*['\"]-){QUOTED}",
    "ticked": rf"(?P<keep>`\s{{0,9}}(?:=>|[:=])\s{{0,9}})(?:`[^`\r\n]*+`?|{QUOTED}|{_BARE})",
    "cell": r"(?P<keep>`?[ \t]{0,99}\|[ \t]{0,99}`?)(?=[^\s|]{0,256}?\d)[^\s|`]{8,4096}+(?=`?[ \t]{0,99}(?:\||\Z|[\r\n]))",
    "percent": r"(?P<keep>(?:%22|%27)?(?:%3A|%3D)(?:%20|\+)*+(?:%22|%27)?)(?:[^%&\s\"'<>]|%(?!22|27|26|2C|7D)[0-9A-F]{2})+",
    "element": r"(?P<keep>\\*['\"]?(?:\s[^<>]{0,256}+)?>\s{0,99}(?:<!\[CDATA\[)?)(?:(?<=CDATA\[)(?:[^\]]|\](?!\]>))++|[^<\s][^<]*+)",
    "form": r"(?P<keep>\\*['\"][^\r\n\\]{0,200}+(?:(?:\r?\n|\\r\\n|\\n)[\w-]{1,40}:[^\r\n\\]{0,200}+){0,4}(?:(?:\r?\n){2}|(?:\\r\\n){2}|(?:\\n){2}))[^\r\n\\]++",
    "option": rf"(?P<keep>[^\S\r\n]{{1,99}}|\s{{1,99}}(?!{_NAMED}))(?!-)(?:{REDACTED}|{QUOTED}{_GLUED}|[^\s'\"]++)",
    "flag of gh": rf"(?P<keep>\s{{1,9}}(?:-b|--body|--value)[\s=]{{0,9}})(?:{REDACTED}|{QUOTED}{_GLUED}|[^\s'\"]++)",
}
_PLAIN = ("assigned",)
_IN_QUOTES = ("indexed", "json", "triple", "wrapped", "assigned", "next", "pair")
_BARE_NAME = (
    "yaml block",
    "escaped yaml block",
    "yaml list",
    "escaped yaml list",
    "triple",
    "wrapped",
    "typed",
    "assigned",
    "next",
)
_SETTERS = r"(?:set)?(?:password|passwd|passphrase|secret|token|api_?key|secret_?key|access_?key)"
"""Calls whose only argument is a secret: ``.password("…")``, ``setApiKey("…")``."""
_CONFIGURED = (
    r"\b(?:(?:git|poetry|pip|hub|yarn)\s{1,9}config|(?:config|configure|secrets?|vars?|variables?|env)[\s:]{1,9}(?:set|add|put|create))"
    r"(?:\s{1,9}-[\w-]{1,40}(?:=\S{1,40})?){0,4}\s{1,9}(?:[\w./:@-]{1,80}[:/])?\Z"
    r"|(?<![\w.-])(?:setx|setenv|\#define|set\s{1,9}-[a-z]{1,4}|(?-i:ENV))\s{1,9}\Z"
)
"""The beginning of a command that sets the following name to a value."""
_PREFILTER = "|".join(
    (
        *WORDS,
        rf"(?<![a-z])(?:{'|'.join(PARTS)})(?![a-z])",
        rf"(?-i:(?<=[a-z0-9])(?:{'|'.join(CAMEL)})(?![a-z]))",
    )
)
_BEFORE = r"(?:value|val|content)\s{0,9}=\s{0,9}(\\{0,9}[\"'])([^\"'<>\r\n]{1,400}?)\1\s{1,99}(?:key|name|id)\s{0,9}=\s{0,9}\\{0,9}[\"']\Z"
_NO_SECRETS = frozenset(
    {
        "None",
        "True",
        "False",
        "null",
        "true",
        "false",
        "str",
        "bytes",
        "int",
        "bool",
        "object",
        '""',
        "''",
    }
)
"""Words behind ``token:`` in source code, as tracebacks quote it."""


@cache
def _value_pattern(name: str) -> re.Pattern[str]:
    return re.compile(_VALUES[name], re.IGNORECASE if name in ("percent", "next") else 0)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def without_named_values(text: str) -> str:
    """Return ``text`` without the values of sensitive names. Loops over the names, because one pattern would be quadratic."""
    if not _compiled(_PREFILTER).search(text):
        return text
    spans: list[Span] = []
    at = 0
    for found in _compiled(r"(?<![\w.-])[\w.-]++").finditer(text):
        begin, end = found.span()
        if begin < at:
            continue
        name = text[max(begin, end - LONGEST_NAME) : end].lstrip("-")
        if not (
            is_sensitive(name)
            or (begin and text[begin - 1] == "\\" and is_sensitive(name[1:]))  # an escaped line end
        ):
            continue
        value = _value_of(text, begin, end, name)
        if value is not None:
            spans.append(value)
            at = value[1]
        if text[max(0, begin - 4) : begin].rstrip("\\\"'").endswith("=") and (
            before := _value_before(text, begin)
        ):
            spans.append(before)
    return replaced(text, spans)


def _value_of(text: str, begin: int, end: int, name: str) -> Span | None:
    option = text[begin] == "-"
    if not option and name.lower().endswith(
        ("authorization", "cookie")
    ):  # the rules for headers were applied before
        return None
    around = text[begin - 1] if begin else ""
    behind = text[end : end + 1]
    for kind in _value_forms(text, begin, behind, around, option):
        value = _value_pattern(kind).match(text, end)
        if value is not None:
            first, last = value.end("keep"), value.end()
            return (first, last) if text[first:last] not in _NO_SECRETS else None
    return None


def _value_forms(text: str, begin: int, behind: str, around: str, option: bool) -> tuple[str, ...]:
    """Return the forms of value that may follow a name, by the characters around the name."""
    if not behind:
        return ()
    if behind == "\\" and around not in ("'", '"'):
        return ("triple", "wrapped", "assigned", "next")
    if behind in "'\"\\":
        if around not in ("'", '"'):
            return ("triple", "wrapped", "assigned")
        attribute = text[begin - 2 : begin - 1] == "=" or text[begin - 3 : begin - 1] == "=\\"
        return (*_IN_QUOTES, "element", "form") if attribute else _IN_QUOTES
    if behind == "`":
        return ("ticked", "cell")
    if behind == "%":
        return ("percent",)
    if behind == "(":
        name = text[begin : text.index("(", begin)].rpartition(".")[2]
        return ("called",) if _compiled(_SETTERS).fullmatch(name) is not None else ()
    if behind == "}":
        return ("indexed",)
    if behind == "<":
        return ("property",)
    if behind == ">":
        return ("element",) if around in ("<", ":") else ("assigned",)
    if behind in ":=?+|":
        return (*_BARE_NAME, "cell") if behind == "|" else _BARE_NAME
    if behind.isspace() or behind == ",":
        kinds: tuple[str, ...] = ("assigned", "next")
        if behind in " \t":
            kinds = (*_BARE_NAME, "typed in go", "cell")
        if around in ("<", ":"):
            kinds = (*kinds, "element")
        if option:
            return (*kinds, "option")
        window = text[max(0, begin - 120) : begin]
        sets = any(
            word in window for word in ("set", "config", "add", "put", "create", "ENV", "define")
        )
        if sets and _compiled(_CONFIGURED).search(window) is not None:
            return (*kinds, "flag of gh", "option")
        return kinds
    return ()


def _value_before(text: str, begin: int) -> Span | None:
    """Return the span of a value that precedes its name: ``<add value="…" key="password"/>``."""
    found = _compiled(_BEFORE).search(text, max(0, begin - 480), begin)
    return found.span(2) if found is not None else None
