"""Exceptions that spanbus raises.

SpanbusError
├── InputError               what a person gave us cannot be used: exit code 2
│   ├── DefinitionError      a workflow that cannot be built: cycle, unknown or duplicate name, unknown key
│   ├── SettingsError        an environment variable or TOML key with a wrong name or value
│   ├── MissingExtra         an optional library that is needed and not installed; an ImportError too
│   ├── StreamError          a recorded stream that cannot be read
│   └── DialectError         a dialect file with a rule that cannot be used
├── PhaseError               a phase that did not succeed, raised to the caller of an action
│   ├── PhaseUnsuccessful    the work said no: a false result or an exit code
│   ├── PhaseTimeout         the work took longer than it may
│   ├── PhaseLost            who did the work is gone: killed, out of memory
│   └── PhaseRevoked         somebody else took the work back before it was done
├── BusError                 wrong use of the event bus
├── StoreError               the local store cannot be read or is newer than this program
│   └── RunNotFound          no stored run matches: exit code 1
├── DeliveryError            telemetry could not be kept or sent; never raised into a workflow
└── BackendError             a server of ours cannot start or be reached
"""

from __future__ import annotations


class SpanbusError(Exception):
    """The root of all errors raised on purpose; its text says what, which one and what to do."""


class InputError(SpanbusError):
    """Input that cannot be used; the command line exits with 2."""


class DefinitionError(InputError):
    """A workflow cannot be built from what was given."""


class SettingsError(InputError):
    """A setting has an unknown name or a value that cannot be used."""


class MissingExtra(InputError, ImportError):
    """A library of an optional extra is needed and not installed."""

    def __init__(self, extra: str, missing: str | None) -> None:
        super().__init__(
            f"this needs the extra {extra!r} ({missing or extra} is missing): pip install 'spanbus[{extra}]'"
        )
        self.extra = extra


class StreamError(InputError):
    """A recorded event stream cannot be read."""


class DialectError(InputError):
    """A dialect has a rule that cannot be used."""


class PhaseError(SpanbusError):
    """A phase did not succeed."""


class PhaseUnsuccessful(PhaseError):
    """The work of a phase returned false or an exit code other than zero."""


class PhaseTimeout(PhaseError):
    """The work of a phase took longer than its time-out."""


class PhaseLost(PhaseError):
    """The process that did the work of a phase is gone."""


class PhaseRevoked(PhaseError):
    """The work of a phase was taken back by somebody else; the phase counts as cancelled."""


class BusError(SpanbusError):
    """The event bus was used in a way that it cannot serve."""


class StoreError(SpanbusError):
    """The local store cannot be used."""


class RunNotFound(StoreError):
    """No stored run matches what was asked for."""


class DeliveryError(SpanbusError):
    """Telemetry could not be kept or sent."""


class BackendError(SpanbusError):
    """A server of ours cannot start or be reached."""
