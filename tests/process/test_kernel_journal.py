"""Xid errors as the journal tells them, to who may not open /dev/kmsg.

No kernel here has a driver that tells any: `journalctl` is a stand-in, its entries are those that
journald (src/journal/journald-kmsg.c) makes of the kernel's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmd.devices import driver_log, xid
from warmd.devices.kernel_journal import KernelJournal

# Says what is behind the cursor that it is given; fails for a cursor that is no more.
JOURNALCTL = """#!/usr/bin/env python3
import json, pathlib, sys
folder = pathlib.Path({folder!r})
assert sys.argv[1:3] == ["--dmesg", "--quiet"]
entries = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
last = sys.argv[-1]
behind = last.removeprefix("--after-cursor=") if "after" in last else None
with (folder / "asked").open("a") as asked:
    print(behind, file=asked)
cursors = [entry["__CURSOR"] for entry in entries]
if behind and behind not in cursors:
    sys.exit("Failed to seek to cursor: Invalid argument")
for entry in entries[cursors.index(behind) + 1 if behind else 0 :]:
    print(json.dumps(entry))
"""


def entry(cursor: str, at: float, message: object, facility: int = 0) -> str:
    fields = {
        "__CURSOR": cursor,
        "MESSAGE": message,
        "PRIORITY": "3",
        "SYSLOG_FACILITY": str(facility),
        "_SOURCE_MONOTONIC_TIMESTAMP": f"{at * 1e6:.0f}",
    }
    return json.dumps(fields) + "\n"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL.format(folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(xid, "KERNEL_LOG", tmp_path / "closed")
    monkeypatch.setattr(xid, "_JOURNAL", KernelJournal(b"NVRM: "))
    return tmp_path / "journal"


def test_xids_without_the_right_to_open_the_kernels_log(journal: Path) -> None:
    journal.write_text("")
    assert driver_log() is None, "nothing of the kernel: one that can't be read looks the same"
    fell = "NVRM: Xid (PCI:0000:65:00): 79, pid=7, GPU has fallen off the bus."
    journal.write_text(
        entry("a", 1.5, "Linux version 6.1")
        + entry("b", 2.25, "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.1")
        + entry("c", 9.5, fell)
        + entry("d", 9.6, fell, facility=1)  # a program's words in /dev/kmsg
        + entry("e", 9.7, [*b"NVRM: \xff no text"])
    )
    log = driver_log()
    assert log is not None
    assert log.loaded == 2.25
    [met] = log.xids
    assert (met.address, met.number, met.stamp) == ((0, 0x65, 0), 79, 9.5)
    assert met.said == "pid=7, GPU has fallen off the bus."

    with journal.open("a") as more:
        more.write(entry("f", 11.0, "NVRM: Xid (PCI:0000:65:00): 94, Contained: SM (0x1)."))
    log = driver_log()
    assert log is not None
    assert [each.number for each in log.xids] == [79, 94]
    assert (journal.parent / "asked").read_text().split() == ["None", "None", "e"]

    # Rotated away: what is left is read anew.
    journal.write_text(entry("g", 12.0, "NVRM: Xid (PCI:0000:66:00): 48, DBE"))
    log = driver_log()
    assert log is not None
    assert [each.number for each in log.xids] == [48]


def test_without_a_journalctl_nothing_is_known(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(journal.parent / "nothing"))
    assert driver_log() is None
