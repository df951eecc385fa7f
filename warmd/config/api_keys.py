"""What is wrong with a file of API keys: `name:sha256hex` a line, `#` begins a comment.

No message ever shows what a line holds: it might be a key that was pasted in place of its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from warmd.config.problem import Problem
from warmd.config.reading import unreadable

_ENTRY = re.compile(r"[^\s:#][^:]*:\s*[0-9a-fA-F]{64}")
_HOW = 'make a digest with: printf %s "$KEY" | sha256sum'
_IF_MISSING = "there is no such file: make it, with one line NAME:SHA256 for each key"


def check_api_keys(file: Path) -> Iterator[Problem]:
    """Find every faulty line, or why the file can't be used at all."""
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError:
        yield _problem(file, None, "is not UTF-8 text: save the file as UTF-8")
        return
    except OSError as error:
        yield _problem(file, None, unreadable(error, _IF_MISSING))
        return
    entries = [line.partition("#")[0].strip() for line in text.splitlines()]
    for number, entry in enumerate(entries, start=1):
        if entry and not _ENTRY.fullmatch(entry):
            yield _problem(file, number, f"must be NAME:SHA256, with 64 hex digits; {_HOW}")
    if not any(entries):
        yield _problem(file, None, f"holds no key, which would lock everybody out; {_HOW}")


def _problem(file: Path, line: int | None, message: str) -> Problem:
    return Problem(file, line, "gateway.api_keys", message)
