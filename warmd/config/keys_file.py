"""Changes the file of API keys: whole or not at all, whoever reads it meanwhile."""

from __future__ import annotations

import fcntl
import grp
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from warmd.config.api_keys import check_api_keys, entry_name, key_name
from warmd.config.problem import ConfigError
from warmd.config.reading import content, unreadable

_NEW_MODE = 0o640
_SECRET_BYTES = 32


class KeysFileError(Exception):
    """The file stays as it is. The text is one sentence: why, and what to do."""


def key_names(file: Path) -> list[str]:
    """Return the names of the keys in `file`, in its order. Raises `KeysFileError`."""
    with _explained(file):
        return [name for name in map(entry_name, _lines(file)) if name is not None]


def add_key(file: Path, name: str, group: str) -> str:
    """Make a key, write its digest under `name` and return it: it stands nowhere else.

    A new file may be read by `group`, if there is one of that name. Raises `KeysFileError`.
    """
    try:
        key_name(name)
    except ValueError as wrong:
        raise KeysFileError(str(wrong)) from None
    key = f"sk-warmd-{secrets.token_urlsafe(_SECRET_BYTES)}"

    def added(lines: list[str]) -> list[str]:
        if name in map(entry_name, lines):
            raise KeysFileError(
                f"{file} has a key named {name} already: take another name, or take that key away: "
                f"warmctl key remove {name}"
            )
        return [*lines, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"]

    _change(file, added, group)
    return key


def remove_key(file: Path, name: str) -> None:
    """Take every key named `name` out. Raises `KeysFileError`, also where there is none."""

    def removed(lines: list[str]) -> list[str]:
        left = [line for line in lines if entry_name(line) != name]
        if len(left) == len(lines):
            raise KeysFileError(f"{file} has no key named {name}; `warmctl key list` names them")
        if not any(map(entry_name, left)):
            # The daemon takes no file without keys: the one taken away would go on being good.
            raise KeysFileError(
                f"{name} is the only one in {file}, and warmd takes no file without keys: the key "
                "would stay good; add another one first"
            )
        return left

    _change(file, removed)


def _change(file: Path, change: Callable[[list[str]], list[str]], group: str | None = None) -> None:
    """Replace `file` by what `change` makes of its lines; others who change it wait for us."""
    with _explained(file):
        real = file.resolve()  # a link stays a link
        folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            lines = _lines(real, if_missing=None if group is None else [])
            _replace(real, "\n".join(change(lines)) + "\n", group)
            os.fsync(folder)
        finally:
            os.close(folder)


def _lines(file: Path, if_missing: list[str] | None = None) -> list[str]:
    try:
        lines = content(file).decode(errors="replace").splitlines()
    except FileNotFoundError:
        if if_missing is None:
            raise
        return if_missing
    if any(map(str.strip, lines)) and (problems := check_api_keys(file)):
        faulty = [each for each in problems if each.line is not None]
        if faulty:
            raise KeysFileError(str(ConfigError(faulty)))
    return lines


def _replace(file: Path, text: str, group: str | None) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            try:
                was = file.stat()
            except FileNotFoundError:
                os.fchmod(descriptor, _NEW_MODE)
                with suppress(KeyError, PermissionError):
                    os.fchown(descriptor, -1, grp.getgrnam(group or "").gr_gid)
            else:
                made = os.fstat(descriptor)
                if (was.st_uid, was.st_gid) != (made.st_uid, made.st_gid):
                    os.fchown(descriptor, was.st_uid, was.st_gid)
                os.fchmod(descriptor, was.st_mode & 0o7777)
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        Path(draft).replace(file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Raise what the system objects to as a `KeysFileError`."""
    try:
        yield
    except PermissionError as error:
        where = error.filename or file
        raise KeysFileError(
            f"{file} stays as it is: {where} may not be read or changed ({error.strerror}); ask as "
            "its owner, or as root"
        ) from None
    except OSError as error:
        raise KeysFileError(f"{file}: {unreadable(error)}") from None
