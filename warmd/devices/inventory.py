"""What GPUs this host has: name, UUID, memory; MIG slices are devices of their own."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from warmd.devices.nvml import GpuError, GpuTrouble, SickGpu, Unit, gpu_error, opened, units


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
class Inventory:
    """All GPUs of the host, those that answer and those that don't."""

    driver: str
    gpus: tuple[Gpu, ...]
    sick: tuple[SickGpu, ...]


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
    if not found and not sick:
        raise GpuError(GpuTrouble.NO_GPU)
    return Inventory(driver, tuple(found), tuple(sick))


def gpus() -> tuple[Gpu, ...]:
    """List the GPUs that answer. Raises `GpuError` where there is none, with the reason."""
    found = inventory()
    if not found.gpus:
        raise found.sick[0].error
    return found.gpus


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
