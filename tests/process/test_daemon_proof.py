"""A daemon whose weights are copied into a tmpfs, or must be what their digests say."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_rig import Daemon, a_daemon, until
from tmpfs_scene import mounts


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as it:
        yield it
        if it.process is not None:
            it.stop()
        until(lambda: not mounts(it.run_dir), "the tmpfs is unmounted")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_engines_path_leads_to_the_copy_while_it_is_there(
    daemon: Daemon, ending: signal.Signals
) -> None:
    daemon.write_config({"m": 'stage = "tmpfs"'})
    daemon.start()
    daemon.wait_for_rung("staged")
    copy, link = daemon.run_dir / "stage" / "m", daemon.folder / "cache" / "models" / "m"
    assert link.resolve() == copy
    weights = daemon.folder / "weights-m"
    assert digest(link / "model.safetensors") == digest(weights / "model.safetensors")
    assert daemon.chat().status == 200
    until(lambda: not copy.exists(), "it is let go: the engine has loaded it")
    assert link.resolve() == weights
    daemon.set("m", "staged")
    daemon.wait_for_rung("staged")
    assert link.resolve() == copy
    daemon.stop(ending)
    until(lambda: not mounts(daemon.run_dir), "the tmpfs is unmounted")


def test_weights_that_are_not_what_they_shall_be_are_never_loaded(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "cold"\nmax_wait = "20s"\nverify = "SHA256SUMS"'})
    weights = daemon.folder / "weights-m"
    file = weights / "model.safetensors"
    sums = weights / "SHA256SUMS"
    was = digest(file)
    sums.write_text(f"{was}  model.safetensors\n")
    file.write_bytes(b"flipped" + file.read_bytes()[7:])
    daemon.start()
    answer = daemon.chat()
    assert answer.status == 503
    assert answer.json["error"]["message"] == (
        "m can't be started and needs an operator: its weights aren't what they shall be "
        "(SHA256SUMS)"
    )
    told = f"{file}: has the digest {digest(file)[:12]}… where {was[:12]}… is expected; download"
    until(lambda: told in (daemon.status["models"]["m"]["held_up_by"] or ""), "status says it")
    assert told in daemon.log
    assert daemon.record() == []

    sums.write_text(f"{digest(file)}  model.safetensors\n")
    daemon.set("m", "hot")  # an operator's word: look again
    daemon.wait_for("ready")
    daemon.set("m", "cold")
    daemon.wait_for("down")
    file.write_bytes(b"another" + file.read_bytes()[7:])
    starts = len(daemon.record())
    assert daemon.chat().status == 503
    assert len(daemon.record()) == starts, "others came in their place"


def test_a_changed_file_is_verified_before_the_start_and_counts_as_no_failure(
    daemon: Daemon,
) -> None:
    daemon.write_config({"m": 'verify = "SHA256SUMS"'})
    weights = daemon.folder / "weights-m"
    file, sums = weights / "model.safetensors", weights / "SHA256SUMS"
    sums.write_text(f"{digest(file)}  model.safetensors\n")
    daemon.start()
    daemon.wait_for_rung("staged")
    daemon.set("m", "cold")
    daemon.wait_for_rung("cold")
    os.utime(file)  # the same bytes, but who knows that
    daemon.set("m", "auto")
    assert daemon.chat().status == 200
    assert "error" not in daemon.log
    assert daemon.status["models"]["m"]["replicas"][0]["failures"] == 0
