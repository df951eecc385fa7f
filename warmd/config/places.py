"""On which line each key of a TOML text stands; tomli gives values without their places."""

from __future__ import annotations

import re

import tomli

from warmd.config.problem import KeyPath

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)


def key_places(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of every key, table and array item of `text`.

    `text` must be TOML that tomli has read; on anything else the answer means nothing.
    A table that no header names stands where it is first mentioned.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.places


class _Scanner:
    """Walks over valid TOML and looks at nothing but where keys and items begin."""

    def __init__(self, text: str) -> None:
        self.places: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._tables_in: dict[KeyPath, int] = {}  # how many tables an array of tables has so far

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_GAP) or self._at < len(self._text):
            if self._at >= len(self._text):
                return
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        of_array = self._peek("[[")
        line = self._line
        self._at += 2 if of_array else 1
        keys = self._keys()
        self._at += 2 if of_array else 1
        path: KeyPath = ()
        for depth, key in enumerate(keys, start=1):
            path = (*path, key)
            if of_array and depth == len(keys):
                self.places.setdefault(path, line)
                self._tables_in[path] = self._tables_in.get(path, 0) + 1
            elif depth < len(keys):
                self.places.setdefault(path, line)
            else:
                self.places[path] = line  # the header itself beats an earlier mention
            if count := self._tables_in.get(path):
                path = (*path, count - 1)
                self.places.setdefault(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line
        path = table
        for key in self._keys():
            path = (*path, key)
            self.places.setdefault(path, line)
        self._at += 1  # the =
        self._skip(_BLANK)
        self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_BLANK)
            start = self._at
            quoted = self._text[start] in "\"'"
            self._string() if quoted else self._skip(_BARE_KEY)
            raw = self._text[start : self._at]
            keys.append(tomli.loads(f"key = {raw}")["key"] if quoted else raw)
            self._skip(_BLANK)
            if not self._peek("."):
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        if self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        elif self._peek('"') or self._peek("'"):
            self._string()
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        self._skip(_GAP)
        while not self._peek("]"):
            item = (*path, index)
            self.places[item] = self._line
            self._value(item)
            self._after_item()
            index += 1
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_GAP)
        while not self._peek("}"):
            self._pair(path)
            self._after_item()
        self._at += 1

    def _after_item(self) -> None:
        self._skip(_GAP)
        if self._peek(","):
            self._at += 1
            self._skip(_GAP)

    def _string(self) -> None:
        if not any(self._skip(kind) for kind in _STRINGS):
            raise ValueError(f"line {self._line}: a string without an end")

    def _peek(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Step over what `pattern` matches here; whether that was anything."""
        match = pattern.match(self._text, self._at)
        if match is None or match.end() == self._at:
            return False
        self._at = match.end()
        self._line += match[0].count("\n")
        return True
