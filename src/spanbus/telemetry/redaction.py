"""What may leave the process: an allow-list of payload keys, with secrets taken out of every text.

Redaction is on by default. A text is scrubbed by what secrets look like (tokens of well-known services, private keys,
JSON web tokens, URLs with passwords, headers) and by what stands before them (``password=``, ``--token``, ``"api_key":``).
It is a net with a fine mesh, not a proof: what must never leave should not be put on the bus.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import cast

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
    r"(?:[\w.-]*(?:passw(?:or)?d|passwd|passphrase|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key"
    r"|auth[_-]?key|credentials?|session[_-]?id|sessionid|connection[_-]?string|client[_-]?secret|bearer|webhook[_-]?url|dsn)[\w.-]*|pwd|auth|sas|sig|pin|otp)"
)
_SENSITIVE_KEY = re.compile(_SENSITIVE, re.IGNORECASE)
_NOT_SENSITIVE = re.compile(r"(?i)(?:token(?:s|_?count|izer|_type|_limit)|max_tokens|.*_tokens|public_?key.*|author.*|key_?name|secrets?_?(?:name|count))")

_SHAPES: tuple[str, ...] = (
    # private keys: the whole block, or what is left of it where it was cut
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    r"\bPuTTY-User-Key-File-\d[\s\S]*?(?:Private-MAC: \w+|\Z)",
    r"\bAGE-SECRET-KEY-1[0-9A-Z]{20,}",
    # clouds
    r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{12,}\b",
    r"\bAIza[0-9A-Za-z_-]{30,}",
    r"\bya29\.[0-9A-Za-z_-]{10,}",
    r"\bGOCSPX-[0-9A-Za-z_-]{20,}",
    r"\b1//0[0-9A-Za-z_-]{20,}",
    r"\b[0-9A-Za-z_-]{3}(?:7|8)Q~[0-9A-Za-z_~.-]{30,}",
    r"\bdo[opr]_v1_[a-f0-9]{32,}",
    r"\bLTAI[0-9A-Za-z]{12,}",
    # forges and registries
    r"\bgh[pousr]_[0-9A-Za-z]{20,}",
    r"\bgithub_pat_[0-9A-Za-z_]{20,}",
    r"\bgl(?:pat|oas|cbt|dt|ft|imt|agent|ptt|rt|soat|ffct)-[0-9A-Za-z_.=-]{16,}",
    r"\bATATT[0-9A-Za-z_=-]{20,}",
    r"\bATCTT[0-9A-Za-z_=-]{20,}",
    r"\bBBDC-[0-9A-Za-z+/=]{20,}",
    r"\bnpm_[0-9A-Za-z]{20,}",
    r"\bpypi-[0-9A-Za-z_-]{20,}",
    r"\brubygems_[a-f0-9]{20,}",
    r"\bcio[0-9A-Za-z]{32}\b",
    r"\bdckr_(?:pat|oat)_[0-9A-Za-z_-]{16,}",
    r"\boy2[a-z0-9]{43}\b",
    # services
    r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}",
    r"\bxapp-\d-[0-9A-Za-z-]{10,}",
    r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z/_-]+",
    r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d+/[0-9A-Za-z_-]+",
    r"https://[\w-]+\.webhook\.office\.com/\S+",
    r"\b[MNO][0-9A-Za-z_-]{23,25}\.[0-9A-Za-z_-]{6}\.[0-9A-Za-z_-]{27,}",
    r"\b(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{10,}",
    r"\bwhsec_[0-9A-Za-z+/=]{16,}",
    r"\bsk-(?:ant-|proj-|svcacct-|admin-|or-v1-)?[0-9A-Za-z_-]{20,}",
    r"\bgsk_[0-9A-Za-z]{20,}",
    r"\bhf_[0-9A-Za-z]{20,}",
    r"\br8_[0-9A-Za-z]{20,}",
    r"\bSG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}",
    r"\bkey-[0-9a-f]{32}\b",
    r"\b[0-9a-f]{32}-us\d{1,2}\b",
    r"\b(?:SK|AC)[0-9a-f]{32}\b",
    r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}",
    r"\bsq0(?:atp|csp|idp)-[0-9A-Za-z_-]{20,}",
    r"\bEAAA[0-9A-Za-z_-]{40,}",
    r"\b(?:dapi)[0-9a-f]{32}(?:-\d)?\b",
    r"\bhv[sbr]\.[0-9A-Za-z_-]{20,}",
    r"\b[sb]\.[0-9A-Za-z]{24}\b",
    r"\batlasv1\.[0-9A-Za-z_-]{20,}",
    r"\b[0-9A-Za-z]{14}\.atlasv1\.[0-9A-Za-z_-]{40,}",
    r"\bglc_[0-9A-Za-z+/=]{20,}",
    r"\bglsa_[0-9A-Za-z]{20,}_[0-9a-f]{8}",
    r"\bNRAK-[0-9A-Z]{20,}",
    r"\bNRJS-[0-9a-f]{16,}",
    r"\bsntr[yu]s_[0-9A-Za-z_=+/-]{20,}",
    r"\bPMAK-[0-9a-f]{20,}-[0-9a-f]{20,}",
    r"\blin_(?:api|oauth)_[0-9A-Za-z]{20,}",
    r"\b(?:ntn|secret)_[0-9A-Za-z]{30,}",
    r"\bpat[0-9A-Za-z]{14}\.[0-9a-f]{40,}",
    r"\bfigd_[0-9A-Za-z_-]{20,}",
    r"\bdp\.(?:pt|st|ct|scim|audit)\.(?:[\w-]+\.)?[0-9A-Za-z]{30,}",
    r"\bpul-[0-9a-f]{40}\b",
    r"\bsbp_[0-9a-f]{30,}",
    r"\bvercel_[0-9A-Za-z]{20,}",
    r"\bCFPAT-[0-9A-Za-z_-]{30,}",
    r"\brnd_[0-9A-Za-z]{20,}",
    r"\btfp_[0-9A-Za-z_-]{30,}",
    r"\bops_eyJ[0-9A-Za-z_-]{30,}",
    r"\b\d{8,10}:AA[0-9A-Za-z_-]{32,}",
    r"\bEAA[0-9A-Za-z]{60,}",
    # JSON web tokens, also cut ones
    r"\beyJ[0-9A-Za-z_-]{8,}\.(?:eyJ)?[0-9A-Za-z_-]{4,}(?:\.[0-9A-Za-z_-]*)?",
    r"\beyJ[0-9A-Za-z_-]{30,}",
)

_CONTEXT: tuple[tuple[str, str], ...] = (
    # user and password in a URL; a bare token in the user's place
    (r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^\s/@:'\"<>]*:[^\s/@'\"<>]*(?:@[^\s/@'\"<>]*)*(?=@)", "keep"),
    (r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[0-9A-Za-z_.~%-]{16,}(?=@)", "keep"),
    # headers: everything to the end of the value
    (
        r"(?P<keep>\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?(?:b['\"])?(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256)\s+)?)"
        r"[^\s'\",;][^\r\n'\"]*", "keep",
    ),
    (r"(?P<keep>\b(?:bearer|basic)\s+)(?=[^\s]*[\d+/=_.-])[0-9A-Za-z+/=_.~-]{8,}", "keep"),
    (r"(?P<keep>\b(?:set-)?cookie2?['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+", "keep"),
    (r"(?P<keep>\bx-(?:api-key|auth-token|amz-security-token|vault-token|gitlab-token|goog-api-key|access-token|csrf-token|api-token)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;]+", "keep"),
    # connection strings: AccountKey=…;SharedAccessKey=…
    (r"(?P<keep>\b(?:AccountKey|SharedAccessKey|SharedAccessSignature|Pwd|Password)\s*=\s*)[^;\s'\"]+", "keep"),
    # URL parameters
    (r"(?P<keep>[?&;](?:sig|signature|x-amz-signature|x-amz-credential|x-goog-signature|code|key|auth|access_token|id_token|refresh_token|client_secret|state|jwt|sas)=)[^&\s'\"#<>]+", "keep"),
    # a sensitive name, then its value: env, YAML, JSON, Python, TOML, with escaped quotes too
    (
        r"(?P<keep>(?<![\w-])(?P<name>" + _SENSITIVE + r")\\?['\"]?\s*(?:[:=]|=>|:=)\s*)"
        r"(?:\\\"(?:[^\"\\]|\\(?!\").)*\\\"|\"(?:[^\"\\]|\\.)*\"?|\\?'(?:[^'\\]|\\(?!').)*\\?'?|[^\s,;&'\"\])}]+)", "name",
    ),
    # a sensitive option, then its value: --password hunter2, -p is too common to be one
    (r"(?P<keep>(?<![\w-])--?(?P<name>" + _SENSITIVE + r")\s+)(?!-)(?:\"[^\"]*\"|'[^']*'|\S+)", "name"),
    (r"(?P<keep>(?<![\w-])-u\s+[^\s:@]+:)\S+", "keep"),
    (r"(?P<keep>\b(?:password|passphrase|passwd|secret|token|api key)\s+(?:is|was|of)\s+['\"]?)[^\s'\",;]+", "keep"),
    (r"(?P<keep>\bidentified by\s+['\"])[^'\"]+", "keep"),
    # .netrc
    (r"(?P<keep>\blogin\s+\S+\s+password\s+)\S+", "keep"),
)

_SUSPICIOUS = re.compile(r"[:=@]|\S{15}|--|-u ")
_WORDS = ("bearer", "basic ", "passw", "passphrase", "secret", "token", "api key", "identified by", "login")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")


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
        self._short = lru_cache(maxsize=4_096)(self._clean)

    def text(self, text: str, limit: int = STRING_LIMIT) -> str:
        """``text`` without secrets and control characters, at most ``limit`` characters. Never raises; applying it twice changes nothing."""
        if len(text) <= 128:
            text = self._short(text)
        else:
            text = self._clean(text[: limit * 4])  # a secret across the cut is seen whole; far behind it nothing matters
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _clean(self, text: str) -> str:
        if self.enabled:
            lowered = text.lower()
            if _SUSPICIOUS.search(text) is not None or any(word in lowered for word in _WORDS):
                text = _scrub(text)
            for pattern in self._own:
                text = pattern.sub(REDACTED, text)
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8", "replace")  # lone surrogates
        return text

    def arguments(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """A command's arguments without secrets, also where the option and its value are two arguments."""
        cleaned: list[str] = []
        hidden = False
        for argument in arguments[:EVENT_ATTRIBUTES_LIMIT]:
            if self.enabled and hidden and not argument.startswith("-"):
                cleaned.append(REDACTED)
                hidden = False
                continue
            hidden = bool(argument.startswith("-") and "=" not in argument and is_sensitive(argument.lstrip("-"))) or argument.rstrip().lower() in (
                "bearer", "authorization:", "-u", "--user"
            )
            cleaned.append(self.text(argument))
        return tuple(cleaned)

    def attributes(self, payload: Mapping[str, object]) -> dict[str, AttributeValue]:
        """The allowed leaves of a payload, nested ones with dots in their names, at most 32."""
        found: dict[str, AttributeValue] = {}
        self._collect("", payload, found, 0)
        return found

    def _collect(self, prefix: str, payload: Mapping[str, object], found: dict[str, AttributeValue], depth: int) -> None:
        for key, value in payload.items():
            if len(found) >= EVENT_ATTRIBUTES_LIMIT:
                return
            if not isinstance(key, str):
                continue
            if key not in self._allowed and not (depth and prefix.endswith("counts.")):
                continue
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if depth < 3:
                    self._collect(f"{name}.", cast("Mapping[str, object]", value), found, depth + 1)
                continue
            cleaned = self.value(key, value)
            if cleaned is not None:
                found[name] = cleaned

    def value(self, key: str, value: object) -> AttributeValue | None:
        """One value as an attribute; None for live objects, which have no place in telemetry."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            if self.enabled and is_sensitive(key):
                return REDACTED
            return self.text(str(value.value) if isinstance(value, Enum) else value, ERROR_TEXT_LIMIT if key in _ERROR_KEYS else STRING_LIMIT)
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else self.text(str(value) if value.bit_length() < 10_000 else "a very large number")
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Enum):
            return self.value(key, value.value)
        if isinstance(value, BaseException):
            try:
                return self.text(f"{type(value).__name__}: {value}", ERROR_TEXT_LIMIT)
            except Exception:  # a broken __str__ of somebody's exception
                return type(value).__name__
        if isinstance(value, list | tuple):
            items = cast("Sequence[object]", value)
            if all(isinstance(item, str) for item in items):
                texts = cast("Sequence[str]", items)
                return self.arguments(texts) if key in ("command", "args", "argv") else tuple(self.text(text) for text in texts[:EVENT_ATTRIBUTES_LIMIT])
            if all(isinstance(item, bool | int | float | str) or item is None for item in items):
                return self.text(json.dumps([item if not isinstance(item, float) or math.isfinite(item) else str(item) for item in items[:100]]))
        return None


@lru_cache(maxsize=2_048)
def is_sensitive(name: str) -> bool:
    """Whether a key or option of this name is likely to hold a secret."""
    return _SENSITIVE_KEY.fullmatch(name) is not None and _NOT_SENSITIVE.fullmatch(name) is None


def _named(match: re.Match[str]) -> str:
    if _NOT_SENSITIVE.fullmatch(match["name"]) is not None:
        return match[0]
    return f"{match['keep']}{REDACTED}"


def _kept(match: re.Match[str]) -> str:
    return f"{match['keep']}{REDACTED}"


_shapes = re.compile("|".join(f"(?:{shape})" for shape in _SHAPES))
_contexts = tuple((re.compile(pattern, re.IGNORECASE), _named if kind == "name" else _kept) for pattern, kind in _CONTEXT)


def _scrub(text: str) -> str:
    text = _shapes.sub(REDACTED, text)
    for pattern, replace in _contexts:
        text = pattern.sub(replace, text)
    return text
