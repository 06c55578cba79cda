"""Every setting, from arguments, environment, TOML, defaults.

``SPANBUS_*`` variables go before ``[tool.spanbus]`` of the nearest ``pyproject.toml`` (or the top level of the nearest
``spanbus.toml``), and that before the defaults. ``OTEL_*`` variables keep the meaning that the OpenTelemetry specification
gives them; here they are only checked. A name or value that cannot be used is an error that says which, where and what
would be right.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypedDict, cast

from spanbus.delivery.endpoints import configured, endpoints
from spanbus.delivery.signals import Signal
from spanbus.errors import SettingsError
from spanbus.toml_lines import line_of, lines_of
from spanbus.workflow.definition import UnusableDefinition, Workflow, duration_s

Events = Literal["span", "log", "both"]
LocalStore = Literal["auto", "on", "off"]
ExceptionSignal = Literal["logs", "logs/dup"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib|t|tb|tib)", re.IGNORECASE)
_SCALE = {"": 1, "b": 1, "k": 1_000, "kb": 1_000, "kib": 2**10, "m": 10**6, "mb": 10**6, "mib": 2**20, "g": 10**9, "gb": 10**9, "gib": 2**30, "t": 10**12,
          "tb": 10**12, "tib": 2**40}
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no")
_NOTHING: Mapping[str, object] = MappingProxyType({})


class _Wrong(ValueError):
    """A value that cannot be used; the text says what would be right."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings; ``env`` is None for what only TOML can say."""

    name: str
    env: str | None
    default: str
    brief: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What was decided; ``origin`` says for each setting where it came from."""

    state_dir: Path
    events: Events = "span"
    exit_timeout_s: float = 0.25
    spool_quota_bytes: int = 256 * 2**20
    local: LocalStore = "auto"
    store_days: int = 30
    redact: bool = True
    redact_patterns: tuple[str, ...] = ()
    payload_allow: tuple[str, ...] = ()
    lifetime: Literal["run", "service"] | None = None
    dialects: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType(cast("dict[str, Path]", {})))
    default_workflow: str | None = None
    sdk_disabled: bool = False
    exception_signal: ExceptionSignal | None = None
    endpoint_configured: bool = False
    file: Path | None = None
    origin: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(cast("dict[str, str]", {})))
    warnings: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()
    """Variables of the environment whose values cannot be used; empty unless ``load_settings`` was told not to be strict."""
    tables: Mapping[str, object] = field(default_factory=lambda: _NOTHING, repr=False)
    lines: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(cast("dict[str, int]", {})), repr=False)
    prefix: str = ""

    @property
    def workflow_names(self) -> tuple[str, ...]:
        """The workflows of the file, whether they can be built or not."""
        return tuple(self.tables)

    def workflow(self, name: str | None = None) -> Workflow:
        """Build a workflow: the named one, else ``default_workflow``, the only one, or ``default``.

        Raises :class:`~spanbus.errors.SettingsError`, with file and line, for one that is not there or cannot be built.
        """
        names = self.workflow_names
        where = str(self.file) if self.file is not None else "no spanbus.toml or pyproject.toml with [tool.spanbus] here or above"
        chosen = name or self.default_workflow or (names[0] if len(names) == 1 else "default" if "default" in names else None)
        if not names:
            raise SettingsError(f"{where}: no workflow is defined; add [tool.spanbus.workflows.NAME] with its phases, or use `spanbus exec -- COMMAND`")
        if chosen is None:
            raise SettingsError(f"{where}: which workflow? There are {', '.join(names)}; name one, or set default_workflow")
        if chosen not in self.tables:
            raise SettingsError(f"{where}: no workflow {chosen!r}{_near(chosen, names)}; there are {', '.join(names)}")
        path = f"{self.prefix}workflows.{chosen}"
        table = self.tables[chosen]
        if not isinstance(table, Mapping):
            raise SettingsError(f"{self._at(path)}: workflow {chosen!r} is not a table")
        try:
            return Workflow.from_mapping(chosen, cast("Mapping[str, object]", table))
        except UnusableDefinition as error:
            inner = f"{path}.{error.path}" if error.path else path
            raise SettingsError(f"{self._at(inner)}: {inner}: {error.message}") from None

    def usable(self, env: Mapping[str, str]) -> Mapping[str, str]:
        """``env`` without the variables that were refused, so that whoever reads it next falls back to their defaults."""
        return {name: value for name, value in env.items() if name not in self.refused} if self.refused else env

    def _at(self, path: str) -> str:
        line = line_of(self.lines, path)
        return f"{self.file}:{line}" if line is not None else str(self.file)


# --- values -----------------------------------------------------------------------------------------------------------


def _choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value.strip().lower() in allowed:
            return value.strip().lower()
        raise _Wrong(f"must be {_or(allowed)}{_near(str(value), allowed)}")

    return parse


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE + _FALSE:
        return value.strip().lower() in _TRUE
    raise _Wrong("must be true or false")


def _seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    try:
        number = duration_s(value)
    except UnusableDefinition:
        number = math.nan
    if not 0 <= number <= 3600:
        raise _Wrong('must be seconds from 0 to 3600, or a text such as "250ms"')
    return number


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        number = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())) is not None:
        number = int(float(match[1]) * _SCALE[match[2].lower()])
    else:
        raise _Wrong('must be a number of bytes, or a text such as "256MiB"')
    if number < 2**20:
        raise _Wrong("must be at least 1 MiB")
    return number


def _days(value: object) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value.strip()) < 9:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 3650:
        return value
    raise _Wrong("must be a whole number of days from 1 to 3650")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value)):
        return tuple(cast("list[str]", value))
    raise _Wrong("must be a list of texts")


def _patterns(value: object) -> tuple[str, ...]:
    for pattern in _texts(value):
        try:
            re.compile(pattern)
        except re.error as error:
            raise _Wrong(f"holds {pattern!r}, which is no regular expression: {error}") from None
    return _texts(value)


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _Wrong("must be a text that is not empty")


def _dialects(value: object) -> dict[str, str]:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in cast("Mapping[str, object]", value).values()):
        return dict(cast("Mapping[str, str]", value))
    raise _Wrong('must be a table of files, such as conveyor = "telemetry/conveyor.toml"')


_Parse = Callable[[object], object]

_TABLE: tuple[tuple[Setting, _Parse], ...] = (
    (Setting("state_dir", "SPANBUS_STATE_DIR", "the user's state directory", "Spool and local store; one directory may serve many processes at once."), _text),
    (Setting("events", "SPANBUS_EVENTS", "span", "Bus events as `span` events, `log` events or `both`."), _choice("span", "log", "both")),
    (Setting("exit_timeout_s", "SPANBUS_EXIT_TIMEOUT_S", "0.25", "The longest that telemetry may hold the exit, in seconds; what is left stays in the spool."), _seconds),
    (Setting("spool_quota_bytes", "SPANBUS_SPOOL_QUOTA_BYTES", "256MiB", "Above it the oldest sealed segment is dropped and counted."), _size),
    (Setting("local", "SPANBUS_LOCAL", "auto", "The local store: `auto` (the command line always writes it, a library only without an endpoint), `on`, `off`."), _choice("auto", "on", "off")),
    (Setting("store_days", "SPANBUS_STORE_DAYS", "30", "How many days the local store keeps what came in; above 512 MiB the oldest goes sooner."), _days),
    (Setting("redact", "SPANBUS_REDACT", "on", "Take secrets out of everything that leaves the process."), _boolean),
    (Setting("lifetime", "SPANBUS_LIFETIME", "as the caller says", "`run` for a process that exports once and dies (delta temporality), `service` for one that lives on."), _choice("run", "service")),
    (Setting("redact_patterns", None, "[]", "Further regular expressions of what is secret."), _patterns),
    (Setting("payload_allow", None, "[]", "Further payload keys that may leave the process."), _texts),
    (Setting("dialects", None, "{}", "Files of your own dialects, by name; relative to the file."), _dialects),
    (Setting("default_workflow", None, "the only one, or `default`", "What `spanbus run` runs without a name."), _text),
)
SETTINGS = tuple(setting for setting, _ in _TABLE)
"""The table of every setting of our own; the workflows stand beside them in TOML."""

_KEYS = tuple(setting.name for setting in SETTINGS)
_VARIABLES = tuple(setting.env for setting in SETTINGS if setting.env is not None)
_OF_COMMANDS = frozenset({"SPANBUS_UP_TOKEN"})
"""Variables that stand for an option of one command; read there."""


# --- OTEL_* -----------------------------------------------------------------------------------------------------------


def _number(least: float, what: str = "a number") -> _Parse:
    def parse(value: object) -> object:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise _Wrong(f"must be {what}, at least {least:g}")
        return number

    return parse


def _limit(value: object) -> object:
    text = str(value).lower()
    if text == "unset" or (text.isascii() and text.isdigit()):
        return value
    raise _Wrong("must be a whole number, at least 0, or unset")


def _ratio(value: object) -> object:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise _Wrong("must be a number from 0 to 1")
    return number


def _propagators(value: object) -> object:
    """The registry of installed propagators decides, as it does for the OpenTelemetry API."""
    wanted = [part.strip() for part in str(value).split(",")]
    if {part.lower() for part in wanted} <= {"tracecontext", "baggage", "none"}:
        return value
    from importlib.metadata import entry_points

    known = (*sorted({entry.name for entry in entry_points(group="opentelemetry_propagator")}), "none")
    for part in wanted:
        if part not in known:
            raise _Wrong(f"{part!r} is not installed; must be a list of {_or(known)}{_near(part, known)}")
    return value


_OTEL: Mapping[str, _Parse] = {
    "OTEL_SDK_DISABLED": _choice("true", "false"),
    "OTEL_TRACES_SAMPLER": _choice(
        "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"
    ),
    "OTEL_PROPAGATORS": _propagators,
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _choice("cumulative", "delta", "lowmemory"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _choice("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
    "OTEL_METRIC_EXPORT_INTERVAL": _number(1, "a number of milliseconds"),
    "OTEL_METRIC_EXPORT_TIMEOUT": _number(0, "a number of milliseconds"),
    "OTEL_METRICS_EXEMPLAR_FILTER": _choice("always_on", "always_off", "trace_based"),
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": _choice("logs", "logs/dup"),
    **{f"OTEL_{name}": _limit for name in (
        "ATTRIBUTE_COUNT_LIMIT", "ATTRIBUTE_VALUE_LENGTH_LIMIT", "SPAN_ATTRIBUTE_COUNT_LIMIT", "SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "SPAN_EVENT_COUNT_LIMIT", "SPAN_LINK_COUNT_LIMIT", "EVENT_ATTRIBUTE_COUNT_LIMIT", "LINK_ATTRIBUTE_COUNT_LIMIT",
        "LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    )},
}
OTEL_VARIABLES = (*_OTEL, "OTEL_TRACES_SAMPLER_ARG")
"""What is checked here; ``OTEL_EXPORTER_OTLP_*`` is checked where it is read, by :mod:`spanbus.delivery.endpoints`."""


# --- loading ----------------------------------------------------------------------------------------------------------


def load_settings(
    file: Path | None = None, *, env: Mapping[str, str] | None = None, cwd: Path | None = None, strict: bool = True
) -> Settings:
    """Decide every setting. ``file`` instead of the one that is searched from ``cwd`` upwards.

    Raises :class:`~spanbus.errors.SettingsError`: one line that names variable or file, key and line. With ``strict`` False
    (a library in somebody's service) what cannot be used falls back to its default and stands in ``warnings``.
    """
    env = os.environ if env is None else env
    loading = _Loading(strict)
    table, prefix, found, lines = loading.toml(file, cwd)
    values: dict[str, object] = {}
    origin: dict[str, str] = dict.fromkeys(_KEYS, "default")
    for key, value in table.items():
        if key == "workflows":
            continue
        path = f"{prefix}{key}"
        line = lines.get(path)
        where = f"{found}:{line}: {path}" if line is not None else f"{found}: {path}"
        row = next((row for row in _TABLE if row[0].name == key), None)
        if row is None:
            loading.wrong(f"{where}: unknown key{_near(key, (*_KEYS, 'workflows'))}; known are {', '.join((*_KEYS, 'workflows'))}")
            continue
        if loading.parsed(values, key, row[1], value, where):
            origin[key] = f"{found}:{line}" if line is not None else str(found)
    for name in sorted(env):
        if not name.startswith("SPANBUS_") or name in _OF_COMMANDS:
            continue
        row = next((row for row in _TABLE if row[0].env == name), None)
        if row is None:
            loading.wrong(f"{name}: unknown variable{_near(name, _VARIABLES)}; known are {', '.join(_VARIABLES)}")
        elif env[name].strip() and loading.parsed(values, row[0].name, row[1], env[name], name):
            origin[row[0].name] = name
    otel: dict[str, object] = {}
    for name, parse in _OTEL.items():
        value = env.get(name, "").strip()
        if value and not loading.parsed(otel, name, parse, value, name):
            loading.refused.add(name)
    ratio = env.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if ratio and "ratio" in str(otel.get("OTEL_TRACES_SAMPLER")) and not loading.parsed(otel, "ratio", _ratio, ratio, "OTEL_TRACES_SAMPLER_ARG"):
        loading.refused.add("OTEL_TRACES_SAMPLER_ARG")
    loading.check_endpoints(env)
    folder = found.absolute().parent if found is not None else Path()
    state_dir = values.pop("state_dir", None)
    if isinstance(state_dir, str):
        state = Path(state_dir).expanduser()
        values["state_dir"] = state.absolute() if origin["state_dir"] == "SPANBUS_STATE_DIR" else folder / state
    else:
        from platformdirs import user_state_path

        values["state_dir"] = user_state_path("spanbus", appauthor=False)
    dialects = cast("dict[str, str]", values.pop("dialects", {}))
    workflows = table.get("workflows", {})
    if not isinstance(workflows, Mapping):
        loading.wrong(f"{found}: {prefix}workflows: must be a table of workflows")
        workflows = {}
    return Settings(
        **values,  # pyright: ignore[reportArgumentType] - each was parsed to its type
        dialects=MappingProxyType({name: folder / Path(path).expanduser() for name, path in dialects.items()}),
        sdk_disabled=otel.get("OTEL_SDK_DISABLED") == "true",
        exception_signal=cast("ExceptionSignal | None", otel.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN")),
        endpoint_configured=configured({name: value for name, value in env.items() if name not in loading.refused}),
        file=found, origin=MappingProxyType(origin), warnings=tuple(loading.warnings), refused=frozenset(loading.refused),
        tables=MappingProxyType(dict(cast("Mapping[str, object]", workflows))), lines=MappingProxyType(lines), prefix=prefix,
    )


class Arguments(TypedDict, total=False):
    """Settings that a caller gives in code; each wins over environment and file. Paths are relative to the working directory."""

    state_dir: str | Path
    events: Events
    exit_timeout_s: float | str
    spool_quota_bytes: int | str
    local: LocalStore
    store_days: int | str
    redact: bool
    redact_patterns: Sequence[str]
    payload_allow: Sequence[str]
    dialects: Mapping[str, str | Path]
    default_workflow: str


def with_arguments(settings: Settings, arguments: Mapping[str, object]) -> Settings:
    """``settings`` with what the caller of a function gave. Raises :class:`~spanbus.errors.SettingsError`, also in a library."""
    loading, values = _Loading(strict=True), dict[str, object]()
    for name, value in arguments.items():
        row = next((row for row in _TABLE if row[0].name == name and name != "lifetime"), None)
        if row is None:
            known = [key for key in _KEYS if key != "lifetime"]
            raise SettingsError(f"argument {name}: unknown setting{_near(name, known)}; known are {', '.join(known)}")
        loading.parsed(values, name, row[1], _plain(value), f"argument {name}")
    if "state_dir" in values:
        values["state_dir"] = Path(str(values["state_dir"])).expanduser().absolute()
    if "dialects" in values:
        given = cast("Mapping[str, str]", values["dialects"])
        values["dialects"] = MappingProxyType({**settings.dialects, **{name: Path(path).expanduser().absolute() for name, path in given.items()}})
    origin = MappingProxyType({**settings.origin, **dict.fromkeys(values, "argument")})
    return replace(settings, **values, origin=origin)  # pyright: ignore[reportArgumentType] - each was parsed to its type


def _plain(value: object) -> object:
    """As TOML would have it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, object]", value).items()}
    return value


