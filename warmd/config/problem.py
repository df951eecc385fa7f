"""What is wrong in a config, where, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KeyPath = tuple[str | int, ...]
"""The keys (and places in arrays) that lead to a value: `("models", "qwen", "args", 0)`."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_GOT = 80
_FAR_TOO_LARGE = 10**_LONGEST_GOT


@dataclass(frozen=True)
class Problem:
    """One thing to mend. `line` is None where it is about the whole file."""

    file: Path
    line: int | None
    path: str  # "" where it is about no key
    message: str
    got: str | None = None
    may_come_back: bool = False  # by itself, as a disk does that isn't mounted yet

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}: {what} (got {self.got})" if self.got else f"{where}: {what}"


class ConfigError(Exception):
    """The config can't be used. The text is every problem of every file, one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Finding:
    """A problem before its file and line are known.

    `rests_on` names keys that were looked up in vain or with a certain value: if one of them is
    itself faulty, or a file could not be read, the finding would be a guess and is dropped.
    """

    path: KeyPath
    message: str
    got: str | None = None
    rests_on: tuple[KeyPath, ...] = ()
    may_come_back: bool = False


def quoted_key(key: str) -> str:
    """Write a key as TOML needs it."""
    return key if _BARE_KEY.fullmatch(key) else quoted(key)


def quoted(text: str) -> str:
    """Write a string as TOML reads it (its basic strings are JSON's, but for DEL)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def dotted(path: KeyPath) -> str:
    """Write a path for people: `models.qwen.args[0]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{quoted_key(key)}"
    return text.removeprefix(".")


def shown(value: object, path: KeyPath) -> str:
    """Show a value that was found; what may hold a secret shows only what kind of thing it is."""
    secret = "env" in path or "args" in path
    match value:
        case bool():
            return str(value).lower() if not secret else "a true or false"
        case int() | float():
            # Python writes no whole number of more than 4300 digits, which hexadecimal may hold.
            far = isinstance(value, int) and abs(value) >= _FAR_TOO_LARGE
            return str(value) if not secret and not far else "a number"
        case str():
            text = quoted(value)
            if len(text) > _LONGEST_GOT:
                text = text[:_LONGEST_GOT] + "…"
            return text if not secret else "a string"
        case dict():
            return "a table"
        case list() | tuple():
            return "an array" if value else "an empty array"
        case _:
            return "a date or time"
