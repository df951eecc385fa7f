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
