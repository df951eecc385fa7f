"""The limits of the process that is, or would be, the daemon: locked memory, files, mappings."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from warmd.doctor.finding import Finding, note, ok, warning
from warmd.spoken import size
from warmd.staging.holder.mapping import MAPPINGS, allowed_mappings

_SUBJECT = "limits"
_FEW_FILES = 4096
_FEW_MAPPINGS = 60_000  # the kernel's own limit is 65530: below here somebody has lowered it


@dataclass(frozen=True)
class Limits:
    """Soft limits, getrlimit(2); None is no limit. `of_daemon` False: of who asks."""

    memlock: int | None
    files: int | None
    of_daemon: bool
    mappings: int | None = None  # files, or parts of 256 MiB, that can be held of one set


def look_at_limits(daemon: int | None) -> Limits:
    """Read the limits of the daemon, or of this process where no daemon's can be read."""
    if daemon is not None:
        try:
            return Limits(
                _limit(resource.prlimit(daemon, resource.RLIMIT_MEMLOCK)),
                _limit(resource.prlimit(daemon, resource.RLIMIT_NOFILE)),
                of_daemon=True,
                mappings=allowed_mappings(),
            )
        except OSError:
            pass  # another user's
    return Limits(
        _limit(resource.getrlimit(resource.RLIMIT_MEMLOCK)),
        _limit(resource.getrlimit(resource.RLIMIT_NOFILE)),
        of_daemon=False,
        mappings=allowed_mappings(),
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
    if limits.mappings is not None and limits.mappings < _FEW_MAPPINGS:
        fine = False
        yield warning(
            _SUBJECT,
            f"{MAPPINGS} lets a process hold {limits.mappings} files: staging maps each, and an "
            "engine's program has tens of thousands",
            f"sysctl -w {MAPPINGS}=262144, and the same in /etc/sysctl.d",
        )
    if fine:
        yield ok(_SUBJECT, "locked memory, open files and mappings suffice")
