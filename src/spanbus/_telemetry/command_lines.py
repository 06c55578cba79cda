"""Secrets in the arguments of commands, where an option and its value are two of them."""

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
_THEIR_WORDS = (
    "sshpass mysql mariadb mongo docker podman registry nerdctl buildah skopeo oc az redis-cli ldap htpasswd 7z zip smbclient twine"
).split()
"""One of these is in every text that one of the two patterns finds."""
_GLUES_P = r"(?:.*/)?(?:sshpass|mysql\w*|mariadb[\w-]*|7z[az]?)(?:\.exe)?"
_LONGEST_COMMAND = 300
_FEW = 64


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _is(pattern: str, argument: str) -> bool:
    return (
        len(argument) <= _LONGEST_COMMAND
        and any(word in argument for word in _THEIR_WORDS)
        and _compiled(pattern).fullmatch(argument) is not None
    )


def cleaned_arguments(
    arguments: Sequence[str], text_of: Callable[[str], str], clean: Callable[[str], str]
) -> list[str]:
    """Each argument without secrets; ``text_of`` and ``clean`` take them out of one text, the second without a limit."""
    cleaned: list[str] = []
    hidden = user = takes_p = glued_p = in_key = assigned = False
    before = ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        bare = argument.lstrip("-").rstrip(": ").lower()
        if _is(_TAKES_P, argument) or _is(_TAKES_P, f"{before} {argument}"):
            takes_p, glued_p = True, _is(_GLUES_P, argument)
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
            hidden = bare in _SCHEMES  # the token itself is one further
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
    if len(arguments) > 1:  # what is a secret by what stands in the arguments before it
        whole = clean("\n".join(arguments))
        if len(arguments) <= _FEW:
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
