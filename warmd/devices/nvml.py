"""What GPUs there are and what processes hold of them, as NVIDIA's library (NVML) tells it.

NVML is opened for each look and closed after it: nothing keeps the device files open, so a driver
can be exchanged under a running daemon. pynvml is imported only where the library is installed,
because it costs some MiB. Every call may block, on a sick GPU for long: call it in a thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

LIBRARY = "libnvidia-ml.so.1"


class GpuTrouble(StrEnum):
    """Why a GPU, or all of NVML, can't be used."""

    NO_LIBRARY = "no-library"  # the driver's user-space part isn't installed
    NO_DRIVER = "no-driver"  # the kernel module isn't loaded, or has no device
    TOO_OLD = "too-old"  # the library lacks what is asked of it
    MISMATCH = "mismatch"  # library and kernel module are of different versions
    NO_PERMISSION = "no-permission"
    LOST = "lost"  # it fell off the bus (Xid 79)
    RESET_REQUIRED = "reset-required"
    NO_GPU = "no-gpu"  # NVML works and lists none
    OTHER = "other"


NO_GPU = frozenset({GpuTrouble.NO_LIBRARY, GpuTrouble.NO_DRIVER, GpuTrouble.NO_GPU})
"""What says that there is none, as yet at least: any other trouble is that of a GPU."""

_SAID = {
    GpuTrouble.NO_LIBRARY: f"NVIDIA's library {LIBRARY} is not installed, or can't be loaded",
    GpuTrouble.NO_DRIVER: "the NVIDIA kernel driver is not loaded",
    GpuTrouble.TOO_OLD: "the NVIDIA driver is too old for warmd",
    GpuTrouble.MISMATCH: "the NVIDIA library and the loaded kernel driver differ in version",
    GpuTrouble.NO_PERMISSION: "this user may not use the NVIDIA driver",
    GpuTrouble.LOST: "it is lost: it fell off the bus, or the driver gave it up",
    GpuTrouble.RESET_REQUIRED: "it must be reset before it works again",
    GpuTrouble.NO_GPU: "the NVIDIA driver lists no GPU",
    GpuTrouble.OTHER: "the NVIDIA driver reports an error",
}


class GpuError(Exception):
    """A GPU, or NVML as a whole, can't be asked. The text is one sentence without a remedy."""

    def __init__(self, trouble: GpuTrouble, said: str = "") -> None:
        """`said` is NVML's own word for it, shown where ours says less."""
        text = _SAID[trouble]
        super().__init__(f"{text} ({said})" if said and trouble is GpuTrouble.OTHER else text)
        self.trouble = trouble


@dataclass(frozen=True)
class Gpu:
    """A GPU that answers. `used` counts what everybody holds, the driver too; both in bytes."""

    index: int  # NVML's, in the order of the PCI bus, as nvidia-smi has it
    uuid: str
    name: str
    total: int
    used: int


@dataclass(frozen=True)
class SickGpu:
    """A GPU that is there and doesn't answer."""

    index: int
    error: GpuError


@dataclass(frozen=True)
class Inventory:
    """All GPUs of the host, those that answer and those that don't."""

    driver: str
    gpus: tuple[Gpu, ...]
    sick: tuple[SickGpu, ...]


def inventory() -> Inventory:
    """Look at every GPU. Raises `GpuError` where NVML doesn't answer or lists no GPU."""
    with _nvml() as nvml:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        found: list[Gpu] = []
        sick: list[SickGpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found.append(_gpu(nvml, index))
            except nvml.NVMLError as error:
                sick.append(SickGpu(index, _error(nvml, error)))
    if not found and not sick:
        raise GpuError(GpuTrouble.NO_GPU)
    return Inventory(driver, tuple(found), tuple(sick))


def gpus() -> tuple[Gpu, ...]:
    """List the GPUs that answer. Raises `GpuError` where there is none, with the reason."""
    found = inventory()
    if not found.gpus:
        raise found.sick[0].error
    return found.gpus


def device_bytes(pids: Collection[int]) -> int | None:
    """Bytes of VRAM that these processes hold over all GPUs; None where that can't be known."""
    held = held_by_card(pids)
    return None if held is None else sum(held.values())


def held_by_card(pids: Collection[int]) -> dict[str, int] | None:
    """Bytes of VRAM that these processes hold, by UUID of each GPU on which they hold any.

    None where that can't be known: without NVML, where one GPU doesn't answer, and where the
    driver knows a process but not its memory (as for a process of another container).
    """
    held: dict[str, int] = {}
    try:
        with _nvml() as nvml:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                # By its version: the bare name raises a stranger's error where it isn't known.
                for process in nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle):
                    if process.pid not in pids:
                        continue
                    if process.usedGpuMemory is None:
                        return None
                    uuid = str(nvml.nvmlDeviceGetUUID(handle))
                    held[uuid] = held.get(uuid, 0) + int(process.usedGpuMemory)
    except GpuError:
        return None
    return held


@contextmanager
def _nvml() -> Iterator[ModuleType]:
    """Open NVML, and close it after use. What it objects to is raised as `GpuError`."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        raise GpuError(GpuTrouble.NO_LIBRARY) from None
    import pynvml  # noqa: PLC0415  some MiB that a host without a GPU shall not pay

    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise _error(pynvml, error) from error


def _gpu(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total=int(memory.total),
        used=int(memory.used),
    )


def _error(nvml: ModuleType, error: Any) -> GpuError:
    troubles = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: GpuTrouble.NO_LIBRARY,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: GpuTrouble.NO_DRIVER,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: GpuTrouble.TOO_OLD,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: GpuTrouble.TOO_OLD,
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: GpuTrouble.MISMATCH,
        nvml.NVML_ERROR_NO_PERMISSION: GpuTrouble.NO_PERMISSION,
        nvml.NVML_ERROR_GPU_IS_LOST: GpuTrouble.LOST,
        nvml.NVML_ERROR_RESET_REQUIRED: GpuTrouble.RESET_REQUIRED,
    }
    return GpuError(troubles.get(error.value, GpuTrouble.OTHER), str(error))
