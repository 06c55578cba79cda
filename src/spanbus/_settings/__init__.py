"""Settings from arguments, environment, TOML files and defaults.

Precedence: ``SPANBUS_*`` variables, then ``[tool.spanbus]`` of the nearest ``pyproject.toml`` (or the top level of the nearest
``spanbus.toml``), then the user's own ``spanbus.toml``, then the defaults. ``OTEL_*`` variables keep their meaning in the
OpenTelemetry specification and are only validated here. An error names the setting, its place and the valid values.

A file found by searching may come with a cloned repository: it may set only the keys of :data:`FOUND_FILE_MAY_SET`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

from spanbus._delivery.endpoints import configured, endpoints
from spanbus._loggers import Logger
from spanbus._otlp.signals import OTLP_SIGNALS
from spanbus._sanitize import one_line
from spanbus._settings.files import (
    File,
    Origins,
    default_state_dir,
    expand_state_dir,
    is_open_to_others,
    read_project_file,
    read_user_file,
    user_file,
)
from spanbus._settings.otel import OTEL, OTEL_VARIABLES, sampler_ratio
from spanbus._settings.settings import STORE_NAME, ExceptionSignal, Settings
from spanbus._settings.table import (
    COMMAND_VARIABLES,
    FOUND_FILE_MAY_SET,
    KEYS,
    SETTINGS,
    TABLE,
    VARIABLES,
    Setting,
)
from spanbus._settings.values import InvalidValue, Parse
from spanbus._suggest import did_you_mean
from spanbus._toml_lines import NO_LINES
from spanbus.errors import SettingsError

__all__ = [
    "FOUND_FILE_MAY_SET",
    "OTEL_VARIABLES",
    "SETTINGS",
    "STORE_NAME",
    "Setting",
    "Settings",
    "check_file",
    "is_open_to_others",
    "load_settings",
    "user_file",
    "with_arguments",
]

logger = Logger("spanbus")


def load_settings(
    file: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    strict: bool = True,
    tell: bool = True,
    workflows: bool = True,
) -> Settings:
    """Resolve all settings. ``file`` replaces the search from ``cwd`` upwards.

    ``workflows`` False is faster: it skips the workflows of the file and their errors.

    Raises :class:`~spanbus.errors.SettingsError`: one line that names variable or file, key and line. With ``strict`` False
    (a library in a service) an unusable value falls back to its default and is listed in ``warnings``. If a found file sets
    more than it may, the logger ``spanbus`` warns once per process, unless ``tell`` is False.
    """
    env = os.environ if env is None else env
    loading = _Loading(strict)
    values: dict[str, object] = {}
    origin: dict[str, str | Callable[[], str]] = dict.fromkeys(KEYS, "default")
    own = read_user_file(env, loading.problem, workflows=workflows)
    if own is not None:
        loading.table(own, values, origin)
    project = read_project_file(file, cwd, loading.problem, workflows=workflows)
    if project is not None:
        loading.table(project, values, origin, trusted=file is not None)
    if tell:
        _warn_once(loading.ignored)
    for name in sorted(env):
        if not name.startswith("SPANBUS_") or name in COMMAND_VARIABLES:
            continue
        row = next((row for row in TABLE if row[0].env == name), None)
        if row is None:
            loading.problem(
                f"{name}: unknown variable{did_you_mean(name, VARIABLES, quoted=False)}; known are {', '.join(VARIABLES)}"
            )
        elif env[name].strip() and loading.parsed(values, row[0].name, row[1], env[name], name):
            origin[row[0].name] = name
    otel: dict[str, object] = {}
    for name, parse in OTEL.items():
        value = env.get(name, "").strip()
        if value and not loading.parsed(otel, name, parse, value, name):
            loading.refused.add(name)
    ratio = env.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if (
        ratio
        and "ratio" in str(otel.get("OTEL_TRACES_SAMPLER"))
        and not loading.parsed(otel, "ratio", sampler_ratio, ratio, "OTEL_TRACES_SAMPLER_ARG")
    ):
        loading.refused.add("OTEL_TRACES_SAMPLER_ARG")
    loading.check_endpoints(env)
    if "state_dir" in values:
        values["state_dir"] = expand_state_dir(str(values["state_dir"]))
    else:
        values["state_dir"] = default_state_dir()
    state_dir = values["state_dir"]
    if tell and is_open_to_others(state_dir):
        _warn_once(
            [
                f"the state directory {state_dir} can be written by everybody; chmod o-w {state_dir}, or set SPANBUS_STATE_DIR"
            ]
        )
    dialects = cast("dict[str, Path]", values.pop("dialects", {}))
    shown = project if project is not None and (project.table or own is None) else own
    tables: object = shown.table.get("workflows", {}) if shown is not None else {}
    if not isinstance(tables, Mapping):
        assert shown is not None
        loading.problem(f"{shown.path}: {shown.prefix}workflows: must be a table of workflows")
        tables = {}
    return Settings(
        **values,  # pyright: ignore[reportArgumentType] - each was parsed to its type
        dialects=MappingProxyType(dialects),
        sdk_disabled=otel.get("OTEL_SDK_DISABLED") == "true",
        exception_signal=cast(
            "ExceptionSignal | None", otel.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN")
        ),
        endpoint_configured=configured(
            {name: value for name, value in env.items() if name not in loading.refused}
        ),
        file=shown.path if shown is not None else None,
        origin=Origins(origin),
        warnings=tuple(loading.warnings),
        ignored=tuple(loading.ignored),
        refused=frozenset(loading.refused),
        tables=MappingProxyType(dict(cast("Mapping[str, object]", tables))),
        lines=shown.lines if shown is not None else NO_LINES,
        prefix=shown.prefix if shown is not None else "",
    )


_warned: set[str] = set()


def _warn_once(texts: Iterable[str]) -> None:
    for text in texts:
        if text not in _warned:
            _warned.add(text)
            logger.warning("%s", one_line(text, 2_000))


def check_file(file: Path) -> None:
    """Raise :class:`~spanbus.errors.SettingsError` for a file that cannot be read or holds no settings."""
    read_project_file(file, None, _Loading(strict=True).problem)


def with_arguments(settings: Settings, arguments: Mapping[str, object]) -> Settings:
    """Return ``settings`` with keyword arguments of a caller. Raises :class:`~spanbus.errors.SettingsError`."""
    loading, values = _Loading(strict=True), dict[str, object]()
    for name, value in arguments.items():
        row = next((row for row in TABLE if row[0].name == name and name != "lifetime"), None)
        if row is None:
            known = [key for key in KEYS if key != "lifetime"]
            raise SettingsError(
                f"argument {name}: unknown setting{did_you_mean(name, known, quoted=False)}; known are {', '.join(known)}"
            )
        loading.parsed(values, name, row[1], _plain(value), f"argument {name}")
    if "state_dir" in values:
        values["state_dir"] = Path(str(values["state_dir"])).expanduser().absolute()
    if "dialects" in values:
        given = cast("Mapping[str, str]", values["dialects"])
        values["dialects"] = MappingProxyType(
            {
                **settings.dialects,
                **{name: Path(path).expanduser().absolute() for name, path in given.items()},
            }
        )
    origin = MappingProxyType({**settings.origin, **dict.fromkeys(values, "argument")})
    return settings._replace(**values, origin=origin)  # pyright: ignore[reportArgumentType] - each was parsed to its type


def _plain(value: object) -> object:
    """Convert to a value of TOML."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, object]", value).items()}
    return value


