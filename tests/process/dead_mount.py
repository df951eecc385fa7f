"""A mount that hangs as a dead network mount does: an autofs whose automount daemon never answers.

Who looks up anything in it waits in the kernel, in state D, until it is killed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MNT_DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def a_dead_mount(on: Path) -> Iterator[None]:
    """Everything below `on` hangs for everybody, until it is unmounted in the end."""
    if os.geteuid():
        pytest.skip("only root can mount an autofs")
    answers, asks = os.pipe()  # that nobody reads from
    # What the automount daemon's own group looks up doesn't wait for it: that is nobody else's.
    daemon = subprocess.Popen(["sleep", "inf"], start_new_session=True)
    options = f"fd={asks},pgrp={daemon.pid},minproto=5,maxproto=5,indirect".encode()
    try:
        if libc.mount(b"nobody", os.fsencode(on), b"autofs", 0, options):
            pytest.skip(f"this kernel mounts no autofs: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert libc.umount2(os.fsencode(on), _MNT_DETACH) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(answers)
        os.close(asks)  # who still waits hears that nothing is there
