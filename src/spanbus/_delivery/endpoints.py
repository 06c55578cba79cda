"""OTLP endpoints of the signals, read from the environment.

``OTEL_EXPORTER_OTLP_*`` as in https://opentelemetry.io/docs/specs/otel/protocol/exporter/: a variable of one signal overrides
the common one, the common URL gets ``/v1/traces`` (``metrics``, ``logs``), the URL of one signal is used unchanged, and an empty
variable counts as unset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import OTLP_SIGNALS, Signal
from spanbus.errors import SettingsError

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip", "deflate"]

_PREFIX = "OTEL_EXPORTER_OTLP_"
_DEFAULT_TIMEOUT_S = 10.0
_SECONDS_BELOW = 100.0
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class Endpoint(NamedTuple):
    """Endpoint of one signal. ``headers`` have lower-case names; ``insecure`` matters only to gRPC."""

    url: str
    protocol: Protocol = "http/protobuf"
    headers: tuple[tuple[str, str], ...] = ()
    compression: Compression = "none"
    timeout_s: float = _DEFAULT_TIMEOUT_S
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    insecure: bool = False

    @property
    def shown(self) -> str:
        """URL for messages, without the query, which may hold a secret."""
        return self.url.split("?", 1)[0]


def configured(env: Mapping[str, str], signal: Signal | None = None) -> bool:
    """Whether the environment has an endpoint for this signal, or for any signal if ``signal`` is None."""
    if _first(env, f"{_PREFIX}ENDPOINT") is not None:
        return True
    return any(
        _first(env, f"{_PREFIX}{one.upper()}_ENDPOINT") is not None
        for one in ([signal] if signal is not None else OTLP_SIGNALS)
    )


def endpoints(env: Mapping[str, str], signal: Signal) -> Endpoint:
    """Endpoint of ``signal``. Raises :class:`~spanbus.errors.SettingsError`, which names the variable with the wrong value."""
    names = _Names(env, signal)
    protocol = _protocol(names)
    if protocol == "grpc":
        url, insecure, userinfo = _grpc_url(names)
    else:
        url, userinfo = _http_url(names, signal)
        insecure = url.startswith("http:")
    headers = dict(_headers(names))
    if userinfo is not None:
        from base64 import b64encode

        headers.setdefault("authorization", "Basic " + b64encode(userinfo.encode()).decode())
    certificate, key = _path(names, "CLIENT_CERTIFICATE"), _path(names, "CLIENT_KEY")
    if key is not None and certificate is None:
        raise SettingsError(
            f"{names.chosen('CLIENT_KEY')} is set without {_PREFIX}CLIENT_CERTIFICATE; set both or neither"
        )
    return Endpoint(
        url,
        protocol,
        tuple(headers.items()),
        _compression(names),
        _timeout_s(names),
        _path(names, "CERTIFICATE"),
        certificate,
        key,
        insecure,
    )


class _Names:
    """Lookup of variables: the signal's own first, then the common one."""

    def __init__(self, env: Mapping[str, str], signal: Signal) -> None:
        self._env = env
        self._own = f"{_PREFIX}{signal.upper()}_"

    def value(self, name: str) -> str | None:
        return _first(self._env, self._own + name, _PREFIX + name)

    def own(self, name: str) -> str | None:
        return _first(self._env, self._own + name)

    def common(self, name: str) -> str | None:
        return _first(self._env, _PREFIX + name)

    def chosen(self, name: str) -> str:
        """Name of the variable that the value came from."""
        return self._own + name if self.own(name) is not None else _PREFIX + name


def _first(env: Mapping[str, str], *names: str) -> str | None:
    return next((value for name in names if (value := env.get(name, "").strip())), None)


def _protocol(names: _Names) -> Protocol:
    value = names.value("PROTOCOL")
    match value:
        case None | "http/protobuf":
            return "http/protobuf"
        case "grpc":
            return "grpc"
        case _:
            raise SettingsError(
                f"{names.chosen('PROTOCOL')}={value!r} cannot be used; set it to http/protobuf (the default) or grpc"
            )


def _compression(names: _Names) -> Compression:
    value = names.value("COMPRESSION")
    match value.lower() if value is not None else "none":
        case "none":
            return "none"
        case "gzip":
            return "gzip"
        case "deflate":
            return "deflate"
        case _:
            raise SettingsError(
                f"{names.chosen('COMPRESSION')}={value!r} cannot be used; set it to gzip, deflate or none (the default)"
            )


