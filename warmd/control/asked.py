"""What a request to the admin API asks for, read and checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from warmd.control.refusal import RefusedError
from warmd.ladder import Rung

_DAY_S = 86400.0
_LONGEST_S = 3653 * _DAY_S
_FARTHEST_S = 31 * _DAY_S
_AUTO = "auto"
_CHOICES = (Rung.HOT.value, Rung.ASLEEP.value, Rung.STAGED.value, Rung.COLD.value, _AUTO)


def read_asked(body: bytes, keys: Sequence[str]) -> Mapping[str, object]:
    """Return the JSON object of a body; raises `RefusedError` for unknown keys."""
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from error
    if not isinstance(asked, dict):
        known = ", ".join(f'"{key}": …' for key in keys)
        raise RefusedError(400, f"the body must be an object: {{{known}}}")
    unknown = asked.keys() - set(keys)
    if unknown:
        raise RefusedError(
            400, f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(keys)}"
        )
    return asked


def read_file(value: object) -> Path | None:
    """Return a file's path, None where none is named."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value.startswith("/") and b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass  # half of a character, which JSON can write and no file's name can hold
    raise RefusedError(400, '"config" must be the whole path of a file, or null')


def read_word(asked: Mapping[str, object], key: str) -> str:
    """Return a string that must be there."""
    word = asked.get(key)
    if not isinstance(word, str):
        raise RefusedError(400, f'"{key}" must be a string')
    return word


def read_since(text: str | None, now: float, default_s: float = _DAY_S) -> float:
    """Return a time in Unix seconds, by default `default_s` before `now`."""
    if text is None:
        return now - default_s
    try:
        since = float(text)
    except ValueError:
        since = math.nan
    if not math.isfinite(since):
        raise RefusedError(400, f"since must be a time in Unix seconds, not {text}")
    return since


def read_ahead(value: object) -> float | None:
    """Return how many seconds to look ahead, None where that isn't asked."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(400, '"next" must be a number of seconds, or null')
    if not (0 < value <= _FARTHEST_S):
        raise RefusedError(400, '"next" must be more than 0 seconds, and at most 31 days')
    return float(value)


def read_rung(word: str) -> Rung | None:
    """Return a rung, None for auto."""
    if word not in _CHOICES:
        raise RefusedError(400, f"no rung is named {word}: choose {', '.join(_CHOICES)}")
    return None if word == _AUTO else Rung(word)


def read_replicas(value: object, rung: Rung | None) -> int | None:
    """Return how many replicas `rung` is to hold for, None where that isn't said."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RefusedError(400, '"replicas" must be a whole number above 0, or null')
    if rung is None or rung < Rung.ASLEEP:
        raise RefusedError(400, f"{rung or _AUTO} has no replicas: it is hot and asleep that have")
    return value


def read_seconds(value: object, rung: Rung | None) -> float | None:
    """Return for how long `rung` shall hold, None without an end."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(400, '"for" must be a number of seconds, or null')
    if not (0 < value <= _LONGEST_S):
        raise RefusedError(400, '"for" must be more than 0 seconds, and at most ten years')
    if rung is None:
        raise RefusedError(400, "auto has no end: it gives the model back to policy at once")
    return float(value)
