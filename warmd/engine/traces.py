"""An engine's log as a person would skim it: without prefixes, and only what complains. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PROCESS = re.compile(r"^\((?P<who>[\w-]+ pid=\d+)\) ?|^\[(?P<rank>rank\d+)\]: ?")
_LEVEL = re.compile(
    r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? "
    r"\[[^\]]*\] ?"
)
_EXCEPTION = re.compile(
    r"^(?P<name>(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt|Exit))"
    r"(?:: (?P<text>.*))?$"
)
_RAISED_FROM = "The above exception was the direct cause"
_USAGE = re.compile(r"^\S+: error: (?P<text>.+)$")
_NO_MODULE = re.compile(r"^\S*python[\d.]*: (?P<text>.*No module named .*)$")
_PYDANTIC = re.compile(r"^\d+ validation errors? for ")
_PYDANTIC_TAIL = re.compile(r" \[type=\w+, input_value=.*$")


@dataclass(frozen=True)
class LogLine:
    """A line without its prefixes. `who` is the process that printed it, where it says so."""

    who: str
    level: str
    text: str

    @property
    def may_complain(self) -> bool:
        """Whether it isn't plain news."""
        return self.level not in ("DEBUG", "INFO", "WARNING")


@dataclass(frozen=True)
class Complaint:
    """Something that went wrong. `name` is the exception's class, without its module."""

    name: str
    text: str
    cause: Complaint | None = None  # the exception that this one was raised from

    @property
    def root(self) -> Complaint:
        """The deepest cause."""
        return self if self.cause is None else self.cause.root

    @property
    def sentence(self) -> str:
        """Class and text, or whichever of them there is."""
        return f"{self.name}: {self.text}" if self.name and self.text else self.name or self.text


def clean(line: str) -> LogLine:
    """Take off colours, the process's name and the logger's prefix."""
    text = _ANSI.sub("", line).rstrip()
    who = level = ""
    if (process := _PROCESS.match(text)) is not None:
        who = process["who"] or process["rank"] or ""
        text = text[process.end() :]
    if (logged := _LEVEL.match(text)) is not None:
        level = logged["level"]
        text = text[logged.end() :]
    return LogLine(who, level, text)


def complaints(lines: Sequence[str]) -> Iterator[Complaint]:
    """Yield what went wrong, in the log's order: exceptions, refused arguments, bare errors."""
    cleaned = [line for line in map(clean, lines) if line.may_complain]
    tracing: set[str] = set()  # processes in the midst of a traceback
    raised: dict[str, Complaint] = {}  # the last exception of each process
    causes: dict[str, Complaint] = {}  # what the next exception of a process is raised from
    for position, line in enumerate(cleaned):
        if line.text.startswith("Traceback (most recent call last)"):
            tracing.add(line.who)
            continue
        if line.text.startswith(_RAISED_FROM):
            if line.who in raised:
                causes[line.who] = raised[line.who]
        elif (exception := _EXCEPTION.match(line.text)) is not None:
            tracing.discard(line.who)
            name = exception["name"].rpartition(".")[2]
            text = exception["text"] or ""
            if _PYDANTIC.match(text):
                name, text = "", _first_problem(cleaned[position + 1 :]) or text
            raised[line.who] = Complaint(name, text, causes.pop(line.who, None))
            yield raised[line.who]
        elif (usage := _USAGE.match(line.text)) or (usage := _NO_MODULE.match(line.text)):
            yield Complaint("", usage["text"])
        elif line.level and line.who not in tracing and line.text and line.text[0] != " ":
            yield Complaint("", line.text)


# Noise at the end of a Python, and the dump of every argument, which may hold what is private.
_NO_WORDS = re.compile(r"resource_tracker|leaked|non-default args|Initializing a V1 LLM engine")


def last_words(lines: Sequence[str]) -> str:
    """Return the last line that a person would read, empty where there is none."""
    for line in reversed(lines):
        text = clean(line).text.strip()
        if re.search(r"\w{3}", text) and not _NO_WORDS.search(text):
            return text
    return ""


def _first_problem(following: Sequence[LogLine]) -> str:
    """Pydantic says what is wrong in the second line of its error's text."""
    if not following:
        return ""
    text = _PYDANTIC_TAIL.sub("", following[0].text.strip())
    return text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
