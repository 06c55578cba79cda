"""Names of keys and options that are likely to hold a secret."""

from __future__ import annotations

import re
from functools import lru_cache

from spanbus._patterns import pattern

LONGEST_NAME = 100
"""Of a longer name only the end is checked."""

_NAME = pattern(r"[\w.-]+")
_SENSITIVE = pattern(
    r"passw(?:or)?d|passwd|passphrase|passcode|(?:store|key)pass|secret|token|api[_.-]?key|access[_.-]?key|account[_.-]?key|private[_.-]?key"
    r"|signing[_.-]?key|encryption[_.-]?key|auth[_.-]?key|license[_.-]?key|(?:fernet|admin|master|hmac|unseal|storage|shared|deploy|service|consumer|app|cipher)[_.-]?key(?:\Z|[_.-])"
    r"|(?:subscription|functions)[_.-]?key(?:\Z|[_.-])|nkey[_-]?seed|key[_-]?data|credentials?|session[_.-]?(?:id|key)|connection[_-]?string|bearer|webhook[_-]?url|totp|authorization|dsn|mnemonic|seed[_-]?phrase"
    r"|recovery[_-]?(?:code|key)|sonar\.login|sessid|connect\.sid|\A_\w+_session\Z|\Alaravel_session\Z|\Abw_session\Z|\Asshpass\Z|\Abundle_\w+__(?:com|org|net|io|dev)\Z"
    r"|(?:\A|[_-])(?:pwd|pass|auth|cookie)\Z|[_-](?:pw|pat)\Z|\A(?:pw|sas|sig|pin|otp|psk|jwt|cookies)\Z"
    r"|(?-i:(?<=[a-z0-9])(?:Pwd|Pass|Auth|Cookie|Pw|Pat))\Z",
    re.IGNORECASE,
)
_HARMLESS = pattern(
    r"(?:\A|[_.-])(?:tokens|token_?(?:count|type|limit|url|uri|usage)s?|tokeniz\w*|passed|pass_?rate|authors?|key_?name|secrets?_?(?:name|count)|compass)\Z"
    r"|(?:\A|[_.-])public_?key|allow[_-]?credentials\Z|(?:error|exception|warning)\Z"
    r"|\.(?:pyi?|[cm]?[jt]sx?|go|rs|rb|java|kt|c|h|cc|cpp|cs|php|sh|sql|md|rst|txt|toml|ya?ml|json|ini|cfg|lock|html|css|log)\Z",
    re.IGNORECASE,
)
WORDS = (
    "passw passphrase passcode storepass keypass secret token key credential session connection bearer webhook totp authorization dsn"
    " mnemonic seed recovery sonar sshpass cookie sessid connect.sid bundle_"
).split()
"""Every sensitive name contains one of these, one of ``PARTS`` as a part of its own, or one of ``CAMEL`` at its end."""
CAMEL = "Pwd Pass Auth Pw Pat".split()
"""Endings of a name, behind a lower-case letter or a digit."""
PARTS = "pwd pass auth pw pat sas sig pin otp psk jwt".split()
_PREFILTER = (*WORDS, *PARTS)


@lru_cache(maxsize=4_096)
def is_sensitive(name: str) -> bool:
    """Whether a key or option of this name is likely to hold a secret. Takes linear time."""
    name = name[-LONGEST_NAME:]
    if name.isascii():  # decides most names without the patterns, which take longer to compile than a short command to run
        lowered = name.lower()
        if not any(word in lowered for word in _PREFILTER):
            return False
    return (
        _SENSITIVE.search(name) is not None
        and _NAME.fullmatch(name) is not None
        and _HARMLESS.search(name) is None
    )
