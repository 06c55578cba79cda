"""Exceptions that spanbus raises.

SpanbusError
├── InputError               invalid input: exit code 2
│   ├── DefinitionError      an invalid workflow: cycle, unknown or duplicate name, unknown key
│   ├── SettingsError        an environment variable or TOML key with an unknown name or invalid value
│   ├── MissingExtra         a library of an optional extra is not installed; also an ImportError
│   ├── StreamError          a recorded stream cannot be read
│   └── DialectError         an invalid rule in a dialect
├── PhaseError               a phase did not succeed; raised to the caller of an action
│   ├── PhaseUnsuccessful    a false result, or an exit code other than zero
│   ├── PhaseTimeout         the work exceeded its timeout
│   ├── PhaseLost            the worker process is gone: killed, out of memory
│   └── PhaseRevoked         the work was revoked before it was done
├── BusError                 wrong use of the event bus
├── StoreError               the local store cannot be read, or is newer than this program
│   └── RunNotFound          no stored run matches: exit code 1
├── DeliveryError            telemetry could not be stored or sent; never raised into a workflow
└── BackendError             a spanbus server cannot start or be reached
"""

from __future__ import annotations


class SpanbusError(Exception):
    """Base of all spanbus errors. The message names the cause and what to do about it."""


class InputError(SpanbusError):
    """The input is invalid; the command line exits with 2."""


class DefinitionError(InputError):
    """A workflow definition is invalid."""


class SettingsError(InputError):
    """A setting has an unknown name or an invalid value."""


class MissingExtra(InputError, ImportError):
    """A library of an optional extra is not installed."""

    def __init__(self, extra: str, missing: str | None) -> None:
        super().__init__(
            f"this needs the extra {extra!r} ({missing or extra} is missing): pip install 'spanbus[{extra}]'"
        )
        self.extra = extra


class StreamError(InputError):
    """A recorded event stream cannot be read."""


class DialectError(InputError):
    """A dialect has an invalid rule."""


class PhaseError(SpanbusError):
    """A phase did not succeed."""


class PhaseUnsuccessful(PhaseError):
    """The work of a phase returned false or an exit code other than zero."""


class PhaseTimeout(PhaseError):
    """The work of a phase exceeded its timeout."""


class PhaseLost(PhaseError):
    """The worker process of a phase is gone."""


class PhaseRevoked(PhaseError):
    """The work of a phase was revoked by someone else; the phase counts as cancelled."""


class BusError(SpanbusError):
    """The event bus was used wrongly."""


class StoreError(SpanbusError):
    """The local store cannot be used."""


class RunNotFound(StoreError):
    """No stored run matches the request."""


class DeliveryError(SpanbusError):
    """Telemetry could not be stored or sent."""


class BackendError(SpanbusError):
    """A spanbus server cannot start or be reached."""
