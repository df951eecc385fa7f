"""A host of fake GPUs below a real daemon, and what its kernel's log says of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Answer, Daemon, until
from nvml_rig import GIB, environment

LOG = """\
from pathlib import Path
import warmd.devices.xid
warmd.devices.xid.KERNEL_LOG = Path({path!r})
"""
LOST, RESET = 15, 16  # NVML's error numbers


class Host:
    """Fake GPUs of 80 GiB, and what the kernel's log says of them."""

    uuids: tuple[str, ...] = ("GPU-aaaa", "GPU-bbbb")
    missing: frozenset[str] = frozenset()  # those that the driver doesn't list

    def __init__(self, folder: Path) -> None:
        self._says = folder / "nvml"
        self._log = folder / "kmsg"
        self._log.touch()
        self.gpus()

    def gpus(self, sick: dict[int, int] | None = None, *lines: str) -> None:
        """`sick` maps GPUs to the error with which the driver answers for them."""
        told = []
        # The driver numbers what it lists; each card stays in its own place on the bus.
        there = [n for n, uuid in enumerate(self.uuids) if uuid not in self.missing]
        for index, place in enumerate(there):
            code = (sick or {}).get(place)
            gpu = f"gpu {self.uuids[place]} {80 * GIB} 0 NVIDIA Fake 80GB"
            told.append(
                f"{gpu}\nfact {index} bus {101 + place}" if code is None else f"sick {code}"
            )
        draft = self._says.with_suffix(".draft")
        draft.write_text("\n".join((*told, *lines)) + "\n")
        draft.replace(self._says)

    def meets(self, gpu: int, number: int, at: float = 7.0) -> None:
        """Write an Xid of `gpu` to the log; each record is a read, as /dev/kmsg has it."""
        text = f"3,{number},{at * 1e6:.0f},-;NVRM: Xid (PCI:0000:{101 + gpu:x}:00): {number}, bad\n"
        with self._log.open("a") as log:
            log.write(text.ljust(8192))


def a_host(daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Give `daemon` the fake NVML that was built in `nvml`, and a kernel's log of its own."""
    for name, value in environment(nvml, daemon.folder / "nvml").items():
        monkeypatch.setenv(name, value)
    site = daemon.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LOG.format(path=str(daemon.folder / "kmsg")))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    return Host(daemon.folder)


def pool(gpus: str = "[0, 1]", name: str = "p", vram: str = "70GiB") -> str:
    return f'[pools.{name}]\nvram = "{vram}"\ngpus = {gpus}\n'


def member(rest: str = "hot", name: str = "p", vram: str = "30GiB") -> str:
    return f'pool = "{name}"\nvram = "{vram}"\nresting = "{rest}"'


def warmctl(daemon: Daemon, *args: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.run_dir / "control.sock"))
    command = [sys.executable, "-m", "warmd.cli.main", *args, *socket]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def return_gpu(daemon: Daemon, name: str) -> Answer:
    return daemon.control("POST", "/gpu/return", {"gpu": name})


def card(daemon: Daemon, index: int) -> Any:
    return next(each for each in daemon.status["cards"] if each["index"] == index)


def held_up(daemon: Daemon, words: str, model: str) -> str:
    def reason() -> str:
        return str(daemon.status["models"][model]["held_up_by"])

    until(lambda: words in reason(), f"{model} is held up by {words!r}: {daemon.status}")
    return reason()


def seen_by(daemon: Daemon, model: str) -> list[str]:
    """The GPU of each engine of `model`, in the order of their starts."""
    return [
        each["env"]["CUDA_VISIBLE_DEVICES"]
        for each in daemon.record(model)
        if each["event"] == "started"
    ]
