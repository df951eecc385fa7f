"""What is wrong with a GPU, from what NVML and the kernel's log tell of it."""

from __future__ import annotations

import pytest

from warmd.devices import Condition, Recovery, Slowed
from warmd.devices.xid import Xid, address_of, parse_record

PAGE_FAULT = b"NVRM: Xid (PCI:0000:65:00): 31, pid=7, name=python3, Ch 0000000a, MMU Fault"
OFF_THE_BUS = b"NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."
CONTAINED = b"NVRM: Xid (PCI:000a:65:00 GPU-I:03): 94, pid='<unknown>', Contained: SM (0x1)"


def test_an_xid_is_read_from_the_kernels_log() -> None:
    record = b"2,4077,5140900,-;" + OFF_THE_BUS + b"\n SUBSYSTEM=pci\n DEVICE=+pci:0000:65:00.0\n"
    assert parse_record(record, 1000.0) == Xid(
        (0, 0x65, 0), 79, 1005.1409, "GPU has fallen off the bus.", 5.1409
    )
    assert address_of("00000000:65:00.0") == address_of(b"0000:65:00") == (0, 0x65, 0)
    slice_of_one = parse_record(b"3,1,2,-,caller=T1;" + CONTAINED + b"\n", 0.0)
    assert slice_of_one is not None
    assert (slice_of_one.address, slice_of_one.number) == ((10, 0x65, 0), 94)
    fault = parse_record(b"3,1,2,-;" + PAGE_FAULT, 0.0)
    assert fault is not None
    assert (slice_of_one.is_grave, fault.is_grave) == (True, False)


@pytest.mark.parametrize(
    "record",
    [
        b"6,1,2,-;usb 1-1: new device",
        b"12,1,2,-;" + OFF_THE_BUS,  # a program has written it: facility 1, not the kernel's 0
        b"2,1,2,-;NVRM: Xid (PCI:65): 79, GPU has fallen off the bus.",
        b"2,1,2,-;NVRM: Xid (PCI:0000:65:00): , nothing",
        b"",
    ],
)
def test_what_is_no_xid_of_the_kernel(record: bytes) -> None:
    assert parse_record(record, 0.0) is None


def test_complaints_come_with_what_to_do() -> None:
    met = Xid((0, 1, 0), 79, 990.0, "GPU has fallen off the bus.")
    sick = Condition(
        3,
        slowed=(Slowed.POWER_CAP, Slowed.HARDWARE_HEAT),
        uncorrected=1,
        remap_pending=True,
        remap_failed=True,
        recovery=Recovery.DRAIN_AND_RESET,
        xids=(met, met),
    )
    found = list(sick.complaints(1000.0))
    assert [each.unfit for each in found] == [True, True, False, False, False, False]
    assert "-i 3" in found[0].remedy
    assert found[4].sentence == "Xid 79 and 1 other today: GPU has fallen off the bus."
    assert found[5].sentence == "it is slowed down: heat, by hardware", "a power limit is no harm"
    assert all(each.remedy for each in found)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Recovery.NODE_REBOOT, "reboot"),
        (Recovery.SYSTEM_REBOOT, "reboot"),
        (Recovery.DRAIN_P2P, "stop all that uses it, and see"),
        (Recovery.BUS_RESET, "--gpu-reset"),
    ],
)
def test_what_the_driver_asks_for_is_what_to_do(asked: Recovery, words: str) -> None:
    [complaint] = Condition(0, recovery=asked).complaints(0.0)
    assert complaint.unfit
    assert words in complaint.remedy


def test_a_sound_gpu_is_not_complained_of() -> None:
    told = Condition(0, ecc=True, uncorrected=0, recovery=Recovery.NONE, xids=())
    assert not list(told.complaints(0.0))
    assert not list(Condition(0).complaints(0.0)), "nor one that tells nothing"
