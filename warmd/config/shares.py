"""Whether the shares of the host's RAM that a config gives away are there together."""

from __future__ import annotations

from collections.abc import Iterator

from warmd.config.settings import Settings, SleepMode
from warmd.spoken import size


def overbooked(settings: Settings, total: int) -> Iterator[str]:
    """Say, in a sentence, where `[ram]` gives away more than a host of `total` bytes has."""
    ram = settings.ram
    shares = {"staging": ram.staging, "sleeping": ram.sleeping, "reserve": ram.reserve}
    if settings.engine.sleep is SleepMode.OFF:
        del shares["sleeping"]  # nobody sleeps, and takes any
    parts = {f"ram.{name}": share.of(total) for name, share in shares.items()}
    if sum(parts.values()) > total:
        *most, last = (f"{name} ({size(part)})" for name, part in parts.items())
        yield (
            f"{', '.join(most)} and {last} are {size(sum(parts.values()))} together, and this host "
            f"has {size(total)} of RAM: some files or sleepers won't find theirs; lower one of them"
        )
