"""What is asked of systemd over D-Bus, and heard of it: org.freedesktop.systemd1(5)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Literal

from dbus_fast import Variant

from warmd.launch.launcher import LaunchError
from warmd.launch.systemd.bus import SYSTEMD, SYSTEMD_PATH, Bus, RefusedError
from warmd.launch.systemd.refused import NOT_ALLOWED, POLKIT, job_failed, refused
from warmd.launch.systemd.unit_state import READ, UnitState

_PROPERTIES = "org.freedesktop.DBus.Properties"
_NOT_LOADED = f"{SYSTEMD}.NoSuchUnit"
_GONE = frozenset({_NOT_LOADED, f"{SYSTEMD}.UnitNotLoaded", f"{SYSTEMD}.NoSuchProcess"})

Properties = Mapping[str, Any]
Changed = Callable[[Properties], None]
"""Takes what a signal tells of a unit; empty where signals may have been lost: ask it then."""


class Job(StrEnum):
    """What systemd is about with the daemon's own unit when it ends it."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


class Units:
    """Starts, signals and reads units."""

    def __init__(self) -> None:
        self._bus = Bus(self._hear, self._opened)
        self._watched: dict[str, Changed] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._results: dict[str, str] = {}  # of jobs that were done before we had their name
        self._ordering = 0

    async def connect(self) -> None:
        """Connect to systemd; raises `LaunchError` where there is none."""
        await self._told(
            self._bus.watch(
                f"type='signal',sender='{SYSTEMD}',path='{SYSTEMD_PATH}',"
                f"interface='{SYSTEMD}.Manager',member='JobRemoved'"
            ),
            "watched",
            "jobs",
        )

    async def close(self) -> None:
        """Hang up; what runs runs on."""
        await self._bus.close()

    async def own_job(self) -> Job | None:
        """Say what systemd does with the daemon's own unit: at SIGTERM, why it was sent.

        `Job.STOP` also when the machine shuts down; None where there is no job: somebody else has
        sent it. Raises `LaunchError` where this process is of no unit, or nobody answers.
        """
        try:
            path = (await self._bus.call("GetUnitByPID", "u", [0]))[0]  # 0: who asks
            number, job = await self._get(path, f"{SYSTEMD}.Unit", "Job")
            if not number:
                return None
            kind = await self._get(job, f"{SYSTEMD}.Job", "JobType")
        except RefusedError as error:
            raise LaunchError(
                f"systemd doesn't say what it does with warmd's own unit: {error}"
            ) from None
        return next((job for job in Job if job == kind), None)

    async def start(self, unit: str) -> None:
        """Start `unit`; return when systemd has done what it does; raises `LaunchError`."""
        self._ordering += 1
        try:
            job = (await self._told(self._call("StartUnit", "ss", unit, "replace"), "start", unit))[
                0
            ]
            result = self._results.get(job)
            if result is None:
                done = self._jobs[job] = asyncio.get_running_loop().create_future()
                try:
                    result = await done
                finally:
                    del self._jobs[job]
        finally:
            self._ordering -= 1
            if not self._ordering:
                self._results.clear()
        if result != "done":
            state = await self.properties(unit, ("Result", "ExecMainStatus"))
            raise LaunchError(job_failed(unit, result, state))

    async def kill(self, unit: str, whom: Literal["main", "all"], number: signal.Signals) -> bool:
        """Signal the main process of `unit` or all of them; False where there is none.

        Raises `LaunchError`.
        """
        try:
            await self._call("KillUnit", "ssi", unit, whom, int(number))
        except RefusedError as error:
            if error.why in _GONE:
                return False
            raise LaunchError(await self._sentence(error, "kill", unit)) from None
        return True

    async def stop(self, unit: str) -> None:
        """Have systemd stop `unit` by itself, without waiting for it; raises `LaunchError`."""
        try:
            await self._call("StopUnit", "ss", unit, "replace")
        except RefusedError as error:
            if error.why not in _GONE:
                raise LaunchError(await self._sentence(error, "stop", unit)) from None

    async def reset(self, unit: str) -> None:
        """Have systemd forget that `unit` has failed; raises `LaunchError`."""
        try:
            await self._call("ResetFailedUnit", "s", unit)
        except RefusedError as error:
            if error.why not in _GONE:
                raise LaunchError(await self._sentence(error, "reset", unit)) from None

    async def loaded(self, pattern: str) -> dict[str, str]:
        """Map the units that fit `pattern` to their ActiveState; raises `LaunchError`."""
        call = self._bus.call("ListUnitsByPatterns", "asas", [[], [pattern]])
        return {row[0]: row[3] for row in (await self._told(call, "list", pattern))[0]}

    async def properties(self, unit: str, names: Sequence[str]) -> Properties:
        """Read these of a service, or of its unit where the name is one of a unit's.

        Raises `LaunchError`.
        """
        path = unit_path(unit)
        reads = [self._get(path, f"{SYSTEMD}.{_interface(name)}", name) for name in names]
        found = await self._told(asyncio.gather(*reads), "read", unit)
        return dict(zip(names, found, strict=True))

    async def state(self, unit: str) -> UnitState:
        """Read how `unit` is; raises `LaunchError`.

        One that isn't loaded is down: to read its properties would load it, anew for each of them.
        """
        try:
            await self._bus.call("GetUnit", "s", [unit])
        except RefusedError as error:
            if error.why in _GONE:
                return UnitState("inactive")
            raise LaunchError(await self._sentence(error, "read", unit)) from None
        return UnitState().heard(await self.properties(unit, READ))

    async def watch(self, unit: str, changed: Changed) -> None:
        """Tell `changed` of all that systemd tells of `unit`; raises `LaunchError`."""
        self._watched[unit_path(unit)] = changed
        await self._told(self._bus.watch(_changes_of(unit)), "watch", unit)

    async def unwatch(self, unit: str) -> None:
        """Tell of it no longer."""
        self._watched.pop(unit_path(unit), None)
        await self._bus.unwatch(_changes_of(unit))

    async def _get(self, path: str, interface: str, name: str) -> Any:
        value = (
            await self._bus.call("Get", "ss", [interface, name], path=path, interface=_PROPERTIES)
        )[0]
        return value.value if isinstance(value, Variant) else value

    async def _call(self, member: str, signature: str, *body: object) -> Sequence[Any]:
        return await self._bus.call(member, signature, body)

    async def _told(self, call: Any, verb: str, unit: str) -> Any:
        try:
            return await call
        except RefusedError as error:
            raise LaunchError(await self._sentence(error, verb, unit)) from None

    async def _sentence(self, error: RefusedError, verb: str, unit: str) -> str:
        has_polkit = True
        if error.why in NOT_ALLOWED:
            with suppress(RefusedError, LaunchError):
                has_polkit = await self._bus.has(POLKIT)
        return refused(verb, unit, error.why, error.said, has_polkit=has_polkit)

    def _opened(self) -> None:
        for job in self._jobs.values():
            if not job.done():
                job.set_result("done")  # or not: the unit's state tells
        for changed in tuple(self._watched.values()):
            changed({})

    def _hear(self, path: str, member: str, body: Sequence[Any]) -> None:
        match member, body:
            case "PropertiesChanged", [_, changes, _] if path in self._watched:
                self._watched[path]({name: each.value for name, each in changes.items()})
            case "JobRemoved", [_, job, _, result]:
                if job in self._jobs and not self._jobs[job].done():
                    self._jobs[job].set_result(result)
                elif self._ordering:
                    self._results[job] = result
            case _:
                return


def unit_path(unit: str) -> str:
    """Name the object of a unit: what is no letter nor digit is `_` and its two hex digits."""
    label = "".join(
        chr(byte) if chr(byte).isalnum() and (n or not chr(byte).isdigit()) else f"_{byte:02x}"
        for n, byte in enumerate(unit.encode("ascii"))
    )
    return f"{SYSTEMD_PATH}/unit/{label}"


def _changes_of(unit: str) -> str:
    return (
        f"type='signal',sender='{SYSTEMD}',path='{unit_path(unit)}',"
        f"interface='{_PROPERTIES}',member='PropertiesChanged'"
    )


_OF_UNITS = frozenset({"ActiveState", "SubState", "LoadState", "InvocationID", "Job"})


def _interface(name: str) -> str:
    return "Unit" if name in _OF_UNITS else "Service"
