"""The keys that clients must show, from a file that may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from warmd.config import ApiKey, ConfigError, read_api_keys
from warmd.gateway.errors import GatewayError

_LOOK_EVERY_S = 1.0

FileState = tuple[int, int, int]
"""A file's ctime in ns, inode and size: when none of them changed, neither did the keys.

The ctime moves with every write, as the mtime does, and with a chmod that makes the file readable.
"""


class Keys:
    """Lines `name:sha256hex` of a file; what follows a `#` and blank lines do not count.

    Raises `GatewayError` where the file can't be read or is not as it should be. When it becomes so
    later, the old keys stay in force and `on_problem` gets one sentence, once for each state.
    """

    def __init__(
        self,
        path: Path,
        on_problem: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._on_problem = on_problem
        self._clock = clock
        self._state = _state(path)
        self._keys = _read(path)
        self._looked_at = clock()

    def holder(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the key that a request shows, None where it shows none of ours."""
        self._look_again()
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        shown = [token.strip()] if scheme.lower() == "bearer" else []
        shown.append(headers.get("x-api-key", ""))
        holder = None
        for key in filter(None, shown):
            digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
            for known in self._keys:
                # Every entry is compared, so that the time taken tells nothing.
                if hmac.compare_digest(digest, known.digest):
                    holder = known.name
        return holder

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = _read(self._path)
        except GatewayError as error:
            self._on_problem(f"{error}; the keys read before stay in force")


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        return read_api_keys(path)
    except ConfigError as error:
        raise GatewayError(str(error)) from None


def _state(path: Path) -> FileState | None:
    """Return None where the file can't be looked at; reading it says why."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ctime_ns, seen.st_ino, seen.st_size
