"""What systemd tells of an engine's unit, and how its main process ended by that. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warmd.launch.launcher import EngineExit

READ = (
    "ActiveState",
    "Job",
    "InvocationID",
    "ControlGroup",
    "ExecMainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestampMonotonic",
)
"""The properties that a `UnitState` is made of."""

_CLD_EXITED = 1  # waitid(2); the others are a signal's


@dataclass(frozen=True)
class UnitState:
    """A unit at one moment. `invocation` is empty where none is known; codes are waitid(2)'s."""

    active: str = ""
    job: int = 0
    invocation: str = ""
    cgroup: str = ""
    pid: int = 0
    code: int = 0
    status: int = 0
    exec_at: float = 0.0

    @property
    def is_down(self) -> bool:
        """Whether nothing of it runs nor is about to, as systemd sees it.

        One that is being started has its new invocation while it still is as it was.
        """
        return self.active in ("inactive", "failed") and not self.job

    @property
    def has_failed(self) -> bool:
        """Whether systemd keeps it in mind as failed."""
        return self.active == "failed"

    @property
    def main_ended(self) -> bool:
        """Whether its main process has ended."""
        return self.code != 0

    def heard(self, told: Mapping[str, Any]) -> UnitState:
        """Return it with what a signal or an answer has told; other properties are passed over."""
        known: dict[str, Any] = {
            field: told[name]
            for name, field in (
                ("ActiveState", "active"),
                ("ControlGroup", "cgroup"),
                ("ExecMainPID", "pid"),
                ("ExecMainCode", "code"),
                ("ExecMainStatus", "status"),
            )
            if name in told
        }
        if "Job" in told:
            known["job"] = told["Job"][0]
        if "InvocationID" in told:
            known["invocation"] = bytes(told["InvocationID"]).hex()
        if "ExecMainStartTimestampMonotonic" in told:
            known["exec_at"] = told["ExecMainStartTimestampMonotonic"] / 1e6
        return replace(self, **known)

    def exit(self, *, asked_for: bool) -> EngineExit:
        """Return how the main process ended.

        A unit that ended well may be forgotten by systemd before anybody has asked how.
        """
        if self.code in (0, _CLD_EXITED):
            return EngineExit(self.status, asked_for=asked_for)
        return EngineExit(None, self.status, asked_for=asked_for)
