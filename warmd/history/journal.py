"""Log lines for the journal, field by field, and for a person's terminal."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import sys
from array import array
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_SEND_BUFFER = 8 * 1024 * 1024
# An engine's last words may carry escape codes; they must not reach a terminal alive.
_HARMLESS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def journal_handler(
    environ: Mapping[str, str] = os.environ,
    stderr: int = 2,
    journal_socket: Path = JOURNAL_SOCKET,
) -> logging.Handler | None:
    """Return a handler for the journal where stderr leads there, None elsewhere.

    `$JOURNAL_STREAM` holds the device and inode of the stream that systemd connected; a program
    whose stderr was redirected since must not be fooled by it (systemd.exec(5)).
    """
    try:
        there = os.fstat(stderr)
    except OSError:
        return None
    if environ.get("JOURNAL_STREAM") != f"{there.st_dev}:{there.st_ino}":
        return None
    return JournalHandler(journal_socket)


class JournalHandler(logging.Handler):
    """Sends records to journald by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    A record's `warmd` attribute, a dict, becomes fields: `replica` is sent as WARMD_REPLICA; a
    value of None is left out. `message_id` says what kind of line it is (`warmd.message_ids`).
    Never waits for journald: what it won't take is counted, and the number is logged with the next
    line that it takes. Where there is no journald any more, the line goes to stderr with its
    sd-daemon(3) prefix.
    """

    def __init__(self, journal_socket: Path = JOURNAL_SOCKET, fallback: IO[str] | None = None):
        super().__init__()
        self.setFormatter(logging.Formatter())  # or basicConfig() puts level and logger before it
        self._address = str(journal_socket)
        self._fallback = fallback
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never raises, as logging demands."""
        try:
            message = self.format(record)
            self._deliver(message, _priority(record.levelno), _warmd_fields(record))
        except Exception:  # noqa: BLE001  # logging's own way to tell of a bug in a handler
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _deliver(self, message: str, priority: int, fields: Mapping[str, str]) -> None:
        try:
            if self._lost:
                lost = f"{self._lost} log lines were lost: the journal took none for a while"
                self._send(_datagram(lost, _priority(logging.WARNING), {}))
                self._lost = 0
            self._send(_datagram(message, priority, fields))
        except BlockingIOError:
            self._lost += 1
        except OSError:
            stderr = self._fallback or sys.stderr
            lines = message.splitlines() or [""]
            stderr.write("".join(f"<{priority}>{line}\n" for line in lines))
            stderr.flush()

    def _send(self, payload: bytes) -> None:
        try:
            self._socket.sendto(payload, self._address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_sealed(payload)

    def _send_sealed(self, payload: bytes) -> None:
        memfd = os.memfd_create("warmd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(memfd, "wb") as file:
            file.write(payload)
            file.flush()
            fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
            # socket.send_fds ignores its address before Python 3.13.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [memfd]))
            self._socket.sendmsg([], [rights], 0, self._address)


def _datagram(message: str, priority: int, fields: Mapping[str, str]) -> bytes:
    # Encoded at one go: with a line for each request this is what a line costs.
    plain = [f"PRIORITY={priority}\nSYSLOG_IDENTIFIER=warmd\n"]
    long = b""
    for name, value in (("MESSAGE", message), *fields.items()):
        if "\n" in value:
            long += _of_several_lines(name, value)
        else:
            plain.append(f"{name}={value}\n")
    return "".join(plain).encode("utf-8", "backslashreplace") + long


def _of_several_lines(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _warmd_fields(record: logging.LogRecord) -> dict[str, str]:
    kind = getattr(record, "message_id", None)
    fields = {} if kind is None else {"MESSAGE_ID": str(kind)}
    for name, value in getattr(record, "warmd", {}).items():
        if value is not None:
            fields[_field_name(name)] = str(value)
    return fields


@cache
def _field_name(name: str) -> str:
    return "WARMD_" + re.sub(r"[^A-Z0-9]", "_", str(name).upper())


def _priority(level: int) -> int:
    """The syslog(3) priority of a logging level."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def terminal_format(stream: IO[str], environ: Mapping[str, str] = os.environ) -> logging.Formatter:
    """Return the formatter for lines on `stream`: colours on a terminal, unless NO_COLOR is set."""
    return TerminalFormatter(colour=stream.isatty() and not environ.get("NO_COLOR"))


class TerminalFormatter(logging.Formatter):
    """`09:12:01  tiny.0  staged -> hot  in 23.4 s: 1 request waits`."""

    def __init__(self, colour: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One record, one line; further lines (a traceback) are indented under it."""
        facts = getattr(record, "warmd", {})
        subject = facts.get("replica") or facts.get("model")
        text = _transition(facts) or record.getMessage()
        if subject:
            text = f"{subject}  {text.removeprefix(f'{subject}: ')}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = text.translate(_HARMLESS)
        if record.levelno >= logging.WARNING:
            text = self._paint(record.levelno, record.levelname.lower() + ":") + " " + text
        head, *rest = text.split("\n")
        lines = [f"{self.formatTime(record, self.datefmt)}  {head}", *(f"    {x}" for x in rest)]
        return "\n".join(lines)

    def _paint(self, level: int, text: str) -> str:
        if not self._colour:
            return text
        return f"\x1b[{'33' if level < logging.ERROR else '1;31'}m{text}\x1b[0m"


def _transition(facts: Mapping[str, object]) -> str | None:
    if not (facts.get("from") and facts.get("to")):
        return None
    seconds = facts.get("seconds")
    took = f"in {seconds:.1f} s" if isinstance(seconds, int | float) else ""
    reason = str(facts.get("reason") or "")
    tail = f"{took}: {reason}" if took and reason else took or reason
    return f"{facts['from']} -> {facts['to']}" + (f"  {tail}" if tail else "")
