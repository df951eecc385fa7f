from __future__ import annotations

import io
import logging
import re

import pytest

from warmd.history import TerminalFormatter, terminal_format

MOVE = {"model": "tiny", "replica": "tiny.0", "from": "staged", "to": "hot"}


def line(level: int, message: str, facts: dict[str, object], *, colour: bool = False) -> str:
    record = logging.LogRecord("warmd", level, "x.py", 1, message, (), None)
    record.warmd = facts
    text = TerminalFormatter(colour).format(record)
    assert re.match(r"\d\d:\d\d:\d\d  ", text)
    return text[10:]


@pytest.mark.parametrize(
    ("level", "message", "facts", "expected"),
    [
        (
            logging.INFO,
            "anything",
            {**MOVE, "seconds": 23.41, "reason": "1 request waits"},
            "tiny.0  staged -> hot  in 23.4 s: 1 request waits",
        ),
        (logging.INFO, "", {**MOVE, "reason": "idle"}, "tiny.0  staged -> hot  idle"),
        (logging.INFO, "tiny: resting", {"model": "tiny"}, "tiny  resting"),
        (logging.INFO, "listening", {}, "listening"),
        (logging.ERROR, "tiny.0: gone", {"replica": "tiny.0"}, "error: tiny.0  gone"),
        (logging.INFO, "a\n\x1b[2Jb", {}, "a\n    \\x1b[2Jb"),
    ],
)
def test_a_line(level: int, message: str, facts: dict[str, object], expected: str) -> None:
    assert line(level, message, facts) == expected


def test_only_the_level_is_coloured() -> None:
    assert line(logging.WARNING, "hm", {}, colour=True) == "\x1b[33mwarning:\x1b[0m hm"
    assert line(logging.INFO, "hm", {}, colour=True) == "hm"


@pytest.mark.parametrize(
    ("tty", "environ", "coloured"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)],
)
def test_colour_only_on_a_terminal(tty: bool, environ: dict[str, str], coloured: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return tty

    record = logging.LogRecord("warmd", logging.ERROR, "x.py", 1, "hm", (), None)
    assert ("\x1b" in terminal_format(Stream(), environ).format(record)) is coloured
