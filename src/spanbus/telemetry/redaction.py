"""What may leave the process: an allow-list of payload keys, with secrets taken out of every text.

Redaction is on by default. A text is scrubbed by what secrets look like (tokens of well-known services, private keys,
JSON web tokens, URLs with passwords, headers) and by what stands before them (``password=``, ``--token``, ``"api_key":``).
It is a net with a fine mesh, not a proof: what must never leave should not be put on the bus.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from functools import cache, lru_cache
from pathlib import PurePath
from typing import cast
from uuid import UUID

from opentelemetry.util.types import AttributeValue

from spanbus.errors import SettingsError
from spanbus.telemetry.names import ERROR_TEXT_LIMIT, EVENT_ATTRIBUTES_LIMIT, STRING_LIMIT

REDACTED = "REDACTED"

PAYLOAD_KEYS = frozenset(
    """
    action all attempt attempts cached command commit count counts cycle delay duration error error_type errors_count executable
    execution_mode exit_code failed fixed hook hook_count hooks mode name needs next_attempt number passed phase phases priority progress publish
    reason result retries rule security_level skipped skip_hooks stage started_by state status step step_id step_name strategy success summary
    task task_id test_mode timestamp total type version workflow workflow_id run_id job_id message output_tail ai_agent timeout
    """.split()
)
_ERROR_KEYS = frozenset({"error", "message", "output_tail", "exception", "reason"})

_SENSITIVE = (
    r"(?:[\w.-]*(?:passw(?:or)?d|passwd|passphrase|secret|token|api[_-]?key|apikey|access[_-]?key|account[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key"
    r"|auth[_-]?key|license[_-]?key|credentials?|session[_-]?(?:id|key)|connection[_-]?string|bearer|webhook[_-]?url|passcode|totp|authorization|dsn)[\w.-]*"
    r"|[\w.-]*[_-](?:pwd|pass|pw|auth|cookie)|pwd|pass|auth|sas|sig|pin|otp|psk|jwt|cookies?)"
)
_SENSITIVE_KEY = re.compile(_SENSITIVE, re.IGNORECASE)
_NOT_SENSITIVE = re.compile(
    r"(?i)(?:.*[_.-])?(?:tokens|token_?(?:count|type|limit|url|uri|usage)s?|tokeniz\w*|passed|pass_?rate|public_?key.*|author|authors|\w*(?:error|exception|warning)|key_?name|secrets?_?(?:name|count)|compass)"
    r"|.*\.(?:pyi?|[cm]?[jt]sx?|go|rs|rb|java|kt|c|h|cc|cpp|cs|php|sh|sql|md|rst|txt|toml|ya?ml|json|ini|cfg|lock|html|css|log)"
)

_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|Private-MAC: \w+")
_KEY_LINE = re.compile(r"[0-9A-Za-z+/=]{16,}|")
_LINE_END = re.compile(r"(?:\\r)?\\n|\r?\n")
_SHAPES: tuple[str, ...] = (
    r"AGE-SECRET-KEY-1[0-9A-Z]{20,}",
    # clouds
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{12,}\b",
    r"AIza[0-9A-Za-z_-]{30,}",
    r"ya29\.[0-9A-Za-z_-]{10,}",
    r"GOCSPX-[0-9A-Za-z_-]{20,}",
    r"1//0[0-9A-Za-z_-]{20,}",
    r"[0-9A-Za-z_~.-]{3}(?:7|8)Q~[0-9A-Za-z_~.-]{30,}",
    r"do[opr]_v1_[a-f0-9]{32,}",
    r"LTAI[0-9A-Za-z]{12,}",
    r"HRKU-[0-9A-Za-z_-]{20,}",
    r"(?:fm[12]|fo1)_[0-9A-Za-z+/=_-]{20,}",
    r"nfp_[0-9A-Za-z]{30,}",
    r"pscale_(?:tkn|pw|oauth)_[0-9A-Za-z_.=-]{20,}",
    r"tskey-[a-z]+-[0-9A-Za-z-]{16,}",
    # forges, registries, builders
    r"gh[pousr]_[0-9A-Za-z]{20,}",
    r"github_pat_[0-9A-Za-z_]{20,}",
    r"gl(?:pat|oas|cbt|dt|ft|imt|agent|ptt|rt|soat|ffct)-[0-9A-Za-z_.=-]{16,}",
    r"AT(?:ATT|CTT|BB)[0-9A-Za-z_=-]{20,}",
    r"BBDC-[0-9A-Za-z+/=]{20,}",
    r"npm_[0-9A-Za-z]{20,}",
    r"pypi-[0-9A-Za-z_-]{20,}",
    r"rubygems_[a-f0-9]{20,}",
    r"cio[0-9A-Za-z]{32}\b",
    r"dckr_(?:pat|oat)_[0-9A-Za-z_-]{16,}",
    r"oy2[a-z0-9]{43}\b",
    r"AKCp[0-9A-Za-z]{40,}",
    r"cmVmdGtu[0-9A-Za-z+/=_-]{30,}",
    r"CCIPAT_[0-9A-Za-z_]{20,}",
    r"bk(?:ua|aj|ct|pt)_[0-9a-f]{30,}",
    r"sq[upa]_[0-9a-f]{40}\b",
    r"sgp_(?:[0-9a-z]+_)?[0-9a-f]{30,}",
    # services
    r"xox[abcdeoprs](?:\.xox[bp])?-[0-9A-Za-z%-]{10,}",
    r"xapp-\d-[0-9A-Za-z-]{10,}",
    r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z/_-]+",
    r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d+/[0-9A-Za-z_-]+",
    r"https://[\w-]+\.webhook\.office\.com/\S+",
    r"[MNO][0-9A-Za-z_-]{23,25}\.[0-9A-Za-z_-]{6}\.[0-9A-Za-z_-]{27,}",
    r"(?:sk|rk|pk)_(?:live|test|prod)_[0-9A-Za-z]{10,}",
    r"whsec_[0-9A-Za-z+/=]{16,}",
    r"access_token\$(?:production|sandbox)\$[0-9a-z]+\$[0-9a-f]{20,}",
    r"sk-(?:ant-|proj-|svcacct-|admin-|or-v1-)?(?=[0-9A-Za-z_-]*\d)[0-9A-Za-z_-]{20,}",
    r"(?:gsk|pplx|xai|pcsk|lsv2_[ps][tk]|fw|nvapi|hf|r8|re)[_-](?=[0-9A-Za-z_-]*\d)[0-9A-Za-z_-]{24,}",
    r"SG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}",
    r"xkeysib-[0-9a-f]{40,}[0-9A-Za-z-]*",
    r"key-[0-9a-f]{32}\b",
    r"[0-9a-f]{32}-us\d{1,2}\b",
    r"(?:SK|AC)[0-9a-f]{32}\b",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}",
    r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{20,}",
    r"EAAA[0-9A-Za-z_-]{40,}",
    r"EAA[0-9A-Za-z]{60,}",
    r"dapi[0-9a-f]{32}(?:-\d)?\b",
    r"hv[sbr]\.[0-9A-Za-z_-]{20,}",
    r"[sb]\.(?=[A-Za-z]*\d)[0-9A-Za-z]{24}\b",
    r"[0-9A-Za-z]{14}\.atlasv1\.[0-9A-Za-z_-]{40,}",
    r"atlasv1\.[0-9A-Za-z_-]{20,}",
    r"glc_[0-9A-Za-z+/=]{20,}",
    r"glsa_[0-9A-Za-z]{20,}_[0-9a-f]{8}",
    r"NRAK-[0-9A-Z]{20,}",
    r"NR(?:JS|II)-[0-9A-Za-z_-]{16,}",
    r"sntr[yu]s?_[0-9A-Za-z_=+/-]{20,}",
    r"dt0[a-z]\d\d\.[0-9A-Z]{20,}\.[0-9A-Z]{40,}",
    r"hc[abcp]ik_[0-9a-z]{20,}",
    r"PMAK-[0-9a-f]{20,}-[0-9a-f]{20,}",
    r"lin_(?:api|oauth)_[0-9A-Za-z]{20,}",
    r"(?:ntn|secret)_[0-9A-Za-z]{30,}",
    r"pat[0-9A-Za-z]{14}\.[0-9a-f]{40,}",
    r"fig[dou]_[0-9A-Za-z_-]{20,}",
    r"dp\.(?:pt|st|ct|scim|audit|sa|said)\.(?:[\w-]+\.)?[0-9A-Za-z]{30,}",
    r"pul-[0-9a-f]{40}\b",
    r"pnu_[0-9A-Za-z]{30,}",
    r"sbp_[0-9a-f]{30,}",
    r"vercel_[0-9A-Za-z]{20,}",
    r"CFPAT-[0-9A-Za-z_-]{30,}",
    r"rnd_[0-9A-Za-z]{20,}",
    r"tfp_[0-9A-Za-z_-]{30,}",
    r"ops_eyJ[0-9A-Za-z_-]{30,}",
    r"\d{8,10}:AA[0-9A-Za-z_-]{32,}",
    # JSON web tokens, also cut ones
    r"(?:[sp]k\.)?eyJ[0-9A-Za-z_-]{8,}\.(?:eyJ)?[0-9A-Za-z_-]{4,}(?:\.[0-9A-Za-z_-]*)?",
    r"eyJ[0-9A-Za-z_-]{30,}",
)
_BEGINNING = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
"""Where a token may begin: not inside a word, but behind an escaped line end or a percent-encoded character."""

_QUOTED = (
    r"(?:(?P<escape>\\+)(?P<mark>[\"'])[^\r\n]*?(?:(?<!\\)(?P=escape)(?P=mark)|\Z|(?=[\r\n]))"  # quoted once more, as JSON in JSON is
    r"|\"(?:[^\"\\\r\n]|\\++.)*\"?|'(?:[^'\\\r\n]|\\++.)*'?)"
)
_GLUED = r"[0-9A-Za-z_.%+/@!#$~^*-]*"
"""What a shell would add to a quoted text."""
_BARE = r"(?:[^\s,;&'\"<\])}\\]|\\(?![nrt'\"])|[,;](?![\s\\]|\Z|[\w.-]+\s*[=:])|[\])}](?=[0-9A-Za-z!#$%*+@^_~-]))+"
_COMMANDS_WITH_P = r"sshpass|mysql\w*|mariadb[\w-]*|mongo\w*|(?:docker|podman|registry)\s+login|redis-cli|ldap\w+|htpasswd|7z[az]?|zip|unzip|smbclient"
_HARMLESS_STATES = (
    r"(?!(?:in)?(?:valid|expired|missing|required|not|empty|wrong|correct|too|set|unset|null|none|an?|the|in|being|used|only|no|now|still|already|never|revoked"
    r"|malformed|ok|available|provided|given|found|created|generated|issued|present|absent|returned|sent|optional|needed|supported|handled|checked|being|undefined|unknown|about|for|to|from|with|and|or|of)(?![\w-]))"
)

_CONTEXT: tuple[tuple[tuple[str, ...], str], ...] = (
    # Each after the words of which one must be there, in lower case.
    # user and password in a URL; a bare token in the user's place
    (
        ("@",), r"(?P<keep>\b(?:postgres(?:ql)?|mysql|mariadb|mongodb|rediss?|amqps?|mssql|oracle|smtps?|imaps?|ldaps?|ftps?|sftp)(?:\+\w{1,20})?://)"
        r"[^\s@'\"<>:]{0,256}:[^\s'\"<>]{0,1024}(?=@)",
    ),
    (("@",), r"(?P<keep>://)[^\s/@:'\"<>]{0,256}:[^\s/@'\"<>]{0,1024}(?:@[^\s/@'\"<>]{0,256}){0,8}(?=@)"),
    (("@",), r"(?P<keep>://)[0-9A-Za-z_.~%-]{16,1024}(?=@)"),
    # headers: everything to the end of the value
    (
        ("authorization",), r"(?P<keep>authorization\\?['\"]?\s{0,9}(?:[:=,]|=>)\s{0,9}(?:b?\\?['\"])?(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256)\s{1,9})?)"
        r"[^\s'\",;\\][^\r\n'\"\\]*",
    ),
    (("bearer",), r"(?P<keep>\bbearer\s{1,9})(?=[^\s\d+/=_.~-]{0,200}[\d+/=_.~-])[0-9A-Za-z+/=_.~-]{8,}"),
    (("basic",), r"(?P<keep>\bbasic\s{1,9})(?=[^\s\d=+/]{0,200}[\d=+/]|\S{0,200}?(?-i:[a-z][A-Z]))[0-9A-Za-z+/=_-]{8,}"),
    (("cookie",), r"(?P<keep>\b(?:set-)?cookie2?\\?['\"]?\s{0,9}(?:[:=,]|=>)\s{0,9}(?:b?\\?['\"])?)[^\s'\"\\,][^\r\n'\"\\]*"),
    # URL parameters and fragments
    (
        ("=",), r"(?P<keep>[?&;#](?:sig|signature|x-amz-signature|x-amz-credential|x-goog-signature|x-goog-credential|code|key|auth|state|jwt|sas|hash|assertion)=)"
        r"[^&\s'\"#<>]+",
    ),
    # programs with short options for secrets
    (("-u", "-user"), r"(?P<keep>(?<![\w-])(?:-u|--user|--proxy-user)[\s=]{1,9}['\"]?[^\s:@'\"]{0,256}:)[^\s'\"]+"),
    ((" -p", " -a", " -w"), r"(?P<keep>\b(?:" + _COMMANDS_WITH_P + r")\b[^\n|;&]{0,200}?\s-[paw]\s{0,9})(?:\"[^\"]*\"|'[^']*'|[^\s-]\S*)"),
    # prose
    (
        (" is", " was"), r"(?P<keep>\b(?:password|passphrase|passwd|passcode|secret|token|api key)\s{1,9}(?:is|was)\s{0,9}:?\s{1,9})" + _HARMLESS_STATES
        + r"(?:\"[^\"]*\"?|'[^']*'?|[^\s'\",;]+)",
    ),
    (("password '", 'password "'), r"(?P<keep>\bpassword\s{1,9})(?:'[^']*'?|\"[^\"]*\"?)"),  # ALTER USER … PASSWORD
    (("jdbc:oracle",), r"(?P<keep>\bjdbc:oracle:\w{1,20}:[^/\s@]{0,256}/)[^@\s]+(?=@)"),
    (("identified",), r"(?P<keep>\bidentified\s{1,9}by\s{1,9})(?:'[^']*'?|\"[^\"]*\"?)"),
    ((" password ",), r"(?P<keep>\b(?:login|account)\s{1,9}\S{1,256}\s{1,9}password\s{1,9})\S+"),  # .netrc
)

_NAME = re.compile(r"(?<![\w.-])[\w.-]++")
_NAMED_VALUES: tuple[re.Pattern[str], ...] = (
    # a YAML block; a JSON list or object of values; what is percent-encoded
    re.compile(r"(?P<keep>['\"]?\s{0,99}:[ \t]{0,99}[|>][+-]?\d?[ \t]{0,99}\r?\n(?P<indent>[ \t]{1,99}))[^\r\n]+(?:\r?\n(?P=indent)[^\r\n]*)*"),
    re.compile(r"(?P<keep>\\*['\"]\s{0,99}:\s{0,99})(?:\[[^\[\]]*\]?|\{[^{}]*\}?)"),
    re.compile(r"(?P<keep>(?:%22|%27)?(?:%3A|%3D)(?:%20|\+)*+(?:%22|%27)?)(?:[^%&\s\"'<>]|%(?!22|27|26|2C|7D)[0-9A-F]{2})+", re.IGNORECASE),
    # what comes behind a sensitive name: env, YAML, JSON, Python, TOML, with escaped quotes too
    re.compile(r"(?P<keep>\\*['\"]?\s{0,99}(?:=>|:=|[:=](?![:=]))\s{0,99}(?:b(?=['\"]))?)(?:" + REDACTED + "|" + _QUOTED + _GLUED + "|" + _BARE + ")"),
    # the two in a tuple or list, as in the text of a failed command: ['login', '--token', 'abc'], ("password", "abc")
    re.compile(r"(?P<keep>\\*['\"]\s{0,99},\s{0,99}b?)(?!\\*['\"]-)" + _QUOTED),
)
_ITEM = r"b?(?:'(?:[^'\\\r\n]|\\.)*+'|\"(?:[^\"\\\r\n]|\\.)*+\")|" + REDACTED
_ITEMS = re.compile(_ITEM)
_LIST = re.compile(rf"[\[(]\s{{0,9}}(?:{_ITEM})(?:\s{{0,9}},\s{{0,9}}(?:{_ITEM}))++,?\s{{0,9}}[\])]")
"""A command in the text of an error, or in JSON: ``['docker', 'login', '-p', 'abc']``."""
_ELEMENT = re.compile(r"(?P<keep>(?:\s[^<>]{0,256})?>)[^<]+")
_OPTION = re.compile(r"(?P<keep>\s{1,99})(?!-)(?:" + REDACTED + "|" + _QUOTED + _GLUED + r"|[^\s'\"]+)")
_SENSITIVE_PART = re.compile(
    r"passw|passphrase|passcode|secret|token|key|credential|session|connection|bearer|webhook|totp|dsn|pwd|pass|auth|sas|sig|pin|otp|psk|jwt|cookie|pw", re.IGNORECASE
)

_SUSPICIOUS = re.compile(r"[:=@<\x1b]|\S{15}|--|-[upPaw]\s|['\"]\s*,")
_WORDS = ("bearer", "basic ", "passw", "passphrase", "passcode", "secret", "token", "api key", "identified", "login", " -p")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])|\\(?:u001b|x1b|033|e)\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_SEPARATOR = re.compile(r"[\s\"',;&][^\s\"',;&]*\Z")
_SCHEMES = frozenset({"bearer", "basic", "token", "digest", "negotiate", "apikey"})
_LONGEST_NAME = 100
_NO_SECRETS = frozenset({"None", "True", "False", "null", "true", "false", "str", "bytes", "int", "bool", "object", '""', "''"})
"""What stands behind ``token:`` in a line of source that a traceback shows."""
_TAKES_P = re.compile(rf"(?:.*/)?(?:{_COMMANDS_WITH_P})(?:\.exe)?")
_GLUES_P = re.compile(r"(?:.*/)?(?:sshpass|mysql\w*|mariadb[\w-]*|7z[az]?)(?:\.exe)?")
_LONGEST_TOKEN = 512


class Redactor:
    """Takes secrets out of texts and keeps only what is allowed of payloads. Immutable; safe from any thread.

    ``patterns`` are further regular expressions whose matches are taken out; ``payload_allow`` further payload keys that
    are kept. Raises :class:`~spanbus.errors.SettingsError` for a pattern that is none.
    """

    def __init__(self, enabled: bool = True, *, patterns: Iterable[str] = (), payload_allow: Iterable[str] = ()) -> None:
        self.enabled = enabled
        self._allowed = PAYLOAD_KEYS | frozenset(payload_allow)
        own: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                own.append(re.compile(pattern))
            except re.error as error:
                raise SettingsError(f"redact_patterns: {pattern!r} is not a regular expression: {error}") from error
        self._own = tuple(own)
        self._top: dict[str, dict[str, tuple[str | None, int]]] = {}
        """By prefix and payload key, as :meth:`named` says."""
        self._short = lru_cache(maxsize=4_096)(self._clean)

    def text(self, text: str, limit: int = STRING_LIMIT) -> str:
        """``text`` without secrets and control characters, at most ``limit`` characters. Never raises; applying it twice changes nothing."""
        if len(text) <= 128:
            text = self._short(text)
        else:
            text = self._clean(_beginning(text, limit * 4))
        for _ in range(3):  # a cut may go through what was put in a secret's place, which is then put there again
            if len(text) <= limit:
                return text
            text = self._clean(text[: limit - 1] + "…")
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _clean(self, text: str) -> str:
        if "\x1b" in text or "[0m" in text:
            text = _ANSI.sub("", text)
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8", "replace")  # lone surrogates
        if self.enabled:
            for _ in range(4):  # what was put in a secret's place may be read anew with what is around it; it settles at once
                lowered = text.lower()
                if _SUSPICIOUS.search(text) is None and not any(word in lowered for word in _WORDS):
                    break
                scrubbed = _LIST.sub(self._list, text) if "['" in text or '["' in text or "('" in text or '("' in text else text
                scrubbed = _scrub(scrubbed, lowered)
                if scrubbed == text:
                    break
                text = scrubbed
            for pattern in self._own:
                text = pattern.sub(REDACTED, text)
        return text

    def arguments(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """A command's arguments without secrets, also where the option and its value are two arguments."""
        return tuple(self._arguments(arguments[:EVENT_ATTRIBUTES_LIMIT]))

    def _list(self, found: re.Match[str]) -> str:
        """A list of texts, as Python or JSON writes it: what is no secret stays as it was written."""
        items = list(_ITEMS.finditer(found[0]))
        values: list[str] = []
        for item in items:
            try:
                value = item[0] if item[0] == REDACTED else ast.literal_eval(item[0])
            except (ValueError, SyntaxError):
                return found[0]
            values.append(value if isinstance(value, str) else bytes(value).decode("utf-8", "replace"))
        kept: list[str] = []
        at = 0
        for item, value, cleaned in zip(items, values, self._arguments(values), strict=True):
            kept.append(found[0][at : item.start()])
            kept.append(item[0] if cleaned == value else REDACTED if cleaned == REDACTED else repr(cleaned))
            at = item.end()
        return "".join((*kept, found[0][at:]))

    def _arguments(self, arguments: Sequence[str]) -> list[str]:
        if not self.enabled:
            return [self.text(argument) for argument in arguments]
        cleaned: list[str] = []
        hidden = user = takes_p = glued_p = in_key = assigned = False
        before = ""
        for argument in arguments:
            name, equals, _ = argument.partition("=")
            bare = argument.lstrip("-").rstrip(": ").lower()
            if _TAKES_P.fullmatch(argument) or _TAKES_P.fullmatch(f"{before} {argument}"):
                takes_p, glued_p = True, _GLUES_P.fullmatch(argument) is not None
            if in_key or ("-----BEGIN" in argument and ("PRIVATE" in argument or argument == "-----BEGIN")):
                in_key = "-----END" not in argument or ("PRIVATE" not in argument and argument != "-----END")
                cleaned.append(REDACTED)
            elif assigned and argument in ("=", ":", "=>", ":="):
                hidden = True
                cleaned.append(argument)
            elif hidden and not (argument.startswith("-") and is_sensitive(bare)):
                hidden = bare in _SCHEMES  # the token itself is one further
                cleaned.append(argument if hidden else REDACTED)
            elif user and ":" in argument:
                user = False
                cleaned.append(f"{self.text(argument.partition(':')[0])}:{REDACTED}")
            elif equals and is_sensitive(name.lstrip("-")):
                hidden = False
                cleaned.append(f"{self.text(name)}={REDACTED}")
            elif takes_p and len(argument) > 2 and argument[:2] in ("-p", "-a", "-w") and not (argument[2:].isalpha() and not (glued_p and argument[:2] == "-p")):
                cleaned.append(argument[:2] + REDACTED)
            else:
                user = argument in ("-u", "--user", "--proxy-user")
                hidden = (
                    (argument.startswith("-") and not equals and is_sensitive(bare)) or bare in _SCHEMES
                    or (argument.rstrip().endswith(":") and is_sensitive(bare)) or (takes_p and argument in ("-p", "-P", "-a", "-w"))
                )
                cleaned.append(self.text(argument))
            assigned = is_sensitive(bare)
            before = argument
        if len(arguments) > 1:  # what is a secret by what stands in the arguments before it
            whole = self._clean("\n".join(arguments))
            cleaned = [REDACTED if text == raw and len(raw) > 3 and raw not in whole else text for raw, text in zip(arguments, cleaned, strict=True)]
        return cleaned

    def attributes(self, payload: Mapping[str, object]) -> dict[str, AttributeValue]:
        """The allowed leaves of a payload, nested ones with dots in their names, at most 32."""
        found: dict[str, AttributeValue] = {}
        self.collect("", payload, found)
        return found

    def named(self, prefix: str, key: str) -> tuple[str | None, int]:
        """The attribute's name for a payload key, None where it is not allowed, with the limit of its text, 0 where no value is shown."""
        limit = 0 if self.enabled and is_sensitive(key) else ERROR_TEXT_LIMIT if key in _ERROR_KEYS else STRING_LIMIT
        return f"{prefix}{key}" if key in self._allowed else None, limit

    def collect(self, prefix: str, payload: Mapping[str, object], found: dict[str, AttributeValue]) -> None:
        """The same into ``found``, each name with ``prefix`` before it."""
        known = self._top.get(prefix)
        if known is None:
            known = self._top[prefix] = {}
        room = EVENT_ATTRIBUTES_LIMIT
        for key, value in payload.items():
            if key in known:
                name, limit = known[key]
            elif isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the payloads of strangers
                name, limit = self.named(prefix, key)
                if len(known) < 1_000:
                    known[key] = name, limit
            else:
                continue
            if name is None:
                continue
            kind = type(value)
            if kind is str and limit and len(value) <= 128:  # pyright: ignore[reportArgumentType]
                found[name] = self._short(value)  # pyright: ignore[reportArgumentType]
            elif kind is bool:
                found[name] = value  # pyright: ignore[reportArgumentType]
            elif value is None:
                continue
            elif isinstance(value, Mapping):
                nested: dict[str, AttributeValue] = {}
                self._collect(f"{key}.", cast("Mapping[str, object]", value), nested, 1, room)
                for inner, cleaned in nested.items():
                    found[f"{prefix}{inner}"] = cleaned
                room -= len(nested)
                if room <= 0:
                    return
                continue
            else:
                cleaned = self.value(key, value)
                if cleaned is None:
                    continue
                found[name] = cleaned
            room -= 1
            if room <= 0:
                return

    def _collect(self, prefix: str, payload: Mapping[str, object], found: dict[str, AttributeValue], depth: int, most: int) -> None:
        for key, value in payload.items():
            if len(found) >= most:
                return
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the payloads of strangers
                continue
            if key not in self._allowed and not prefix.endswith("counts."):
                continue
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if depth < 3:
                    self._collect(f"{name}.", cast("Mapping[str, object]", value), found, depth + 1, most)
                continue
            cleaned = self.value(key, value)
            if cleaned is not None:
                found[name] = cleaned

    def value(self, key: str, value: object) -> AttributeValue | None:
        """One value as an attribute; None for live objects, which have no place in telemetry."""
        if value is None or isinstance(value, bool):
            return value
        if self.enabled and is_sensitive(key):
            return REDACTED
        if isinstance(value, Enum):
            return self.value(key, value.value)
        if isinstance(value, str):
            return self.text(str.__str__(value), ERROR_TEXT_LIMIT if key in _ERROR_KEYS else STRING_LIMIT)
        if isinstance(value, int):
            number = int.__index__(value)
            return number if -(2**63) <= number < 2**63 else self.text(str(number) if number.bit_length() < 10_000 else "a very large number")
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else str(number)
        if isinstance(value, datetime | date | PurePath | UUID):
            return self.text(str(value))
        if isinstance(value, BaseException):
            try:
                return self.text(f"{type(value).__name__}: {value}", ERROR_TEXT_LIMIT)
            except Exception:  # a broken __str__ of somebody's exception
                return type(value).__name__
        if isinstance(value, list | tuple):
            items = cast("Sequence[object]", value)
            if all(isinstance(item, str) for item in items):
                return self.arguments([str.__str__(text) for text in cast("Sequence[str]", items)])
            if all(isinstance(item, bool | int | float | str) or item is None for item in items):
                return self.text(json.dumps([item if not isinstance(item, float) or math.isfinite(item) else str(item) for item in items[:100]]))
        return None


