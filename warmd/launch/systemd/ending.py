"""The end of a unit that nobody may go on with: at once, and proved."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from warmd.launch.launcher import LaunchError
from warmd.launch.systemd.unit_state import UnitState
from warmd.launch.systemd.units import Units

_WITHIN_S = 10.0
_PAUSE_S = 0.02
_CGROUPS = Path("/sys/fs/cgroup")


def is_empty(cgroup: str) -> bool:
    """Whether no process is left in a control group: systemd gives up on those that can't die."""
    try:
        events = (_CGROUPS / cgroup.lstrip("/") / "cgroup.events").read_text()
    except OSError:
        return True  # it is gone, as it is once nobody is in it
    return "populated 1" not in events or not cgroup


async def end_unit(units: Units, unit: str, cgroup: str = "") -> UnitState:
    """SIGKILL all of `unit`, and return what it was once nothing of it is left.

    `cgroup`: the control group that it had, which systemd tells as long as it runs.
    Raises `LaunchError`, also where something still lives after ten seconds.
    """
    state = was = await units.state(unit)
    give_up_at = asyncio.get_running_loop().time() + _WITHIN_S
    cgroup = was.cgroup or cgroup
    while not (state.is_down and is_empty(cgroup)):
        await units.kill(unit, "all", signal.SIGKILL)
        await units.stop(unit)  # else a start that is under way would go on
        await asyncio.sleep(_PAUSE_S)
        state = await units.state(unit)
        if asyncio.get_running_loop().time() >= give_up_at:
            raise LaunchError(
                f"processes of {unit} outlive SIGKILL for {_WITHIN_S:g} s; a driver may hold "
                "them: look at their state in ps and at the kernel's log"
            )
    if state.has_failed:
        await units.reset(unit)
    return was
