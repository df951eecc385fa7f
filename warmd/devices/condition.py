"""How a GPU fares: power, clocks, ECC, what its driver asks for, and what it has met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, TypeVar

from warmd.devices.nvml import Unit, opened, units
from warmd.devices.xid import Address, Xid, address_of, xids
from warmd.spoken import count

_T = TypeVar("_T")

_RECENT_S = 86400.0


class Slowed(Enum):
    """Why a GPU runs slower than it could, by NVML's bit (nvmlClocksEventReasons).

    An idle GPU's low clocks and clocks that an operator has set are no such reason.
    """

    POWER_CAP = 0x04, "power limit"
    HARDWARE = 0x08, "hardware slowdown"
    SYNC_BOOST = 0x10, "sync boost"
    HEAT = 0x20, "heat"
    HARDWARE_HEAT = 0x40, "heat, by hardware"
    POWER_BRAKE = 0x80, "power brake"

    def __init__(self, bit: int, said: str) -> None:
        self.bit = bit
        self.said = said

    @property
    def is_trouble(self) -> bool:
        """Whether the host's cooling or power supply is at fault, not the load."""
        return self in (Slowed.HARDWARE, Slowed.HARDWARE_HEAT, Slowed.POWER_BRAKE)


class Recovery(Enum):
    """What the driver asks for (nvmlDeviceGpuRecoveryAction_t); drivers from 560 tell it."""

    NONE = 0, ""
    GPU_RESET = 1, "a reset of the GPU"
    NODE_REBOOT = 2, "a reboot of the host"
    DRAIN_P2P = 3, "an end of all that uses it together with other GPUs"
    DRAIN_AND_RESET = 4, "a reset of the GPU, after an end of all that uses it with other GPUs"
    RECOVER_IMEX_DOMAIN = 5, "a recovery of its IMEX domain"
    BUS_RESET = 6, "a reset of its PCI bus"
    SYSTEM_REBOOT = 7, "a reboot of the host"

    def __init__(self, number: int, said: str) -> None:
        self.number = number
        self.said = said


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a GPU, in a sentence without the GPU's name, and what to do.

    `unfit`: nothing should be started on it until that is done.
    """

    sentence: str
    remedy: str
    unfit: bool = False


@dataclass(frozen=True)
class Condition:
    """How one whole GPU fares; a figure is None where the card or its driver doesn't tell it."""

    index: int
    watts: float | None = None
    watts_limit: float | None = None
    sm_mhz: int | None = None
    sm_mhz_most: int | None = None
    memory_mhz: int | None = None
    memory_mhz_most: int | None = None
    slowed: tuple[Slowed, ...] = ()
    ecc: bool | None = None
    uncorrected: int | None = None  # memory errors since the driver was loaded or the GPU reset
    remap_pending: bool = False  # rows, or pages of older GPUs, are replaced at the next reset
    remap_failed: bool = False  # there is no spare row left where one is needed
    recovery: Recovery | None = None
    xids: tuple[Xid, ...] | None = None  # of the loaded driver, oldest first; None: no log to read

    @property
    def _reset(self) -> str:
        return reset_of(self.index)

    def unfit(self) -> Iterator[Complaint]:
        """Say what is so now, and why nothing should be started on it; the worst first."""
        if self.recovery is not None and self.recovery is not Recovery.NONE:
            match self.recovery:
                case Recovery.NODE_REBOOT | Recovery.SYSTEM_REBOOT:
                    remedy = "reboot"
                case Recovery.DRAIN_P2P | Recovery.RECOVER_IMEX_DOMAIN:
                    remedy = "stop all that uses it, and see what nvidia-smi -q says then"
                case _:
                    remedy = self._reset
            yield Complaint(f"its driver asks for {self.recovery.said}", remedy, unfit=True)
        if self.remap_failed:
            yield Complaint(
                "a bad row of its memory could not be replaced by a spare one",
                f"{self._reset}; if it says so again, have the card replaced",
                unfit=True,
            )

    def complaints(self, now: float) -> Iterator[Complaint]:
        """Say what is wrong, the worst first; `now` is Unix seconds."""
        yield from self.unfit()
        reset = self._reset
        if self.uncorrected:
            errors = count(self.uncorrected, "memory error")
            yield Complaint(
                f"{errors} could not be corrected since the driver was loaded", f"soon {reset}"
            )
        if self.remap_pending:
            yield Complaint("bad memory is replaced at its next reset", f"when it suits, {reset}")
        grave = [xid for xid in self.xids or () if xid.is_grave and now - xid.at < _RECENT_S]
        if grave:
            others = f" and {count(len(grave) - 1, 'other')} today" if len(grave) > 1 else ""
            yield Complaint(f"Xid {grave[-1].number}{others}: {grave[-1].said}", XID_REMEDY)
        if causes := [cause.said for cause in self.slowed if cause.is_trouble]:
            yield Complaint(
                f"it is slowed down: {', '.join(causes)}", "see to the host's cooling and power"
            )


