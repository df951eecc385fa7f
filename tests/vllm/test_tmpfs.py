"""The real vLLM over a copy of its model in a tmpfs: it reads the copy, whatever the disk says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from daemon_rig import a_daemon
from tmpfs_scene import a_stage

PATIENCE_S = 400.0

pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)


def spoil(file: Path) -> None:
    """Make a file unreadable to whoever wants its content, and the same to whoever looks at it."""
    status = file.stat()
    with file.open("r+b") as content:
        content.write(b"\xff" * min(4096, status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_engine_starts_from_the_copy_and_answers() -> None:
    with a_daemon() as daemon, a_stage(daemon.folder) as stage:
        weights = daemon.folder / "weights"
        shutil.copytree(Path(os.environ["WARMD_TEST_MODEL"]), weights)
        daemon.write_config({}, gateway='max_wait = "400s"')
        text = daemon.config.read_text().partition("[engine]")[0]
        daemon.config.write_text(
            f"""{text}
[staging]
tmpfs = "{stage}"
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
stop_timeout = "20s"
[engine.env]
VLLM_CPU_KVCACHE_SPACE = "1"
[models.tiny]
weights = "{weights}"
stage = "tmpfs"
args = ["--max-model-len", "1024", "--enforce-eager"]
"""
        )
        daemon.start()
        daemon.wait_for_rung("staged", "tiny")
        assert (daemon.folder / "cache/models/tiny").readlink() == stage / "tiny"
        # Whoever reads the weights or the tokenizer on the disk from here on fails.
        spoilt = [*weights.glob("*.safetensors"), weights / "tokenizer.json"]
        for file in spoilt:
            spoil(file)
        for file in spoilt:
            assert (stage / "tiny" / file.name).stat().st_size == file.stat().st_size
        answer = daemon.chat("tiny", max_tokens=4, patience=PATIENCE_S)
        assert answer.status == 200, f"{answer.body!r}\n{daemon.log}"
        assert answer.json["usage"]["completion_tokens"] >= 1
        assert daemon.replica("tiny.0")["rung"] == "hot"
        daemon.stop()
