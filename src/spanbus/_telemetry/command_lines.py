"""Remove secrets from the arguments of commands, also if an option and its value are two arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from spanbus._telemetry.secret_rules import REDACTED, without_options
from spanbus._telemetry.sensitive_names import is_sensitive

_SCHEMES = frozenset({"bearer", "basic", "token", "digest", "negotiate", "apikey"})
_TAKES_P = (
    r"(?:.*/)?(?:sshpass|mysql\w*|mariadb[\w-]*|mongo\w*|(?:docker|podman|registry|nerdctl|buildah|skopeo|oc|az)\s+login|redis-cli|ldap\w+"
    r"|htpasswd|7z[az]?|zip|unzip|smbclient|twine)(?:\.exe)?"
)
_COMMAND_WORDS = (
    "sshpass mysql mariadb mongo docker podman registry nerdctl buildah skopeo oc az redis-cli ldap htpasswd 7z zip smbclient twine"
).split()
"""Prefilter: every match of the two patterns contains one of these."""
_GLUES_P = r"(?:.*/)?(?:sshpass|mysql\w*|mariadb[\w-]*|7z[az]?)(?:\.exe)?"
_MAX_COMMAND_CHARS = 300
_MAX_QUOTED = 64


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _is_command(pattern: str, argument: str) -> bool:
    return (
        len(argument) <= _MAX_COMMAND_CHARS
        and any(word in argument for word in _COMMAND_WORDS)
        and _compiled(pattern).fullmatch(argument) is not None
    )


def cleaned_arguments(
    arguments: Sequence[str], text_of: Callable[[str], str], clean: Callable[[str], str]
) -> list[str]:
    """Return the arguments without secrets. ``text_of`` and ``clean`` clean one text; ``clean`` has no length limit."""
    cleaned: list[str] = []
    hidden = user = takes_p = glued_p = in_key = assigned = False
    before = ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        bare = argument.lstrip("-").rstrip(": ").lower()
        if _is_command(_TAKES_P, argument) or _is_command(_TAKES_P, f"{before} {argument}"):
            takes_p, glued_p = True, _is_command(_GLUES_P, argument)
        if in_key or (
            "-----BEGIN" in argument and ("PRIVATE" in argument or argument == "-----BEGIN")
        ):
            in_key = "-----END" not in argument or (
                "PRIVATE" not in argument and argument != "-----END"
            )
            cleaned.append(REDACTED)
        elif assigned and argument in ("=", ":", "=>", ":="):
            hidden = True
            cleaned.append(argument)
        elif hidden and not (argument.startswith("-") and is_sensitive(bare)):
            hidden = bare in _SCHEMES  # the token follows
            cleaned.append(argument if hidden else REDACTED)
        elif user and ":" in argument:
            user = False
            cleaned.append(f"{text_of(argument.partition(':')[0])}:{REDACTED}")
        elif equals and is_sensitive(name.lstrip("-")):
            hidden = False
            cleaned.append(f"{text_of(name)}={REDACTED}")
        elif (
            takes_p
            and len(argument) > 2
            and argument[:2] in ("-p", "-a", "-w")
            and not (argument[2:].isalpha() and not (glued_p and argument[:2] == "-p"))
        ):
            cleaned.append(argument[:2] + REDACTED)
        else:
            user = argument in ("-u", "--user", "--proxy-user")
            hidden = (
                (argument.startswith("-") and not equals and is_sensitive(bare))
                or bare in _SCHEMES
                or (argument.rstrip().endswith(":") and is_sensitive(bare))
                or (takes_p and argument in ("-p", "-P", "-a", "-w"))
            )
            cleaned.append(text_of(argument))
        assigned = is_sensitive(bare)
        before = argument
    if len(arguments) > 1:  # secrets recognized only together with preceding arguments
        whole = clean("\n".join(arguments))
        if len(arguments) <= _MAX_QUOTED:
            from shlex import quote

            whole_words = clean(without_options(" ".join(map(quote, arguments))))
            seen = [raw in whole and _is_in(raw, whole_words) for raw in arguments]
        else:
            lines = set(whole.split("\n"))
            seen = [raw in lines or "\n" in raw for raw in arguments]
        cleaned = [
            REDACTED if text == raw and len(raw) > 3 and not there else text
            for raw, text, there in zip(arguments, cleaned, seen, strict=True)
        ]
    return cleaned


def _is_in(raw: str, words: str) -> bool:
    from shlex import quote

    return raw in words or quote(raw) in words
