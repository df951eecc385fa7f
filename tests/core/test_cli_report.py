"""`warmctl report` in words and as a page, from the JSON that the daemon's own dataclasses give."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from warmd.cli.client import RefusedError
from warmd.cli.page import page
from warmd.cli.page_file import write_page
from warmd.cli.report import report
from warmd.reckoning import (
    Account,
    Delays,
    Durations,
    FirstBytes,
    Lateness,
    ModelAccount,
    Why,
    Windows,
)
from warmd.reckoning.account import DELAY_BOUNDS

HOUR = 3600.0
WEEK = {f"2026-11-{n:02}": "s" * 9 + "h" * 9 + "a" * 5 + "-" for n in range(2, 9)}
BUSY = ModelAccount(
    zone="Europe/Berlin",
    requests=4120,
    met={"hot": 4062, "asleep": 40, "staged": 18, "cold": 0},
    not_hot=58,
    not_hot_share=58 / 4120,
    first_delays=Delays(64, 2.14, 41.2, 44.0, 44.06, 70, [10] * 6 + [4] + [0] * 7),
    vain=2,
    others=FirstBytes(4050, 0.214, 2.1),
    seconds={"hot": 98.25 * HOUR, "asleep": 60 * HOUR, "staged": 9 * HOUR, "cold": 0.0},
    unknown_s=1800.0,
    gpu_hours_hot=196.5,
    gpu_hours_added=122.0,
    spared={"asleep": 8, "staged": 1, "cold": 0},
    removed_s=51.0,
    removed_s_per_gpu_hour=51.0 / 122,
    starts={"staged": Durations(3, 41.2, {"imports": 24.0, "weights": 6.1, "compile": 9.9})},
    wakes=Durations(12, 1.1, {"engine": 0.8, "first_answer": 0.2, "canary": 0.1}),
    days=WEEK,
    windows=Windows(
        *(20, 16, Lateness(2, 61.0, 420.0), 1, 1),
        {
            "starting": Why(1, 0.0, "busy.0 has been starting for 41 s (weights)"),
            "held-up": Why(3, 0.0, "pool heavy is full"),
        },
    ),
    failed_starts=Why(2, 0.0, "CUDA out of memory"),
    advice="the rush begins at 08:37; \x1b[31m<script>alert(1)</script>",
)

SAID = """\
since 1970-01-01 00:00, 14 d
busy
  requests     4120; 58 met it not hot (1.4 %): 40 asleep, 18 staged; 2 waited in vain
  first delays 64 of 70: p50 2.1 s, p95 41.2 s, p99 44.0 s, longest 44.1 s
  all others   4050: mean 214 ms, longest 2.1 s
  stood        hot 98.2 h (59 %), asleep 60.0 h (36 %), staged 9.0 h (5 %), 30 min more not known,
               as warmd didn't run
  by hour      ssssssssshhhhhhhhhaaaaa- (00 to 23 o'clock in Europe/Berlin)
  GPU-hours    196.5 hot, 122.0 of them added by its calendar
  windows      20 opened, 16 ready by then; 2 late: half within 1 min 1 s, longest 7 min; 1 never
               ready; 1 not ready yet; 1: it was on its way (busy.0 has been starting for 41 s
               (weights)); 3: it was held up, last (pool heavy is full)
  calendar     spared 9 waits (8 from asleep, 1 from staged), 51 s in all: 418 ms for each GPU-hour
               that it added
  starts       from staged, 3: half within 41.2 s (imports 24.0, weights 6.1, compile 9.9)
  failed       2 starts, the last: CUDA out of memory
  wakes        12: half within 1.1 s (engine 0.8, first answer 0.2, canary 0.1)
  advice       the rush begins at 08:37;  [31m<script>alert(1)</script>
quiet
  requests     none
"""


def answer(**models: ModelAccount) -> Any:
    told = Account(14 * 24 * HOUR, 0.0, DELAY_BOUNDS, models)
    return json.loads(json.dumps(dataclasses.asdict(told)))


def test_all_that_can_be_said() -> None:
    lines = report(answer(busy=BUSY, quiet=ModelAccount("UTC")), time.gmtime).splitlines()
    assert lines[: lines.index("")] == SAID.splitlines()
    assert max(len(line) for line in lines) <= 100


def test_an_empty_history_is_not_the_same_as_one_that_can_not_be_read() -> None:
    assert report(answer(), time.gmtime).splitlines()[1] == "the history has nothing yet"
    told = report(answer() | {"history_trouble": "the disk is full"}, time.gmtime).splitlines()
    assert told[1:] == ["what happened is not known", "warning: the disk is full"]


def test_one_is_said_as_one() -> None:
    once = dataclasses.replace(
        BUSY,
        spared={"asleep": 1},
        windows=Windows(1, 0, Lateness(1, 7.0, 7.0), 0, 0, {"away": Why(1, 0.0, "it began at 9")}),
        failed_starts=Why(1, 0.0, "no such file"),
    )
    told = report(answer(m=once), time.gmtime)
    for said in (
        "spared 1 wait (1 from asleep)",
        "1 opened, 0 ready by then; 1 late: longest 7 s; 1: warmd didn't run (it began at 9)",
        "1 start: no such file",
    ):
        assert said in told


def test_estimates_are_called_so() -> None:
    guessed = dataclasses.replace(BUSY, removed_by_estimate=True, removed_s_per_gpu_hour=None)
    told = report(answer(m=guessed), time.gmtime)
    assert "spared 9 waits (8 from asleep, 1 from staged), about 51 s in all\n" in told


class Page(HTMLParser):
    """Which elements are there, that each is closed, and what leads elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.leads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.leads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def plots(text: str) -> Iterator[ET.Element]:
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        yield ET.fromstring(svg)


def test_the_page_is_whole_by_itself_and_nothing_in_it_is_run() -> None:
    text = page(answer(**{"busy<b>": BUSY}, quiet=ModelAccount("UTC")), time.gmtime)
    read = Page()
    read.feed(text)
    assert read.open == []
    assert not {"script", "link", "img", "iframe", "b"} & set(read.seen)
    assert read.leads == []
    assert "@import" not in text
    assert "url(" not in text
    assert "\x1b" not in text
    hours, delays, starts = plots(text)
    cells = hours.findall("rect")
    assert len(cells) == 7 * 24
    assert [cell.get("class") for cell in cells[:24]].count("hot") == 9
    assert cells[23].get("class") == "not-known"
    assert len(delays.findall("rect")) == len(DELAY_BOUNDS) + 1
    longest, shorter = (float(delays.findall("rect")[n].get("width", "")) for n in (0, 6))
    assert longest == pytest.approx(2.5 * shorter)
    widths = [float(each.get("width", "")) for each in starts.findall("rect")[:3]]
    assert widths == pytest.approx([w * widths[0] / 24.0 for w in (24.0, 6.1, 9.9)], abs=0.1)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert write_page(file, "one") == f"{file} is written"
    file.chmod(0o640)
    link = tmp_path / "latest.html"
    link.symlink_to(file)
    write_page(link, "two")
    assert link.is_symlink()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o640)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["latest.html", "report.html"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    for name, words in ((tmp_path, "is no file"), (Path("/dev/null"), "is no file")):
        with pytest.raises(RefusedError, match=words):
            write_page(name, "x")
    with pytest.raises(RefusedError, match="No such file or directory"):
        write_page(tmp_path / "no" / "folder.html", "x")
    assert list(tmp_path.iterdir()) == []
