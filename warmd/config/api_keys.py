"""The file of API keys: `name:sha256hex` a line, `#` begins a comment.

No message ever shows what a line holds: it might be a key that was pasted in place of its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from warmd.config.problem import ConfigError, Problem
from warmd.config.reading import content, unreadable

_ENTRY = re.compile(r"([^\s:#][^:]*?)\s*:\s*([0-9a-fA-F]{64})")
_HOW = "`warmctl key add NAME` makes a key and writes its line"
_LONGEST_NAME = 64
_IF_MISSING = f"there is no such file; {_HOW}"


@dataclass(frozen=True)
class ApiKey:
    """Who may ask, and the SHA-256 of the key that they show, in lower-case hex."""

    name: str
    digest: str = field(repr=False)


def key_name(name: str) -> str:
    """Return `name`; raises `ValueError` where no line of the file could begin with it."""
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or set(name) & set(":#"):
        raise ValueError(
            f"the name of a key is 1 to {_LONGEST_NAME} printable characters, none of them : or #"
        )
    if name != name.strip():
        raise ValueError("the name of a key has no space around it")
    return name


def read_api_keys(file: Path) -> tuple[ApiKey, ...]:
    """Return the keys in `file`. Raises `ConfigError` with every faulty line."""
    found = list(_read(file))
    if problems := [each for each in found if isinstance(each, Problem)]:
        raise ConfigError(problems)
    return tuple(each for each in found if isinstance(each, ApiKey))


def check_api_keys(file: Path) -> tuple[Problem, ...]:
    """Find every faulty line, or why the file can't be used at all."""
    return tuple(each for each in _read(file) if isinstance(each, Problem))


def entry_name(line: str) -> str | None:
    """Return the name of the key in a line of the file; None where it holds none."""
    match = _ENTRY.fullmatch(line.partition("#")[0].strip())
    return None if match is None else match[1]


def _read(file: Path) -> Iterator[ApiKey | Problem]:
    try:
        text = content(file).decode()
    except UnicodeDecodeError:
        yield _problem(file, None, "is not UTF-8 text: save the file as UTF-8")
        return
    except OSError as error:
        yield _problem(file, None, unreadable(error, _IF_MISSING))
        return
    entries = [line.partition("#")[0].strip() for line in text.splitlines()]
    for number, entry in enumerate(entries, start=1):
        if not entry:
            continue
        if (match := _ENTRY.fullmatch(entry)) is not None:
            yield ApiKey(match[1], match[2].lower())
        else:
            yield _problem(file, number, f"must be NAME:SHA256, with 64 hex digits; {_HOW}")
    if not any(entries):
        yield _problem(file, None, f"holds no key, which would lock everybody out; {_HOW}")


def _problem(file: Path, line: int | None, message: str) -> Problem:
    return Problem(file, line, "gateway.api_keys", message)