class _Loading:
    """Collector of problems; with ``strict`` the first one is raised."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.warnings: list[str] = []
        self.ignored: list[str] = []
        self.refused: set[str] = set()

    def problem(self, text: str) -> None:
        if self._strict:
            raise SettingsError(text)
        self.warnings.append(text)

    def parsed(
        self,
        values: dict[str, object],
        name: str,
        parse: Parse,
        value: object,
        source: str | Callable[[], str],
    ) -> bool:
        """Parse ``value`` into ``values``; False if it is invalid. ``source`` names its variable, argument or key."""
        try:
            values[name] = parse(value)
        except InvalidValue as error:
            where = source if isinstance(source, str) else source()
            self.problem(
                f"{where}={value!r}: {error}"
                if isinstance(value, str) and "=" not in where and ":" not in where
                else f"{where}: {error}, not {value!r}"
            )
            return False
        return True

    def check_endpoints(self, env: Mapping[str, str]) -> None:
        if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in env):
            return
        for signal in OTLP_SIGNALS:
            while True:
                try:
                    endpoints(
                        {name: value for name, value in env.items() if name not in self.refused},
                        signal,
                    )
                except SettingsError as error:
                    variable = re.match(r"OTEL_\w+", str(error))
                    if variable is None or variable[0] in self.refused:
                        raise
                    self.problem(str(error))
                    self.refused.add(variable[0])
                else:
                    break

    def table(
        self,
        file: File,
        values: dict[str, object],
        origin: dict[str, str | Callable[[], str]],
        *,
        trusted: bool = True,
    ) -> None:
        """Add the settings of a file. They override earlier ones, except for patterns, keys and dialects, which accumulate."""
        refused: list[str] = []
        folder = file.path.absolute().parent
        for key, value in file.table.items():
            if key == "workflows":
                continue
            at = partial(file.at, key)
            row = next((row for row in TABLE if row[0].name == key), None)
            if row is None:
                self.problem(
                    f"{at()}: {file.prefix}{key}: unknown key{did_you_mean(key, (*KEYS, 'workflows'), quoted=False)}; known are {', '.join((*KEYS, 'workflows'))}"
                )
                continue
            given: dict[str, object] = {}
            if not self.parsed(
                given, key, row[1], value, lambda at=at, key=key: f"{at()}: {file.prefix}{key}"
            ):
                continue
            if not trusted and key not in FOUND_FILE_MAY_SET and given != {"redact": True}:
                refused.append(key)
                continue
            if key in ("state_dir", "nats_creds"):
                given[key] = str(folder / Path(str(given[key])).expanduser())
            elif key in ("redact_patterns", "payload_allow"):
                before = cast("tuple[str, ...]", values.get(key, ()))
                given[key] = tuple(dict.fromkeys((*before, *cast("tuple[str, ...]", given[key]))))
            elif key == "dialects":
                paths = cast("dict[str, str]", given[key]).items()
                given[key] = {
                    **cast("dict[str, Path]", values.get(key, {})),
                    **{name: folder / Path(path).expanduser() for name, path in paths},
                }
            values.update(given)
            origin[key] = at
        if refused:
            self.ignored.append(
                f"{file.at(refused[0])}: {', '.join(refused)}: not taken from a file that was found here; "
                f"set it in the environment or in {user_file()}, or name the file with --file"
            )
