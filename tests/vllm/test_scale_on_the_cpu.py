"""Replicas on demand with the real vLLM: its own word of how many requests wait inside it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon_rig import a_daemon, until

PATIENCE_S = 400.0

pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)


def test_a_queue_inside_the_engine_starts_a_second_one() -> None:
    with a_daemon() as daemon:
        daemon.write_config({}, gateway='max_wait = "400s"')
        daemon.config.write_text(
            daemon.config.read_text().partition("[engine]")[0]
            + f"""
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
stop_timeout = "20s"
[engine.env]
VLLM_CPU_KVCACHE_SPACE = "1"
[models.tiny]
weights = "{os.environ["WARMD_TEST_MODEL"]}"
args = ["--max-model-len", "1024", "--max-num-seqs", "1", "--enforce-eager"]
resting = "hot"
scale = {{ max = 2, waiting_above = 1, for = "1s", cool_down = "1h" }}
"""
        )
        daemon.start()
        until(lambda: daemon.replica("tiny.0")["phase"] == "ready", "it is hot", PATIENCE_S)
        gone = threading.Event()

        def ask() -> set[int]:
            met = set()
            while not gone.is_set():
                met.add(daemon.chat("tiny", patience=PATIENCE_S, max_tokens=64).status)
            return met

        with ThreadPoolExecutor(5) as clients:
            asking = [clients.submit(ask) for _ in range(5)]
            try:
                until(lambda: daemon.replica("tiny.0")["queued"] >= 2, "vLLM tells its queue")
                until(lambda: daemon.replica("tiny.1")["phase"] == "starting", daemon.log)
            finally:
                gone.set()  # on few cores a start beside a busy engine takes very long
        assert {status for each in asking for status in each.result()} == {200}
        until(lambda: daemon.replica("tiny.1")["phase"] == "ready", daemon.log, PATIENCE_S)
        with ThreadPoolExecutor(2) as clients:
            both = [clients.submit(daemon.chat, "tiny", max_tokens=400) for _ in range(2)]
            until(lambda: daemon.replica("tiny.1")["in_flight"] == 1, "one is sent to each")
        assert {each.result().status for each in both} == {200}
        daemon.stop()
