"""The daemon's folders, its own while it lives: a second daemon on them is refused."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from warmd.config import Settings


class StartUpError(Exception):
    """The daemon can't start. The text is one sentence: what, why, what to do."""


class Folders:
    """Makes and locks the folders on entering; raises `StartUpError`."""

    def __init__(self, settings: Settings) -> None:
        host = settings.host
        self._folders = dict.fromkeys((host.run_dir, host.state_dir, host.cache_dir))
        self._locks: list[int] = []

    def __enter__(self) -> None:
        try:
            for folder in self._folders:
                self._take(folder)
        except BaseException:
            self.__exit__()
            raise

    def _take(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._locks.append(os.open(folder / "warmd.lock", flags, 0o600))
            fcntl.flock(self._locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartUpError(
                f"another warmd runs on {folder}; stop it first, or give this one folders of its "
                "own: run_dir, state_dir and cache_dir under [host]"
            ) from None
        except OSError as error:
            what = error.filename or folder
            raise StartUpError(
                f"{what} can't be made or written to: {error.strerror}; make it, "
                "or set the folder under [host] to one that this user may write to"
            ) from None

    def __exit__(self, *_: object) -> None:
        for lock in self._locks:
            os.close(lock)