def _timeout_s(names: _Names) -> float:
    """Timeout in seconds. The specification has milliseconds and the SDK for Python seconds, so numbers below 100 count as
    seconds.
    """
    value = names.value("TIMEOUT")
    if value is None:
        return _DEFAULT_TIMEOUT_S
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise SettingsError(
            f"{names.chosen('TIMEOUT')}={value!r} is not a time; set a number of milliseconds, such as 10000 (the default)"
        )
    return number if number < _SECONDS_BELOW else number / 1e3


def _path(names: _Names, name: str) -> Path | None:
    value = names.value(name)
    return None if value is None else Path(value)


def _headers(names: _Names) -> list[tuple[str, str]]:
    """``name=value`` pairs with percent-encoded values. Messages never show a value, which may be a secret."""
    text = names.value("HEADERS")
    if text is None:
        return []
    found: list[tuple[str, str]] = []
    for position, pair in enumerate(text.split(","), 1):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        if not equals or not name or not _TOKEN.issuperset(name):
            raise SettingsError(
                f"{names.chosen('HEADERS')}: entry {position} is not name=value; write api-key=abc,other=d%20e with values percent-encoded"
            )
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value) or not _is_latin(value):
            raise SettingsError(
                f"{names.chosen('HEADERS')}: the value of {name!r} has characters that a header cannot carry; use visible ASCII"
            )
        found.append((name, value))
    return found


def _is_latin(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _split(names: _Names, url: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    variable = names.chosen("ENDPOINT")
    try:
        parts = urlsplit(url)
        _ = parts.port
        good = (
            parts.scheme.lower() in schemes
            and bool(parts.hostname)
            and not any(letter.isspace() for letter in url)
        )
    except ValueError:
        good = False
        parts = SplitResult("", "", "", "", "")
    if not good:
        raise SettingsError(
            f"{variable}={shown_url(url)!r} is not a URL that starts with {' or '.join(f'{one}://' for one in schemes)}; set one such as {example}"
        )
    return parts


def shown_url(url: str) -> str:
    """URL for messages, without user, password and query, which may hold secrets."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    authority, slash, path = rest.partition("/")
    host, mark, _ = authority.rpartition("@")[2].partition("?")
    place = host if mark else f"{host}{slash}{path.split('?')[0]}"
    return f"{scheme}{separator}{place}"[:300]


def _without_userinfo(parts: SplitResult) -> tuple[str, str | None]:
    userinfo, at, host = parts.netloc.rpartition("@")
    return host, unquote(userinfo) if at else None


def _http_url(names: _Names, signal: Signal) -> tuple[str, str | None]:
    own = names.own("ENDPOINT")
    url = own or names.common("ENDPOINT") or "http://localhost:4318"
    parts = _split(names, url, ("http", "https"), "http://localhost:4318")
    path = parts.path or "/"
    if own is None:
        path = f"{path.rstrip('/')}/v1/{signal}"
    host, userinfo = _without_userinfo(parts)
    return urlunsplit((parts.scheme.lower(), host, path, parts.query, "")), userinfo


def _grpc_url(names: _Names) -> tuple[str, bool, str | None]:
    """Target of a channel as a URL. The scheme decides whether it is insecure; without a scheme ``…_INSECURE`` does."""
    url = names.value("ENDPOINT") or "http://localhost:4317"
    flag = names.value("INSECURE")
    if flag is not None and flag.lower() not in ("true", "false"):
        raise SettingsError(
            f"{names.chosen('INSECURE')}={flag!r} cannot be used; set it to true or false (the default)"
        )
    if url.startswith("unix:"):
        return url, True, None
    if "://" not in url:
        scheme = "http" if flag is not None and flag.lower() == "true" else "https"
        url = f"{scheme}://{url}"
    parts = _split(names, url, ("http", "https"), "http://localhost:4317")
    host, userinfo = _without_userinfo(parts)
    scheme = parts.scheme.lower()
    if parts.port is None:
        host = f"{host.rstrip(':')}:{443 if scheme == 'https' else 80}"
    return urlunsplit((scheme, host, "", "", "")), scheme == "http", userinfo
