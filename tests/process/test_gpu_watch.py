"""The watch over the cards: whose a process is, also when it has ended, and a driver that hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from warmd import gpu_watch
from warmd.devices import CardUse, GpuError, GpuTrouble, Sweep
from warmd.gpu_watch import GpuWatch, Mark, look_at_cards
from warmd.planner import Card
from warmd.supervisor import CardRules, Cards, Examination, Look

PARENT = "import subprocess, sys; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True)"


@contextmanager
def a_tree() -> Iterator[tuple[int, int]]:
    """A process and its child, as API server and EngineCore are."""
    command = [sys.executable, "-c", f"{PARENT}; c.wait()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent.pid, child
        finally:
            parent.kill()
            os.kill(child, 9)


CARD = Card("GPU-0", 0, "a GPU", 80 * 2**30)


def found(*pids: int) -> Sweep:
    held = dict.fromkeys(pids, 2**30)
    use = CardUse("GPU-0", 0, "a GPU", 80 * 2**30, 2**31, held, frozenset())
    return Sweep({"GPU-0": use}, ())


def test_a_process_stays_its_engines_when_its_memory_is_all_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vllm#55510."""
    me = os.getpid()
    with a_tree() as (root, child):
        monkeypatch.setattr(gpu_watch, "sweep", lambda: found(child, me))
        engines = {root: "m.0"}
        _, marks = look_at_cards(engines, {}, on_host=False)
        assert {pid: mark.replica for pid, mark in marks.items()} == {root: "m.0", child: "m.0"}
    for _ in range(2):  # the tree has ended, and then the replica is down or has a new engine
        _, marks = look_at_cards(engines, marks, on_host=False)
        assert marks[child].root == root
        engines = {1_000_000_000: "m.0"}
    reused = {me: Mark("m.0", root, 1)} | marks
    _, marks = look_at_cards(engines, reused, on_host=False)
    assert me not in marks, "another process has the number now"
    monkeypatch.setattr(gpu_watch, "sweep", lambda: found(me))
    _, marks = look_at_cards(engines, marks, on_host=False)
    assert marks == {}, "what holds nothing any more is forgotten"


class Watched:
    def __init__(self, root: int = 1) -> None:
        self.cards = Cards(time.monotonic)
        self.cards.fit(CardRules((CARD,)))
        self.engines = {root: "m.0"}
        self.reserves = True
        self.holds_cards = False
        self.looks: list[Look] = []
        self._bell = asyncio.Event()

    def seen(self, look: Look) -> None:
        self.looks.append(look)
        self._bell.set()

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not what():
                self._bell.clear()
                await self._bell.wait()


@pytest.fixture(autouse=True)
def examined(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it was seen how GPUs fare."""
    found: list[float] = []

    def examine() -> Examination:
        found.append(time.monotonic())
        return Examination()

    monkeypatch.setattr(gpu_watch, "examine", examine)
    return found


@contextmanager
def a_watch(watched: Watched) -> Iterator[GpuWatch]:
    watch = GpuWatch(watched, time.monotonic)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()


async def test_a_driver_that_hangs_is_asked_once_and_whoever_waits_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()
    asked = []

    def hang() -> Sweep:
        asked.append(time.monotonic())
        answers.wait(20)
        return found()

    monkeypatch.setattr(gpu_watch, "sweep", hang)
    monkeypatch.setattr(gpu_watch, "_DRIVER_S", 0.05)
    monkeypatch.setattr(gpu_watch, "FREED_S", 0.2)
    watched = Watched()
    with a_watch(watched) as watch:
        assert await watch.gives_back("m.0") is None, "nobody can tell"
        [look] = watched.looks
        assert look.sweep is None
        assert "the NVIDIA driver didn't answer within" in (look.trouble or "")
        for _ in range(3):
            assert await watch.gives_back("m.0") is None
        assert len(asked) == 1, "no second thread is hung up on it"
        answers.set()
        await watched.until(lambda: watched.looks[-1].sweep is not None)
        late = watched.looks[1]
        assert (late.sweep, late.began) == (found(), look.began), "what it says late is heard"
        assert late.fares is not None, "always late, it would never be"


async def test_what_an_ended_engine_holds_is_waited_for_and_then_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched, late = Watched(root=os.getpid()), True
    monkeypatch.setattr(gpu_watch, "_POLL_S", 0.01)
    monkeypatch.setattr(gpu_watch, "sweep", lambda: found(*([os.getpid()] if late else [])))
    with a_watch(watched) as watch:
        waiting = asyncio.create_task(watch.gives_back("m.0"))
        await watched.until(lambda: len(watched.looks) >= 3)
        assert not waiting.done()
        late = False
        async with asyncio.timeout(5):
            assert await waiting is None
        late = True
        monkeypatch.setattr(gpu_watch, "FREED_S", 0.1)
        kept = f"process {os.getpid()} still holds 1.0 GiB of GPU 0"
        assert await watch.gives_back("m.0") == kept
        assert await watch.gives_back("other.0") is None


async def test_where_the_driver_fails_the_cause_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Sweep:
        raise GpuError(GpuTrouble.MISMATCH)

    monkeypatch.setattr(gpu_watch, "sweep", fail)
    watched = Watched()
    with a_watch(watched) as watch:
        assert await watch.gives_back("m.0") is None
        assert "differ in version" in (watched.looks[0].trouble or "")


async def test_a_fault_of_ours_ends_no_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_watch, "sweep", found)
    watched = Watched()
    seen, faults = watched.seen, [KeyError("ours")]

    def faulty(look: Look) -> None:
        if faults:
            raise faults.pop()
        seen(look)

    monkeypatch.setattr(watched, "seen", faulty)
    with a_watch(watched):
        watched.cards.wanted.set()
        await asyncio.sleep(0.1)
        watched.cards.wanted.set()
        await watched.until(lambda: bool(watched.looks))
    assert "a fault of warmd's own" in caplog.text


async def test_nobody_looks_where_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def look() -> Sweep:
        asked.append(time.monotonic())
        return found()

    monkeypatch.setattr(gpu_watch, "sweep", look)
    watched = Watched()
    watched.reserves = False
    with a_watch(watched):
        watched.cards.wanted.set()
        await asyncio.sleep(0.05)
        watched.reserves = True
        watched.cards.rules = replace(watched.cards.rules, cards=())
        watched.cards.wanted.set()
        await asyncio.sleep(0.05)
        assert asked == []
        watched.cards.rules = CardRules((CARD,))
        watched.cards.wanted.set()
        await watched.until(lambda: len(asked) == 1)


async def test_how_gpus_fare_is_seen_now_and_then_and_where_somebody_must_know(
    monkeypatch: pytest.MonkeyPatch, examined: list[float]
) -> None:
    monkeypatch.setattr(gpu_watch, "sweep", found)
    monkeypatch.setattr(gpu_watch, "EXAMINE_S", 0.3)
    watched = Watched()
    with a_watch(watched) as watch:
        for _ in range(3):
            assert await watch.gives_back("m.0") is None
        assert len(examined) == 1, "not at each look"
        await watch.examine()
        assert len(examined) == 2, "but at once for who asks"
        assert watched.looks[-1].fares is not None
        await watched.until(lambda: len(examined) == 4)  # though no engine is up
    assert examined[3] - examined[2] > 0.2
