"""Run one command and convert its errors to messages and an exit status."""

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
    """Run a command. Expected errors are one line on stderr, with exit code 2, or 1 for a run that does not exist.

    They include files that the user cannot access, such as another user's state directory.
    """
    console.open_closed_streams()
    console.escape_unencodable()
    when_loaded(console.show_log_messages)
    try:
        try:
            call()
        finally:
            _flush()
    except RunNotFound as error:
        console.error(error)
        code = 1
    except SpanbusError as error:
        console.error(error)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader closed the pipe, as head does
        console.silence(sys.stdout)
        code = 141
    except OSError as error:
        if error.filename is not None and error.errno in _CANNOT_BE_REACHED:
            console.error(f"{os.fsdecode(error.filename)}: {error.strerror}")
            code = 2
        elif error.filename is None and error.errno in _CANNOT_BE_WRITTEN:
            console.silence(sys.stdout)
            console.error(f"the output cannot be written: {error.strerror}")
            code = 1
        else:
            raise
    else:
        return
    sys.exit(code)


def _flush() -> None:
    """Flush stdout while an error can be reported; at interpreter exit it would be a traceback."""
    stream = cast("IO[str] | None", sys.stdout)
    if stream is not None and not stream.closed:
        stream.flush()
