"""From files to one tree of keys, in which every key still knows its file and line."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tomli

from warmd.config.places import key_places
from warmd.config.problem import KeyPath, Problem, dotted

Tree = dict[str, object]


@dataclass(frozen=True)
class Document:
    """One TOML file that could be read."""

    file: Path
    keys: Tree
    places: dict[KeyPath, int]


NO_SUCH_FILE = "there is no such file"
_BYTES_MAX = 4 * 2**20


def read_document(file: Path, if_missing: str = NO_SUCH_FILE) -> Document | Problem:
    """Read one file; what stands in the way of that is one problem."""
    try:
        text = content(file).decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Problem(file, line, "", "is not UTF-8 text: save the file as UTF-8")
    except OSError as error:
        return Problem(file, None, "", unreadable(error, if_missing))
    text = text.replace("\r\n", "\n")
    try:
        return Document(file, tomli.loads(text), key_places(text))
    except tomli.TOMLDecodeError as error:
        return Problem(file, error.lineno, "", f"not TOML: {error.msg} (column {error.colno})")
    except RecursionError:
        return Problem(file, None, "", "not a config: its arrays or tables are nested too deep")
    except ValueError:  # of int(), which takes no more than 4300 digits
        return Problem(file, None, "", "not a config: it holds a number of thousands of digits")


def content(file: Path) -> bytes:
    """Read a regular file of a sensible size: a device or FIFO never ends. Raises `OSError`."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > _BYTES_MAX:
            raise OSError(errno.EFBIG, "it is far too large")
        return opened.read(_BYTES_MAX)


def unreadable(error: OSError, if_missing: str = NO_SUCH_FILE) -> str:
    """Say in a sentence why something on disk can't be read, and what to do."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return if_missing
        case PermissionError():
            return f"user {_user()} may not read it: give it and its folders read permission"
        case IsADirectoryError():
            return "is a folder, not a file"
        case _:
            return f"can't be read: {error.strerror}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@dataclass
class Merged:
    """All files as one tree."""

    keys: Tree = field(default_factory=dict)
    places: dict[KeyPath, tuple[Path, int]] = field(default_factory=dict)

    def where(self, path: KeyPath) -> tuple[Path, int] | None:
        """Return the place of a key, or of the nearest table around it that any file has."""
        for length in range(len(path), 0, -1):
            if place := self.places.get(path[:length]):
                return place
        return None


def merge(documents: Iterable[Document]) -> tuple[Merged, list[Problem]]:
    """Put the tables of all files together. A key or a model stands in one file only."""
    merged = Merged()
    clashes: list[Problem] = []
    for document in documents:
        clashes += _graft(merged, merged.keys, document, document.keys, ())
    return merged, clashes


def _graft(
    merged: Merged, into: Tree, document: Document, keys: Tree, path: KeyPath
) -> Iterator[Problem]:
    for key, value in keys.items():
        here = (*path, key)
        line = document.places.get(here, 1)
        if key not in into:
            into[key] = {} if isinstance(value, dict) else value
            merged.places[here] = (document.file, line)
            _place_items(merged, value, here, document)
        elif not _may_be_shared(here, value, into[key]):
            file, other_line = merged.places[here]
            message = f"is already set in {file}:{other_line}: keep one of the two"
            yield Problem(document.file, line, dotted(here), message)
            continue
        mine = into[key]
        if isinstance(value, dict) and isinstance(mine, dict):
            yield from _graft(merged, mine, document, value, here)


def _may_be_shared(path: KeyPath, one: object, other: object) -> bool:
    """Whether two files may both write to `path`: tables yes, but a model's table never."""
    is_a_model = len(path) == 2 and path[0] == "models"
    return isinstance(one, dict) and isinstance(other, dict) and not is_a_model


def _place_items(merged: Merged, value: object, path: KeyPath, document: Document) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            here = (*path, index)
            merged.places[here] = (document.file, document.places.get(here, 1))
            _place_items(merged, item, here, document)
    elif isinstance(value, dict) and isinstance(path[-1], int):
        for key, item in value.items():
            here = (*path, key)
            merged.places[here] = (document.file, document.places.get(here, 1))
            _place_items(merged, item, here, document)
