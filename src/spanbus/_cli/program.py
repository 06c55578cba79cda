"""One command from its call to the exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import IO, cast

from spanbus._cli import console
from spanbus._loggers import when_loaded
from spanbus.errors import RunNotFound, SpanbusError

_CANNOT_BE_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_CANNOT_BE_REACHED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.ENFILE,
    *_CANNOT_BE_WRITTEN,
)


def run(call: Callable[[], object]) -> None:
    """Errors that were raised on purpose are one line on stderr: exit code 2, or 1 for a run that is not there. So is a file
    that this user cannot reach, such as the state of another one.
    """
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
        if error.filename is not None and error.errno in _CANNOT_BE_REACHED:
            console.complain(f"{os.fsdecode(error.filename)}: {error.strerror}")
            code = 2
        elif error.filename is None and error.errno in _CANNOT_BE_WRITTEN:
            console.silence(sys.stdout)
            console.complain(f"the output cannot be written: {error.strerror}")
            code = 1
        else:
            raise
    else:
        return
    sys.exit(code)


def _flush() -> None:
    """While an error can still be told: at the end of the interpreter it would be a traceback."""
    stream = cast("IO[str] | None", sys.stdout)
    if stream is not None and not stream.closed:
        stream.flush()
