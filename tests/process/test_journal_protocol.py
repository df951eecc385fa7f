from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmd.history import JournalHandler, journal_handler
from warmd.message_ids import MessageId


def parse(datagram: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        fields[name.decode()] = value.decode()
    return fields


class Journald:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(str(path))

    def receive(self) -> dict[str, str]:
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        if not fds:
            return parse(data)
        assert data == b""
        with os.fdopen(fds[0], "rb") as file:
            with pytest.raises(PermissionError):  # sealed
                os.pwrite(fds[0], b"x", 0)
            file.seek(0)
            return parse(file.read())


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    journald = Journald(tmp_path / "journal")
    with journald.socket:
        yield journald


@pytest.fixture
def fallback() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(tmp_path: Path, fallback: io.StringIO) -> Iterator[logging.Logger]:
    log = logging.getLogger("test of the journal")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = JournalHandler(tmp_path / "journal", fallback)
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)
    handler.close()


def test_fields_of_a_transition(log: logging.Logger, journald: Journald) -> None:
    facts = {"model": "tiny", "replica": None, "from": "staged", "to": "hot", "seconds": 23.4}
    log.warning("tiny: %s", "hot\nagain", extra={"warmd": {**facts, "reason": "two\nlines"}})
    assert journald.receive() == {
        "MESSAGE": "tiny: hot\nagain",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "warmd",
        "WARMD_MODEL": "tiny",
        "WARMD_FROM": "staged",
        "WARMD_TO": "hot",
        "WARMD_SECONDS": "23.4",
        "WARMD_REASON": "two\nlines",
    }


def test_a_traceback_and_broken_text_arrive(log: logging.Logger, journald: Journald) -> None:
    try:
        raise ValueError("broken \udcff")
    except ValueError:
        log.exception("bug")
    fields = journald.receive()
    assert fields["PRIORITY"] == "3"
    assert fields["MESSAGE"].startswith("bug\nTraceback")
    assert fields["MESSAGE"].endswith("broken \\udcff")


def test_what_no_datagram_holds_goes_through_a_memfd(
    log: logging.Logger, journald: Journald
) -> None:
    huge = "long " * (4 << 20)  # more than the 16 MiB that the largest send buffer takes
    log.info(huge)
    assert journald.receive()["MESSAGE"] == huge


def test_a_journald_that_takes_nothing_is_not_waited_for(
    log: logging.Logger, journald: Journald
) -> None:
    sent = 2000
    for n in range(sent):
        log.info("line %d", n)
    journald.socket.setblocking(False)
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(journald.receive()["MESSAGE"])
    assert received == [f"line {n}" for n in range(len(received))]
    lost = sent - len(received)
    assert lost > 0
    log.info("back")
    assert journald.receive()["MESSAGE"].startswith(f"{lost} log lines were lost")
    assert journald.receive()["MESSAGE"] == "back"


def test_a_line_says_what_kind_it_is_and_nothing_of_the_logger(
    log: logging.Logger, journald: Journald
) -> None:
    logging.basicConfig(handlers=log.handlers, force=True)  # gives formats to those without one
    log.error("gone", extra=MessageId.CARD_IN_DOUBT.about(gpu="GPU 1", reason=None))
    fields = journald.receive()
    assert fields["MESSAGE"] == "gone"
    assert fields["MESSAGE_ID"] == MessageId.CARD_IN_DOUBT.value
    assert fields["WARMD_GPU"] == "GPU 1"
    assert "WARMD_REASON" not in fields


def test_without_journald_the_line_goes_to_stderr(
    log: logging.Logger, journald: Journald, tmp_path: Path, fallback: io.StringIO
) -> None:
    journald.socket.close()
    log.error("one\ntwo")
    assert fallback.getvalue() == "<3>one\n<3>two\n"
    (tmp_path / "journal").unlink()
    restarted = Journald(tmp_path / "journal")
    with restarted.socket:
        log.error("three")
        assert restarted.receive()["MESSAGE"] == "three"


def test_the_journal_is_used_only_where_stderr_leads_there(tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as file:
        there = os.fstat(file.fileno())
        name = f"{there.st_dev}:{there.st_ino}"
        handler = journal_handler({"JOURNAL_STREAM": name}, file.fileno(), tmp_path / "journal")
        assert isinstance(handler, JournalHandler)
        handler.close()
        for environ in ({}, {"JOURNAL_STREAM": f"{there.st_dev}:1"}, {"JOURNAL_STREAM": "x"}):
            assert journal_handler(environ, file.fileno()) is None
    assert journal_handler({"JOURNAL_STREAM": name}, stderr=-1) is None
