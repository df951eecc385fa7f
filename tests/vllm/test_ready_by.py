"""Ready by, with the real vLLM on the CPU: from measured times, and over a killed daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon, until
from noon import HOST, clock

PATIENCE_S = 400.0
"""A first start compiles; on two busy cores that takes minutes."""

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        write(daemon)
        yield daemon


def write(daemon: Daemon, windows: str = "") -> None:
    daemon.write_config({}, host=HOST)
    cache = ROOT / ".cache" / "vllm-tier"
    text = daemon.config.read_text().replace(str(daemon.folder / "cache"), str(cache))
    daemon.config.write_text(
        text.partition("[engine]")[0]
        + f"""
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
stop_timeout = "20s"
[engine.env]
VLLM_CPU_KVCACHE_SPACE = "1"
[models.tiny]
weights = "{os.environ["WARMD_TEST_MODEL"]}"
args = ["--max-model-len", "1024", "--enforce-eager"]
resting = "staged"
{windows}
"""
    )


def ready(daemon: Daemon, patience: float) -> Any:
    def is_ready() -> Any:
        replica = daemon.replica("tiny.0")
        return replica if replica["phase"] == "ready" else None

    return until(is_ready, f"tiny is ready; {daemon.log}", patience)


def test_a_window_finds_its_model_ready_whether_the_daemon_was_killed_or_not(
    daemon: Daemon,
) -> None:
    daemon.start()
    daemon.set("tiny", "hot")
    took = sum(ready(daemon, PATIENCE_S)["last_start"].values())
    daemon.set("tiny", "staged")
    until(lambda: daemon.replica("tiny.0")["phase"] == "down", "it is down", 60.0)
    opens = (time.time() + max(120.0, 3 * took)) // 60 * 60 + 60
    hours = f'from = "{clock(opens)}", to = "{clock(opens + 3600)}"'
    write(daemon, f"windows = [{{ {hours} }}]")
    assert daemon.control("POST", "/reload", {}).status == 200
    daemon.set("tiny", "auto")

    move = daemon.control("POST", "/plan", {"next": 3600.0}).json["timeline"]["moves"][0]
    assert (move["at"], move["measured"], move["short_s"]) == (opens, True, 0.0)
    assert took <= opens - move["begin_at"] <= 1.2 * took + 15

    # Killed while it waits for its time: the next one has the same calendar and the same figures.
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    until(lambda: daemon.replica("tiny.0")["rung"] == "staged", "its files are seen again", 60.0)
    again = daemon.control("POST", "/plan", {"next": 3600.0}).json["timeline"]["moves"][0]
    assert again["begin_at"] == pytest.approx(move["begin_at"], abs=0.5)
    assert daemon.replica("tiny.0")["phase"] == "down"

    replica = ready(daemon, opens - time.time() + 60)
    assert replica["since"] < opens, daemon.log
    began = replica["since"] - sum(replica["last_start"].values())
    assert began == pytest.approx(move["begin_at"], abs=3.0)
    assert daemon.chat("tiny", max_tokens=4).status == 200
