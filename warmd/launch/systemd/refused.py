"""Why systemd has refused something, or failed at it, in a sentence for the operator. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POLKIT = "org.freedesktop.PolicyKit1"
_ERROR = "org.freedesktop.DBus.Error"
NOT_ALLOWED = frozenset({f"{_ERROR}.AccessDenied", f"{_ERROR}.InteractiveAuthorizationRequired"})
_RULE = "/usr/share/polkit-1/rules.d/50-warmd.rules"
_ENGINES = "warmd-engine@.service"

_BEFORE_EXEC = {
    200: "its working folder can't be entered",
    203: "/usr/bin/python3 or /usr/lib/warmd/warmd-exec can't be executed",
    216: "its group can't be taken: is there a group warmd-engine?",
    217: "its user can't be taken: is there a user warmd-engine?",
    219: "its control group can't be entered",
    226: "its sandbox can't be set up: a folder that it names is missing, or a drop-in is wrong",
    228: "its system call filter can't be set up",
    238: "its state folder can't be made",
    240: "its log can't be connected to the journal",
}
"""Exit statuses of systemd's own process before it has exec'ed anything: systemd.exec(5)."""


def refused(verb: str, unit: str, why: str, said: str, *, has_polkit: bool) -> str:
    """Say why systemd would not `verb` the unit. `why`: D-Bus's name for it; `said`: its words."""
    what = f"systemd did not {verb} {unit}"
    if why in NOT_ALLOWED:
        if not has_polkit:
            return (
                f"{what}: nobody is there to allow it to this user: polkit is missing; install it "
                "(apt install polkitd)"
            )
        return (
            f"{what}: polkit doesn't allow it to this user; the rule is {_RULE}: is it there, and "
            "does warmd run as user warmd? see `journalctl -u polkit`"
        )
    match why.rpartition(".")[2]:
        case "NoSuchUnit":
            return (
                f"{what}: there is no {_ENGINES}; install warmd's package again, or do "
                "`systemctl daemon-reload`"
            )
        case "UnitMasked":
            return f"{what}: it is masked; do `systemctl unmask {unit} {_ENGINES}`"
        case "LoadFailed" | "BadUnitSetting":
            return (
                f"{what}: its unit can't be loaded ({said}); see `systemctl status {unit}` and "
                f"the drop-ins of {_ENGINES}"
            )
        case "ShuttingDown" | "JobTypeNotApplicable" | "TransactionIsDestructive":
            return f"{what}: {said}; the machine may be shutting down"
        case _:
            return f"{what}: {said} ({why}); see `systemctl status {unit}`"


def job_failed(unit: str, result: str, state: Mapping[str, Any]) -> str:
    """Say why a start order came to nothing. `result` is that of its job."""
    what, see = f"systemd did not start {unit}", f"see `journalctl -u {unit}`"
    if result == "failed":
        status = state.get("ExecMainStatus")
        if isinstance(status, int) and status in _BEFORE_EXEC:
            return f"{what}: {_BEFORE_EXEC[status]} (status {status}); {see}"
        if state.get("Result") == "resources":
            return f"{what}: it has not the means to (memory, processes, a folder); {see}"
        return f"{what}: it ended at once (status {status}); {see}"
    if result == "canceled":
        return f"{what}: somebody has called it off, as by `systemctl stop`"
    if result == "timeout":
        return f"{what}: it took too long; {see}"
    return f"{what}: its job ended with `{result}`; see `systemctl status {unit}`"