@lru_cache(maxsize=2_048)
def is_sensitive(name: str) -> bool:
    """Whether a key or option of this name is likely to hold a secret."""
    return _SENSITIVE_KEY.fullmatch(name) is not None and _NOT_SENSITIVE.fullmatch(name) is None


def _kept(match: re.Match[str]) -> str:
    return f"{match['keep']}{REDACTED}"


@cache
def _shapes() -> re.Pattern[str]:
    return re.compile(f"{_BEGINNING}(?:{'|'.join(_SHAPES)})")  # when it is first needed: this is most of what the import would cost


@cache
def _context(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _scrub(text: str, lowered: str) -> str:
    if "PRIVATE KEY" in text or "PuTTY" in text:
        text = _without_keys(text)
    text = _shapes().sub(REDACTED, text)
    for needles, pattern in _CONTEXT:
        if any(needle in lowered for needle in needles):
            text = _context(pattern).sub(_kept, text)
    return _without_named(text) if _SENSITIVE_PART.search(text) is not None else text


def _without_keys(text: str) -> str:
    """Private keys: the whole block, or what is left of it where its beginning or end was cut."""
    kept: list[str] = []
    at = 0
    while (begin := _KEY_BEGIN.search(text, at)) is not None:
        end = _KEY_END.search(text, begin.end())
        kept += (text[at : begin.start()], REDACTED)
        at = end.end() if end is not None else len(text)
    text = "".join((*kept, text[at:]))
    while (end := _KEY_END.search(text)) is not None:  # a block whose beginning was cut off
        text = f"{text[: _beginning_of_key(text, end.start())]}{REDACTED}{text[end.end() :]}"
    return text


def _beginning_of_key(text: str, end: int) -> int:
    """Where the lines before ``end`` begin to look like those of a key."""
    first = limit = end
    for line_end, line in reversed([(0, 0), *(found.span() for found in _LINE_END.finditer(text, 0, end))]):
        if _KEY_LINE.fullmatch(text, line, limit) is None and (line or " " in text[:limit]):
            break
        first, limit = line, line_end
    return first


def _without_named(text: str) -> str:
    """Without the values behind sensitive names; a hand-written loop, because one pattern for it takes quadratic time."""
    kept: list[str] = []
    at = 0
    while (found := _NAME.search(text, at)) is not None:
        begin, end = found.span()
        value = _value_of(text, begin, end)
        if value is None:
            kept.append(text[at:end])
            at = end
        else:
            kept += (text[at:end], value["keep"], REDACTED)
            at = value.end()
    kept.append(text[at:])
    return "".join(kept)


def _value_of(text: str, begin: int, end: int) -> re.Match[str] | None:
    option = text[begin] == "-"
    name = text[max(begin, end - _LONGEST_NAME) : end].lstrip("-")
    if not (is_sensitive(name) or (begin and text[begin - 1] == "\\" and is_sensitive(name[1:]))):  # an escaped line end and the name
        return None
    if name.lower().endswith(("authorization", "cookie")):  # the headers' own rules were there
        return None
    around = text[begin - 1] if begin else ""
    for pattern in _NAMED_VALUES if around in ("'", '"') else _NAMED_VALUES[:-1]:
        value = pattern.match(text, end)
        if value is not None:
            return value if text[value.end("keep") : value.end()] not in _NO_SECRETS else None
    if around in ("<", ":") and (value := _ELEMENT.match(text, end)) is not None:
        return value
    return _OPTION.match(text, end) if option else None


def _beginning(text: str, size: int) -> str:
    """At most ``size`` characters, without half a token at the end: what is in front of it may shrink until it is seen."""
    if len(text) <= size:
        return text
    text = text[:size]
    separator = _SEPARATOR.search(text, max(0, size - _LONGEST_TOKEN))
    return text[: separator.start()] if separator is not None else text[:-_LONGEST_TOKEN]
