"""The limits of the process that is, or would be, the daemon: locked memory and open files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from warmd.doctor.finding import Finding, note, ok, warning
from warmd.spoken import size

_SUBJECT = "limits"
_FEW_FILES = 4096


@dataclass(frozen=True)
class Limits:
    """Soft limits, getrlimit(2); None is no limit. `of_daemon` False: of who asks."""

    memlock: int | None
    files: int | None
    of_daemon: bool


def look_at_limits(daemon: int | None) -> Limits:
    """Read the limits of the daemon, or of this process where no daemon's can be read."""
    if daemon is not None:
        try:
            return Limits(
                _limit(resource.prlimit(daemon, resource.RLIMIT_MEMLOCK)),
                _limit(resource.prlimit(daemon, resource.RLIMIT_NOFILE)),
                of_daemon=True,
            )
        except OSError:
            pass  # another user's
    return Limits(
        _limit(resource.getrlimit(resource.RLIMIT_MEMLOCK)),
        _limit(resource.getrlimit(resource.RLIMIT_NOFILE)),
        of_daemon=False,
    )


def _limit(pair: tuple[int, int]) -> int | None:
    return None if pair[0] == resource.RLIM_INFINITY else pair[0]


def judge_limits(limits: Limits, weights: int, pins: bool) -> Iterator[Finding]:
    """`weights`: bytes of the largest model; `pins`: whether engines pin them while asleep."""
    whose = "the daemon's" if limits.of_daemon else "in this session the"
    fine = True
    if pins and limits.memlock is not None and limits.memlock < weights:
        fine = False
        yield warning(
            _SUBJECT,
            f"{whose} limit of locked memory is {size(limits.memlock)}, less than the largest "
            f"model's weights ({size(weights)}), which a sleeping engine keeps pinned",
            "LimitMEMLOCK=infinity in warmd's unit, or memlock in /etc/security/limits.conf",
        )
    if limits.files is not None and limits.files < _FEW_FILES:
        fine = False
        yield note(
            _SUBJECT,
            f"{whose} limit of open files is {limits.files}: enough for about "
            f"{max(0, limits.files // 2 - 50)} requests at once",
            f"for more: LimitNOFILE=65536 in warmd's unit, or ulimit -n {_FEW_FILES * 16}",
        )
    if fine:
        yield ok(_SUBJECT, "locked memory and open files suffice")
