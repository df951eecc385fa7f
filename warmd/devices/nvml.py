"""NVIDIA's library (NVML): opened for a look, what it lists, and why it can't be asked.

NVML is opened for each look and closed after it: nothing keeps the device files open, so a driver
can be exchanged under a running daemon. pynvml is imported only where the library is installed,
because it costs some MiB. Every call may block, on a sick GPU for long: call it in a thread.

A GPU in MIG mode is its slices: each has memory and a UUID of its own (NVIDIA's MIG user guide).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
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
    NO_SLICE = "no-slice"  # it is in MIG mode, and nobody has made a slice
    SHARED_SLICE = "shared-slice"  # compute instances that share one GPU instance's memory
    MISSING = "missing"  # it was here, and the driver lists it no more
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
    GpuTrouble.NO_SLICE: "it is in MIG mode and has no slice",
    GpuTrouble.SHARED_SLICE: "several of its MIG slices share one memory, so none has its own",
    GpuTrouble.MISSING: "the driver doesn't list it",
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
class SickGpu:
    """A GPU that is there and can't be used; `uuid` None where it doesn't even tell that."""

    index: int
    error: GpuError
    uuid: str | None = None


@dataclass(frozen=True)
class Unit:
    """What one engine can be bound to: a GPU, or a MIG slice of one. `handle` is NVML's."""

    index: int  # the GPU's, in the order of the PCI bus, as nvidia-smi has it
    slice: int | None  # its number within a GPU in MIG mode
    uuid: str
    handle: Any
    gpu: Any  # the handle of the whole GPU, which alone knows power, clocks and errors


@contextmanager
def opened() -> Iterator[ModuleType]:
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
        raise gpu_error(pynvml, error) from error


def units(nvml: ModuleType) -> tuple[list[Unit], list[SickGpu]]:
    """List every GPU and MIG slice, those that can be used and those that can't."""
    found: list[Unit] = []
    sick: list[SickGpu] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nvml.nvmlDeviceGetUUID(gpu))
            if not _has_slices(nvml, gpu):
                found.append(Unit(index, None, uuid, gpu, gpu))
                continue
            slices = _slices(nvml, index, gpu)
            if not slices:
                sick.append(SickGpu(index, GpuError(GpuTrouble.NO_SLICE), uuid))
            instances = [nvml.nvmlDeviceGetGpuInstanceId(each.handle) for each in slices]
            for each, instance in zip(slices, instances, strict=True):
                if instances.count(instance) == 1:
                    found.append(each)
                else:
                    sick.append(SickGpu(index, GpuError(GpuTrouble.SHARED_SLICE), each.uuid))
        except nvml.NVMLError as error:
            sick.append(SickGpu(index, gpu_error(nvml, error)))
    return found, sick


def _has_slices(nvml: ModuleType, gpu: Any) -> bool:
    """Whether a GPU is in MIG mode; few GPUs know it, and old drivers don't."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(gpu)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except (
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_FunctionNotFound,
    ):
        return False


def _slices(nvml: ModuleType, index: int, gpu: Any) -> list[Unit]:
    found = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with suppress(nvml.NVMLError_NotFound):  # slices have gaps between their numbers
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
            found.append(Unit(index, number, str(nvml.nvmlDeviceGetUUID(handle)), handle, gpu))
    return found


def gpu_error(nvml: ModuleType, error: Any) -> GpuError:
    """Say what an error of NVML means."""
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
