"""What GPUs this host has: name, UUID, memory; MIG slices are devices of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

from warmd.devices.nvml import GpuError, GpuTrouble, SickGpu, Unit, gpu_error, opened, units
from warmd.devices.xid import address_of


@dataclass(frozen=True)
class Gpu:
    """A GPU or MIG slice that answers. `used` counts what everybody holds, the driver too.

    Both in bytes.
    """

    index: int  # NVML's, in the order of the PCI bus, as nvidia-smi has it; a slice has its GPU's
    uuid: str
    name: str
    total: int
    used: int
    slice: int | None = None  # its number within a GPU in MIG mode


@dataclass(frozen=True)
class Listed:
    """A whole GPU that the driver lists, in MIG mode or not.

    `address`: its place on the PCI bus (`0000:65:00`); None where that isn't told.
    """

    index: int
    uuid: str
    address: str | None = None


@dataclass(frozen=True)
class Inventory:
    """All GPUs of the host, those that answer and those that don't.

    `listed`: the whole GPUs of which more is told than that they are there.
    """

    driver: str
    gpus: tuple[Gpu, ...]
    sick: tuple[SickGpu, ...]
    listed: tuple[Listed, ...] = ()


def inventory() -> Inventory:
    """Look at every GPU. Raises `GpuError` where NVML doesn't answer or lists no GPU.

    Blocks, on a sick GPU for long: call it in a thread.
    """
    with opened() as nvml:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        found: list[Gpu] = []
        there, sick = units(nvml)
        for unit in there:
            try:
                found.append(_gpu(nvml, unit))
            except nvml.NVMLError as error:
                sick.append(SickGpu(unit.index, gpu_error(nvml, error), unit.uuid))
        listed = tuple(_listed(nvml, there, sick))
    if not found and not sick:
        raise GpuError(GpuTrouble.NO_GPU)
    return Inventory(driver, tuple(found), tuple(sick), listed)


def gpus() -> tuple[Gpu, ...]:
    """List the GPUs that answer. Raises `GpuError` where there is none, with the reason."""
    found = inventory()
    if not found.gpus:
        raise found.sick[0].error
    return found.gpus


def _listed(nvml: ModuleType, there: Sequence[Unit], sick: Sequence[SickGpu]) -> Iterator[Listed]:
    # One that didn't tell even its UUID isn't asked again: each question may take long.
    named = {each.index for each in there} | {each.index for each in sick if each.uuid is not None}
    for index in sorted(named):
        with suppress(nvml.NVMLError):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, address = str(nvml.nvmlDeviceGetUUID(gpu)), None
            with suppress(nvml.NVMLError, ValueError):
                domain, bus, device = address_of(nvml.nvmlDeviceGetPciInfo_v3(gpu).busId)
                address = f"{domain:04x}:{bus:02x}:{device:02x}"
            yield Listed(index, uuid, address)


def _gpu(nvml: ModuleType, unit: Unit) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(unit.handle)
    return Gpu(
        index=unit.index,
        uuid=unit.uuid,
        name=str(nvml.nvmlDeviceGetName(unit.handle)),
        total=int(memory.total),
        used=int(memory.used),
        slice=unit.slice,
    )
