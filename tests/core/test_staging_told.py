"""What is told of files that came into RAM."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import pytest
from rig import FakeHolding, House

from warmd.chronicle import Chronicle
from warmd.ladder import FileKind, Place, Rung
from warmd.residency import known_sets
from warmd.staging import Holding, Request, StagingProgress


async def test_each_staging_is_told_once_with_its_time_and_its_bytes() -> None:
    house = House("m", resting=Rung.STAGED)
    await house.until(lambda: bool(house.stager.asked))
    house.time.now += 2.5
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    total = house.supervisor.models["m"].staged.state.total
    assert house.recorder.brought_in == [("m", FileKind.WEIGHTS, 2.5, total)]
    house.stager.holdings[0].measure(0)
    await house.until(lambda: house.supervisor.rung("m") is Rung.COLD)
    house.stager.holdings[0].measure(total or 0)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert len(house.recorder.brought_in) == 1, "what was evicted is told as such"


async def test_what_an_earlier_daemon_left_was_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeHolding, "adopted", True)
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert house.recorder.brought_in == []


@pytest.mark.parametrize(("held", "place"), [(False, "page-cache"), (True, "tmpfs")])
async def test_without_a_copy_the_files_themselves_are_measured(held: bool, place: str) -> None:
    house = House("m", resting=Rung.COLD)
    staged = house.supervisor.models["m"].staged
    staged.state = replace(staged.state, held=held, place=Place.TMPFS)
    [weights] = [e for e in known_sets([house.supervisor.models["m"]]) if e.key == staged.key]
    assert weights.place == place


def test_a_line_of_the_log_names_its_model_once(caplog: pytest.LogCaptureFixture) -> None:
    nobody = cast("Any", None)
    with caplog.at_level(logging.WARNING):
        Chronicle(nobody, nobody, nobody, nobody).staging_failed(
            "big", FileKind.WEIGHTS, "big: /srv/big holds no weights"
        )
    assert caplog.messages == ["big: not staged: /srv/big holds no weights"]


async def test_a_trouble_that_is_over_is_told_with_the_measurement_that_follows() -> None:
    """The last one is older: by it, not all of the files would be in RAM."""
    seen: list[StagingProgress] = []
    holding = Holding(
        "weights:m",
        1,
        Request((), 9),
        interval=30.0,
        keeper=0,
        send=lambda _word: None,
        on_progress=seen.append,
        on_evicted=lambda _sentence: None,
    )
    holding.hear({"resident": 9, "total": 9, "by": "cachestat"})
    holding.hear({"trouble": "a: was truncated"})
    holding.hear({"resident": 4, "total": 9, "by": "cachestat"})
    holding.hear({"trouble": None})
    holding.hear({"resident": 5, "total": 5, "by": "cachestat"})
    holding.leave()
    told = [(each.trouble, each.resident) for each in seen]
    trouble = "m: a: was truncated"
    assert told == [(None, 9), (trouble, 9), (trouble, 4), (None, 5)]


async def test_the_model_s_name_is_left_to_who_tells_of_its_weights() -> None:
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.stager.holdings[0].measure(5, "m: a.safetensors was removed")
    await house.rest()
    assert house.supervisor.view.statuses()["m"].held_up_by == "a.safetensors was removed"
    assert house.recorder.lines[-2:] == [
        "m not staged: a.safetensors was removed",
        "m.0 staged -> cold: a.safetensors was removed",
    ]
