"""What counts as a right answer to the warm-up, and the engine's log file."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.engine import EngineLog
from warmd.engine.verdict import Answered, NotServed, Wrong, judge

CHAT = b'{"choices":[{"message":{"content":""}}],"usage":{"completion_tokens":1}}'
NO_TEMPLATE = (
    b'{"error":{"message":"As of transformers v4.44, default chat template is no longer allowed,'
    b' so you must provide a chat template","type":"BadRequestError","code":400}}'
)
NO_SUCH_NAME = b'{"error":{"message":"The model `x` does not exist. Valid aliases: y.","code":404}}'


@pytest.mark.parametrize(
    ("kind", "status", "body", "verdict"),
    [
        ("chat", 200, CHAT, Answered),  # a random model may end at once: the text may be empty
        ("completion", 200, CHAT.replace(b"message", b"text"), Answered),
        ("embedding", 200, b'{"data":[{"embedding":[0.1,-2]}]}', Answered),
        ("chat", 404, b'{"detail":"Not Found"}', NotServed),
        ("chat", 400, NO_TEMPLATE, NotServed),
        ("chat", 400, b'{"error":{"message":"The model does not support Chat"}}', NotServed),
        ("chat", 404, NO_SUCH_NAME, Wrong),
        ("chat", 401, b'{"error":"Unauthorized"}', Wrong),
        ("chat", 500, b"", Wrong),
        ("chat", 200, b"<html>", Wrong),
        ("chat", 200, b"[]", Wrong),
        ("chat", 200, b'{"choices":[],"usage":{"completion_tokens":1}}', Wrong),
        ("chat", 200, b'{"choices":["ok"],"usage":{"completion_tokens":1}}', Wrong),
        ("chat", 200, CHAT.replace(b":1}", b":0}"), Wrong),
        ("chat", 200, b'{"choices":[{"text":""}],"usage":null}', Wrong),
        ("embedding", 200, b'{"data":[{"embedding":[]}]}', Wrong),
        ("embedding", 200, b'{"data":[{"embedding":[NaN]}]}', Wrong),
        ("embedding", 200, CHAT, Wrong),
    ],
)
def test_verdicts(kind: str, status: int, body: bytes, verdict: type) -> None:
    assert type(judge(kind, status, body)) is verdict


def test_the_log_keeps_the_last_lines_of_this_start_and_the_file_every_start(
    tmp_path: Path,
) -> None:
    log = EngineLog(tmp_path / "engine.log")
    log.begin("m.0 start 1")
    for number in range(500):
        log.line(f"line {number}")
    assert len(log.lines) == 400
    assert log.lines[-1] == "line 499"
    log.begin("m.0 start 2")
    log.line("caf\udce9")  # what a decoder made of a stray byte
    log.close()
    assert log.lines == ("caf\udce9",)
    written = (tmp_path / "engine.log").read_text().splitlines()
    assert (written[0], written[501:]) == ("--- m.0 start 1 ---", ["--- m.0 start 2 ---", "caf?"])
    assert log.trouble is None


def test_the_file_turns_over_and_stays_bounded(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "engine.log", file_bytes=1000)
    log.begin("start")
    for _ in range(200):
        log.line("x" * 49)
    log.line("y" * 100_000)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.log", "engine.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6000


def test_a_full_disk_ends_the_file_and_nothing_else() -> None:
    log = EngineLog(Path("/dev/full"))
    log.begin("start")
    log.line("ValueError: the cause")
    assert log.lines == ("ValueError: the cause",)
    assert log.trouble is not None
    assert "No space left on device" in log.trouble
