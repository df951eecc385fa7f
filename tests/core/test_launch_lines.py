"""The engine's bytes become lines, whatever the pipe's chunks were."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from warmd.launch.lines import LONGEST_LINE, LineSplitter


def split(*chunks: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.end()


def test_progress_bars_and_windows_line_ends_make_lines_and_no_empty_ones() -> None:
    assert split(b"load 1%\rload 2%\r\n\n\ndone") == ["load 1%", "load 2%", "done"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert split(b"caf\xc3\xa9 \xff\n") == ["café �"]


def test_a_character_may_be_cut_by_a_chunk() -> None:
    assert split(b"caf\xc3", b"\xa9\n") == ["café"]


def test_an_endless_line_is_cut_and_takes_no_memory() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 8192) == []
        assert len(splitter._unfinished) <= LONGEST_LINE
    assert splitter.feed(b"y\nnext\n") == ["x" * LONGEST_LINE, "next"]
    assert splitter.end() == []


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r", b"ab\ncd"]), max_size=30))
def test_lines_do_not_depend_on_chunks(chunks: list[bytes]) -> None:
    whole = [line.decode("utf-8", "replace") for line in re.split(rb"[\r\n]", b"".join(chunks))]
    assert split(*chunks) == [line for line in whole if line]
