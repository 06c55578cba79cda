"""One command from its call to the exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import IO, cast

from spanbus._cli import console
from spanbus._loggers import when_loaded
from spanbus.errors import RunNotFound, SpanbusError

_CANNOT_BE_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def run(call: Callable[[], object]) -> None:
    """Errors that were raised on purpose are one line on stderr: exit code 2, or 1 for a run that is not there."""
    console.open_what_is_closed()
    console.spell_what_cannot_be_shown()
    when_loaded(console.take_what_is_logged)
    try:
        try:
            call()
        finally:
            _flush()
    except RunNotFound as error:
        console.complain(error)
        code = 1
    except SpanbusError as error:
        console.complain(error)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of our output left, as head does
        console.silence(sys.stdout)
        code = 141
    except OSError as error:
        if error.errno not in _CANNOT_BE_WRITTEN or error.filename is not None:
            raise
        console.silence(sys.stdout)
        console.complain(f"the output cannot be written: {error.strerror}")
        code = 1
    else:
        return
    sys.exit(code)


def _flush() -> None:
    """While an error can still be told: at the end of the interpreter it would be a traceback."""
    stream = cast("IO[str] | None", sys.stdout)
    if stream is not None and not stream.closed:
        stream.flush()
