"""One look at all GPUs: what is taken of each, and which process holds how much."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

from warmd.devices.memory import host_memory
from warmd.devices.nvml import GpuError, GpuTrouble, SickGpu, Unit, gpu_error, opened, units
from warmd.devices.processes import own_memory, owners, strangers
from warmd.ladder import HOST

_NAMED = 3
_NAMED_LEAST = 256 * 2**20


@dataclass(frozen=True)
class CardUse:
    """What is taken of one GPU, of one MIG slice, or of the host's memory; sizes in bytes.

    `used` is what everybody holds, the driver too: more than `held` adds up to. `unsized` are
    processes that the driver knows without their memory, as those of another container. `others`:
    of the host's memory, the processes that are no engine's and hold most; None: nobody looked.
    """

    key: str  # the UUID, or `HOST`
    index: int
    name: str
    total: int
    used: int
    held: Mapping[int, int]
    unsized: frozenset[int]
    slice: int | None = None  # its number within a GPU in MIG mode
    others: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Sweep:
    """All devices of the host by their keys, and the GPUs that didn't answer."""

    cards: Mapping[str, CardUse]
    sick: tuple[SickGpu, ...]


def sweep() -> Sweep:
    """Look at every GPU and MIG slice. Raises `GpuError` where NVML doesn't answer.

    Also where it lists no GPU at all. Blocks, on a sick GPU for long: call it in a thread.
    """
    with opened() as nvml:
        there, sick = units(nvml)
        cards: dict[str, CardUse] = {}
        for unit in there:
            try:
                cards[unit.uuid] = _use(nvml, unit)
            except nvml.NVMLError as error:
                sick.append(SickGpu(unit.index, gpu_error(nvml, error), unit.uuid))
    if not cards and not sick:
        raise GpuError(GpuTrouble.NO_GPU)
    return Sweep(cards, tuple(sick))


def host_sweep(roots: Collection[int], *, names: bool = False) -> Sweep:
    """Look at the host's memory as the one device; `held` by all processes below `roots`.

    `names`: the largest of all others are looked for as well, which reads some of every process.
    Counted is what a process alone has taken, see `own_memory`. Cheap enough for each few seconds.
    """
    held: dict[int, int] = {}
    unsized: set[int] = set()
    for pid in owners(dict.fromkeys(roots)):
        try:
            size = own_memory(pid)
        except PermissionError:
            unsized.add(pid)
            continue
        if size is not None:
            held[pid] = size
    memory = host_memory()
    used = memory.total - memory.available
    others = strangers((*roots, *held, *unsized), _NAMED, _NAMED_LEAST) if names else None
    card = CardUse(
        *(HOST, 0, "host memory", memory.total, used, held, frozenset(unsized)), others=others
    )
    return Sweep({HOST: card}, ())


def held_by_card(pids: Collection[int]) -> dict[str, int] | None:
    """Bytes of VRAM that these processes hold, by UUID of each GPU on which they hold any.

    None where that can't be known: without NVML, where one GPU doesn't answer, and where the
    driver knows a process but not its memory (as for a process of another container).
    """
    try:
        found = sweep()
    except GpuError:
        return None
    if any(each.error.trouble not in _UNUSED for each in found.sick):
        return None
    held: dict[str, int] = {}
    for key, card in found.cards.items():
        if not card.unsized.isdisjoint(pids):
            return None
        taken = sum(size for pid, size in card.held.items() if pid in pids)
        if taken:
            held[key] = taken
    return held


_UNUSED = frozenset({GpuTrouble.NO_SLICE, GpuTrouble.SHARED_SLICE})
"""Nothing of ours can be on such a one: warmd places nothing there."""


def _use(nvml: ModuleType, unit: Unit) -> CardUse:
    # Before its processes: one that starts in between would be held and not used.
    held, unsized = _processes(nvml, unit)
    memory = nvml.nvmlDeviceGetMemoryInfo(unit.handle)
    return CardUse(
        key=unit.uuid,
        index=unit.index,
        name=str(nvml.nvmlDeviceGetName(unit.handle)),
        total=int(memory.total),
        used=int(memory.used),
        held=held,
        unsized=unsized,
        slice=unit.slice,
    )


def _processes(nvml: ModuleType, unit: Unit) -> tuple[dict[int, int], frozenset[int]]:
    """Return what each process holds, and those that hold nobody knows how much.

    One that computes and draws stands in both of NVML's lists, with the same figure.
    """
    # By their versions: the bare names raise a stranger's error where they aren't known.
    lists = [nvml.nvmlDeviceGetComputeRunningProcesses_v3(unit.handle)]
    with suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):  # can't draw
        lists.append(nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(unit.handle))
    held: dict[int, int] = {}
    unsized: set[int] = set()
    for processes in lists:
        here: dict[int, int] = {}
        for process in processes:
            if process.usedGpuMemory is None:
                unsized.add(process.pid)
            else:
                here[process.pid] = here.get(process.pid, 0) + int(process.usedGpuMemory)
        for pid, size in here.items():
            held[pid] = max(size, held.get(pid, 0))
    return held, frozenset(unsized - held.keys())
