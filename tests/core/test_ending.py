"""Why the daemon is told to end decides whether its engines end with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from warmd.ending import Ending


def says(job: str | None) -> Callable[[], Awaitable[str | None]]:
    async def own_job() -> str | None:
        return job

    return own_job


@pytest.mark.parametrize(
    ("job", "engines_too", "for_good", "reason"),
    [
        ("stop", True, True, "systemd stops warmd"),
        ("restart", False, False, "systemd restarts warmd"),
        ("start", False, False, "SIGTERM came"),
        (None, False, False, "SIGTERM came"),
    ],
)
async def test_only_a_stop_ends_the_engines_too(
    job: str | None, engines_too: bool, for_good: bool, reason: str
) -> None:
    ending = Ending(engines_too=False, own_job=says(job))
    ending.heed(signal.SIGTERM)
    ending.heed(signal.SIGTERM)
    assert await ending.asked == reason
    assert (ending.engines_too, ending.for_good) == (engines_too, for_good)


async def test_a_manager_that_does_not_answer_costs_no_engine_and_holds_nobody_up() -> None:
    async def silent() -> str | None:
        await asyncio.Event().wait()
        return "stop"

    ending = Ending(engines_too=False, own_job=silent, answer_s=0.0)
    ending.heed(signal.SIGTERM)
    assert "didn't say within 0 s whether it stops or restarts warmd" in await ending.asked
    assert not ending.engines_too

    async def broken() -> str | None:
        raise ConnectionRefusedError("no bus")

    ending = Ending(engines_too=False, own_job=broken)
    ending.heed(signal.SIGTERM)
    assert await ending.asked == "SIGTERM came, and why can't be known: no bus"
    assert not ending.engines_too


async def test_without_systemd_a_signal_is_heeded_at_once() -> None:
    ending = Ending(engines_too=True)
    ending.heed(signal.SIGINT)
    assert ending.asked.result() == "SIGINT came"
    assert not ending.for_good, "whoever keeps the sockets may start the next one"


async def test_an_operator_who_ends_all_does_so_also_while_systemd_is_asked() -> None:
    ending = Ending(engines_too=False, own_job=says("restart"))
    ending.heed(signal.SIGTERM)
    assert "stops every engine" in ending.shutdown()
    assert await ending.asked == "an operator asked for it"
    assert ending.engines_too
    assert ending.for_good
