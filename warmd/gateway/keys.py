"""The keys that clients must show, from a file that may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from warmd.config import ConfigError, read_api_keys
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
        self._state = state_of(path)
        self._keys = _read(path)
        self._look_at = clock() + _LOOK_EVERY_S

    def holder(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the key that a request shows, None where it shows none of ours."""
        return self.whose(headers.get("Authorization", ""), headers.get("x-api-key", ""))

    def whose(self, authorization: str, api_key: str = "") -> str | None:
        """Return the holder of the key in the two headers, as text that was decoded from bytes.

        Bytes that are no UTF-8 come as surrogates. "" stands for a header that isn't there.
        """
        if self._clock() >= self._look_at:
            self._look_again()
        holder = None
        if authorization:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() == "bearer" and (token := token.strip()):
                holder = self._holder_of(token)
        return (self._holder_of(api_key) or holder) if api_key else holder

    def _holder_of(self, key: str) -> str | None:
        # What was once found isn't remembered by the key that was shown: to look it up takes a
        # time that depends on it. The digest of a guess can't be steered towards one of ours, and
        # every entry is compared, so that the time taken tells nothing.
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        holder = None
        for known, name in self._keys:
            if hmac.compare_digest(digest, known):
                holder = name
        return holder

    def _look_again(self) -> None:
        self._look_at = self._clock() + _LOOK_EVERY_S
        state = state_of(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = _read(self._path)
        except GatewayError as error:
            self._on_problem(f"{error}; the keys read before stay in force")


def _read(path: Path) -> tuple[tuple[bytes, str], ...]:
    try:
        return tuple((bytes.fromhex(each.digest), each.name) for each in read_api_keys(path))
    except ConfigError as error:
        raise GatewayError(str(error)) from None


def state_of(path: Path) -> FileState | None:
    """Return what changes whenever a file does; None where it can't be looked at."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ctime_ns, seen.st_ino, seen.st_size
