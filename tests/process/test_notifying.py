"""Word to a service manager, over a socket of the test's own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from warmd.notifying import ServiceManager


@pytest.mark.parametrize("address", ["{folder}/notify", "@warmd-test-notify-{pid}"])
def test_a_status_may_hold_any_letter(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = address.format(folder=tmp_path, pid=os.getpid())
    monkeypatch.setenv("NOTIFY_SOCKET", named)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + named[1:] if named[0] == "@" else named)
        manager.settimeout(5)
        ours = ServiceManager()
        assert ours.listens
        ours.tell("WATCHDOG=1", "STATUS=größer → 1 hot")
        assert manager.recv(4096).decode() == "WATCHDOG=1\nSTATUS=größer → 1 hot"
    ours.tell("STATUS=it has gone")
    assert ours._socket is not None
    ours._socket.close()  # a daemon has it to its end


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_without_a_manager_all_is_in_vain(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    nobody = ServiceManager()
    assert not nobody.listens
    nobody.tell("READY=1")
    nobody.keep("gateway", [])
