"""The keys that clients must show, from a file that may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from warmd.gateway.errors import GatewayError

_LINE = re.compile(r"([^\s:#][^:]*?)\s*:\s*([0-9a-fA-F]{64})")
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
        self._state: FileState | None = _state(path)
        self._keys = read_keys(path)
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
            for name, known in self._keys:
                # Every entry is compared, so that the time taken tells nothing.
                if hmac.compare_digest(digest, known):
                    holder = name
        return holder

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        state: FileState | None = None
        try:
            state = _state(self._path)
            if state == self._state:
                return
            self._keys = read_keys(self._path)
        except GatewayError as error:
            if state is None and self._state is None:
                return
            self._on_problem(f"{error} The keys read before stay in force.")
        self._state = state


def read_keys(path: Path) -> tuple[tuple[str, str], ...]:
    """Read a file of keys as (name, SHA-256 in hex) pairs; raises `GatewayError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    keys = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            # The line itself is not said: it may be a key that somebody pasted.
            raise GatewayError(
                f"{path}:{number}: not a line `name:sha256hex`; make the second half with "
                "`printf %s KEY | sha256sum`."
            )
        keys.append((found[1], found[2].lower()))
    if not keys:
        raise GatewayError(
            f"{path} holds no key, which would lock everybody out; write a line `name:sha256hex`."
        )
    return tuple(keys)


def _state(path: Path) -> FileState:
    try:
        seen = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return seen.st_ctime_ns, seen.st_ino, seen.st_size


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> GatewayError:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return GatewayError(
        f"The key file {path} can't be read: {reason}; "
        "make it readable for the daemon or take gateway.api_keys out of the config."
    )