XID_REMEDY = "NVIDIA's list of Xid errors says what to do; journalctl -k | grep -i xid"


def reset_of(index: int) -> str:
    """Say how a GPU is reset."""
    return f"stop all that uses it, then sudo nvidia-smi --gpu-reset -i {index}; else reboot"


def conditions(
    read: Callable[[], tuple[Xid, ...] | None] = xids,
) -> Mapping[int, Condition]:
    """Look at every GPU that answers, by its index. Raises `GpuError` where NVML doesn't answer.

    `read` returns what the kernel's log holds. Blocks, on a sick GPU for long: call it in a thread.
    """
    met = read()
    found: dict[int, Condition] = {}
    with opened() as nvml:
        for unit in units(nvml)[0]:
            if unit.index not in found:
                try:
                    found[unit.index] = _condition(nvml, unit, met)
                except nvml.NVMLError:
                    continue  # it is lost: the sweep says so
    return found


def _condition(nvml: ModuleType, unit: Unit, met: Sequence[Xid] | None) -> Condition:
    gpu = unit.gpu

    def told(ask: Callable[[], _T]) -> _T | None:
        """Return None for what this card can't tell; raise where it tells nothing any more."""
        try:
            return ask()
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired, nvml.NVMLError_Timeout):
            raise  # each further question may take as long
        except nvml.NVMLError:
            return None

    milliwatts = told(lambda: int(nvml.nvmlDeviceGetPowerUsage(gpu)))
    limit = told(lambda: int(nvml.nvmlDeviceGetEnforcedPowerLimit(gpu)))
    reasons = told(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)))
    if reasons is None:  # before driver 535 it had another name
        reasons = told(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)))
    ecc = told(lambda: bool(nvml.nvmlDeviceGetEccMode(gpu)[0]))
    rows = told(lambda: nvml.nvmlDeviceGetRemappedRows(gpu))
    if rows is None:  # before Ampere bad pages were retired
        retiring = told(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu))
        rows = (0, 0, bool(retiring), False)
    address = told(lambda: address_of(nvml.nvmlDeviceGetPciInfo_v3(gpu).busId))
    return Condition(
        index=unit.index,
        watts=None if milliwatts is None else milliwatts / 1000,
        watts_limit=None if limit is None else limit / 1000,
        sm_mhz=told(lambda: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        sm_mhz_most=told(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        memory_mhz=told(lambda: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
        memory_mhz_most=told(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
        slowed=tuple(cause for cause in Slowed if (reasons or 0) & cause.bit),
        ecc=ecc,
        uncorrected=told(lambda: _uncorrected(nvml, gpu)) if ecc else None,
        remap_pending=bool(rows[2]),
        remap_failed=bool(rows[3]),
        recovery=told(lambda: _recovery(nvml, gpu)),
        xids=_of(met, address),
    )


def _of(met: Sequence[Xid] | None, address: Address | None) -> tuple[Xid, ...] | None:
    if met is None or address is None:
        return None
    return tuple(xid for xid in met if xid.address == address)


def _uncorrected(nvml: ModuleType, gpu: Any) -> int:
    return int(
        nvml.nvmlDeviceGetTotalEccErrors(
            gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
    )


def _recovery(nvml: ModuleType, gpu: Any) -> Recovery | None:
    """Ask for the one field that tells it; an older driver says that it doesn't know the field."""
    field = nvml.nvmlDeviceGetFieldValues(gpu, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])[0]
    if field.nvmlReturn != nvml.NVML_SUCCESS:
        return None
    number = int(field.value.uiVal)
    return next((each for each in Recovery if each.number == number), None)
