"""What an engine compiled is its own until some time after its end: no trouble before that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from rig import House

from warmd.ladder import Phase, Rung

CLOSED = "m: its compile caches: /c/a.py: can't be read (Permission denied)"


@pytest.fixture
async def later(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What is to be called later: by hand."""
    calls: list[Callable[[], None]] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later

    def call_later(delay: float, call: Callable[..., None], *words: object) -> object:
        if call.__qualname__.startswith("Shelf."):
            calls.append(call)
            return None
        return real(delay, call, *words)

    monkeypatch.setattr(loop, "call_later", call_later)
    return calls


async def at_the_stop(trouble: str) -> House:
    """An engine has just ended, and its caches are asked for."""
    house = House()
    house.sizes = {"compile-cache:m": 4}
    house.stager.done.set()
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED))
    await house.until(lambda: len(house.stager.holdings) == 2)
    [caches] = [each for each in house.stager.holdings if each.key == "compile-cache:m"]
    caches.measure(0, trouble)
    await house.rest()
    return house


def told(house: House) -> list[str]:
    return [line for line in house.recorder.lines if "compile-cache not staged" in line]


async def test_trouble_that_passes_is_not_told(later: list[Callable[[], None]]) -> None:
    house = await at_the_stop(CLOSED)
    [caches] = [each for each in house.stager.holdings if each.key == "compile-cache:m"]
    caches.measure(4)  # its unit has shared them meanwhile
    await house.rest()
    later.pop()()
    assert told(house) == []
    assert later == []


async def test_trouble_that_stays_is_told_once(later: list[Callable[[], None]]) -> None:
    house = await at_the_stop(CLOSED)
    assert told(house) == []
    assert len(later) == 1
    later.pop()()
    assert len(told(house)) == 1
    assert "/c/a.py" in told(house)[0]
    assert later == []


async def test_it_is_no_trouble_as_long_as_the_engine_is_up(
    later: list[Callable[[], None]],
) -> None:
    house = await at_the_stop(CLOSED)
    house.supervisor.word.set_target("m", Rung.HOT, None)
    await house.until(lambda: house.phase("m.0").is_up)
    later.pop()()
    assert told(house) == []
    assert house.phase("m.0") is not Phase.DOWN
