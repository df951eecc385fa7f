"""Pools with the real vLLM on the CPU: two models take turns in one, and nobody disturbs another.

The host's memory is the device here, and sleep is a drill that frees none of it.
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon_rig import Answer, Daemon, a_daemon, until

PATIENCE_S = 300.0

pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)

UP = {"ready", "draining", "falling-asleep", "waking", "starting", "warming"}


def write_config(daemon: Daemon) -> None:
    """`heavy-a` and `heavy-b` in a room that fits one of them, `light` in a room of its own."""
    daemon.write_config({}, gateway=f'max_wait = "{PATIENCE_S:g}s"')
    text = (
        daemon.config.read_text().partition("[engine]")[0]
        + f"""
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
sleep = "drill"
stop_timeout = "10s"
[engine.env]
VLLM_CPU_KVCACHE_SPACE = "1"
[fairness]
bound = "2s"
[pools.heavy]
vram = "6GiB"
[pools.light]
vram = "4GiB"
"""
    )
    for name, pool in (("heavy-a", "heavy"), ("heavy-b", "heavy"), ("light", "light")):
        shutil.copytree(os.environ["WARMD_TEST_MODEL"], daemon.folder / name)
        text += f"""
[models.{name}]
weights = "{daemon.folder / name}"
resting = "{"hot" if name == "light" else "cold"}"
pool = "{pool}"
vram = "4GiB"
args = ["--max-model-len", "1024", "--enforce-eager"]
sleep = {{ slowest = "0%", rehearse = false }}
"""
    daemon.config.write_text(text)


def ask(daemon: Daemon, model: str) -> Answer:
    body = {"model": model, "prompt": "the quick", "max_tokens": 4, "ignore_eos": True}
    return daemon.post("/v1/completions", body, PATIENCE_S)


def test_two_models_of_a_pool_take_turns_and_another_pool_is_never_disturbed() -> None:
    with a_daemon() as daemon:
        write_config(daemon)
        daemon.start()
        until(lambda: ask(daemon, "light").status == 200, "the light one is up", PATIENCE_S)
        pid, began = daemon.replica("light.0")["pid"], len(daemon.log)
        over = threading.Event()

        def watch() -> list[tuple[str, str, str]]:
            seen = []
            while not over.wait(0.02):
                models = daemon.status["models"]
                seen.append(tuple(m["replicas"][0]["phase"] for m in models.values()))
            return seen

        # `light` isn't asked while others start: an engine that answers spins on its core, and on
        # two of them a start beside it takes minutes.
        models = ("heavy-a", "light", "heavy-b", "light") * 3
        with ThreadPoolExecutor(1) as other:
            phases = other.submit(watch)
            try:
                answers = [ask(daemon, model).status for model in models]
            finally:
                over.set()
        assert answers == [200] * 12
        assert daemon.replica("light.0")["pid"] == pid
        assert {of_light for _, _, of_light in phases.result()} == {"ready"}
        assert not any({a, b} <= UP for a, b, _ in phases.result()), "one fits in, not two"
        since = daemon.log[began:]
        assert since.count("hot -> asleep") >= 4
        assert "light.0" not in since
