"""Opens files that others put there: whatever a path leads to, to open it never waits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KIND = "it is no regular file"


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises `OSError`, also where it is a folder, a socket or a device.

    To open a FIFO would wait for somebody who writes to it, fifo(7).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that isn't there
            raise OSError(errno.EINVAL, _KIND, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _KIND, str(path))
    return os.fdopen(descriptor, "rb")
