"""Files on a mount that really hangs: who waits for them is told, and nobody else waits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest
from daemon_rig import a_daemon, until
from dead_mount import a_dead_mount
from staging_rig import a_keeper, alive, hold, resident, some_weights

from warmd.staging import Pace, Request, StagingError


async def test_a_read_that_hangs_in_the_kernel_is_told_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staging.holding.SILENCE_S", 6.0)
    (tmp_path / "share").mkdir()
    lost = (tmp_path / "share/disk/a.safetensors",)
    weights = some_weights(tmp_path / "here")
    with a_dead_mount(tmp_path / "share"):
        async with a_keeper() as keeper:
            hangs = asyncio.create_task(
                keeper.hold("weights:n", Request(lost, 1 << 20), Pace(), lambda _: None)
            )
            held = await hold(keeper, weights)
            assert sum(map(resident, weights.files)) == weights.total
            parent = psutil.Process(held.pid).parent()
            assert parent is not None
            [other] = [each for each in parent.children() if each.pid != held.pid]
            assert other.status() == psutil.STATUS_DISK_SLEEP
            with pytest.raises(StagingError, match="look at the disk or network mount"):
                await hangs
            assert not alive(other.pid), "it was killed, and that was waited for"
            assert held.complete


def test_a_share_that_dies_under_a_daemon_is_told_and_the_other_model_is_served() -> None:
    with a_daemon() as daemon:
        share = daemon.folder / "share"
        (share / "disk").mkdir(parents=True)
        (daemon.folder / "weights-n").symlink_to(share / "disk")
        daemon.turn("m")
        daemon.turn("n")
        daemon.write_config(dict.fromkeys("mn", 'resting = "cold"'))
        daemon.start()
        with a_dead_mount(share):
            daemon.set("n", "staged")
            until(lambda: daemon.status["models"]["n"]["staging"]["busy"], "it is looked for")
            began = time.monotonic()
            assert daemon.chat("m").status == 200
            assert time.monotonic() - began < 10
            sets = daemon.control("GET", "/residency").json["sets"]
            [told] = [s for s in sets if s["models"] == ["n"] and s["kind"] == "weights"]
            assert told["resident"] is None
            assert (
                "haven't answered for 5 s: look at their disk or network mount" in told["trouble"]
            )
            assert daemon.control("GET", "/status").status == 200
            daemon.stop()