class _Loading:
    """Collects or raises what is wrong."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.warnings: list[str] = []
        self.refused: set[str] = set()

    def wrong(self, text: str) -> None:
        if self._strict:
            raise SettingsError(text)
        self.warnings.append(text)

    def parsed(self, values: dict[str, object], name: str, parse: _Parse, value: object, where: str) -> bool:
        try:
            values[name] = parse(value)
        except _Wrong as error:
            self.wrong(f"{where}={value!r}: {error}" if isinstance(value, str) and "=" not in where and ":" not in where else f"{where}: {error}, not {value!r}")
            return False
        return True

    def check_endpoints(self, env: Mapping[str, str]) -> None:
        if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in env):
            return
        for signal in Signal:
            while True:
                try:
                    endpoints({name: value for name, value in env.items() if name not in self.refused}, signal)
                except SettingsError as error:
                    variable = re.match(r"OTEL_\w+", str(error))
                    if variable is None or variable[0] in self.refused:
                        raise
                    self.wrong(str(error))
                    self.refused.add(variable[0])
                else:
                    break

    def toml(self, file: Path | None, cwd: Path | None) -> tuple[Mapping[str, object], str, Path | None, dict[str, int]]:
        """The table of settings with its prefix in the file, the file, and the lines of its keys."""
        if file is not None:
            return self._read(file, asked_for=True) or (_NOTHING, "", file, {})
        try:
            start = (cwd or Path.cwd()).resolve()
        except OSError:
            return _NOTHING, "", None, {}
        for folder in (start, *start.parents):
            for name in ("spanbus.toml", "pyproject.toml"):
                candidate = folder / name
                if os.path.isfile(candidate):  # Path.is_file raises for a folder that may not be read
                    found = self._read(candidate, asked_for=False)
                    if found is not None:
                        return found
        return _NOTHING, "", None, {}

    def _read(self, file: Path, *, asked_for: bool) -> tuple[Mapping[str, object], str, Path, dict[str, int]] | None:
        mine = file.name != "pyproject.toml"
        try:
            text = file.read_bytes().decode()
        except OSError as error:
            if mine or asked_for:
                self.wrong(f"{file}: cannot be read: {error.strerror or error}")
            return None
        except UnicodeDecodeError as error:
            if mine or asked_for:
                self.wrong(f"{file}: is not UTF-8 at byte {error.start + 1}")
            return None
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            if mine or asked_for or "[tool.spanbus" in text:
                self.wrong(f"{file}{_place(str(error))}: is not TOML: {_without_place(str(error))}")
            return None
        tool = document.get("tool")
        table: object = cast("Mapping[str, object]", tool).get("spanbus") if isinstance(tool, Mapping) else None
        prefix = "tool.spanbus."
        if table is None and mine:
            table, prefix = document, ""
        if not isinstance(table, Mapping):
            if asked_for:
                self.wrong(f"{file}: has no table [tool.spanbus]")
            return None
        return cast("Mapping[str, object]", table), prefix, file, lines_of(text)


def _place(message: str) -> str:
    match = re.search(r"\(at line (\d+), column \d+\)", message)
    return f":{match[1]}" if match else ""


def _without_place(message: str) -> str:
    return re.sub(r"\s*\(at (?:line \d+, column \d+|end of document)\)", lambda match: "" if "line" in match[0] else " at the end of the file", message)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
