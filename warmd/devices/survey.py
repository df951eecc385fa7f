"""All about this host's GPUs at one moment, for people: who holds what, and how they fare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from warmd.devices.condition import Condition, conditions
from warmd.devices.nvml import NO_GPU, GpuError, SickGpu
from warmd.devices.processes import owners
from warmd.devices.sweep import CardUse, host_sweep, sweep


@dataclass(frozen=True)
class Holder:
    """A process that holds some of a device. `bytes` None: the driver doesn't tell how much."""

    pid: int
    name: str | None  # None: hidden, or it has ended
    owner: str | None  # the replica whose process it is; None: not of warmd
    bytes: int | None


@dataclass(frozen=True)
class Surveyed:
    """One device, who holds it (the most first), and how the whole GPU fares.

    `driver_index`: the driver's own number of it, where the config names it by another. `is_new`:
    it wasn't there when warmd started.
    """

    use: CardUse
    holders: tuple[Holder, ...]
    condition: Condition | None
    driver_index: int | None = None
    is_new: bool = False


@dataclass(frozen=True)
class Survey:
    """All devices. `no_gpu` says why the host's memory stands in for them."""

    cards: tuple[Surveyed, ...]
    sick: tuple[SickGpu, ...] = ()
    no_gpu: str | None = None


def survey(roots: Mapping[int, str]) -> Survey:
    """Look at all devices; `roots` names the replica of each engine's main process.

    Where NVML lists nothing to use, the host's memory is the device. Raises `GpuError` where a
    driver is there and doesn't answer as it should. Blocks, on a sick GPU for long.
    """
    try:
        found = sweep()
        fares: Mapping[int, Condition] = conditions()
        no_gpu = None
    except GpuError as error:
        if error.trouble not in NO_GPU:
            raise
        found, fares, no_gpu = host_sweep(roots, names=True), {}, str(error)
    cards = sorted(found.cards.values(), key=lambda card: (card.index, card.slice or 0))
    owned = owners(roots)
    return Survey(
        tuple(
            Surveyed(card, tuple(_holders(card, owned)), fares.get(card.index)) for card in cards
        ),
        found.sick,
        no_gpu,
    )


def _holders(card: CardUse, owned: Mapping[int, str]) -> Iterator[Holder]:
    for pid, size in sorted(card.held.items(), key=lambda each: (-each[1], each[0])):
        yield Holder(pid, _name(pid), owned.get(pid), size)
    for pid, size in (card.others or {}).items():
        yield Holder(pid, _name(pid), None, size)
    for pid in sorted(card.unsized):
        yield Holder(pid, _name(pid), owned.get(pid), None)


def _name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None
