"""Replicas on demand with the real vLLM: its own word of how many requests wait inside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
from daemon_rig import Daemon, a_daemon, until

PATIENCE_S = 400.0

CLIENTS = 4

LONG = 30_000
"""Tokens of an answer: the tiny model takes ten seconds for them on any machine."""

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
VLLM_CPU_OMP_THREADS_BIND = "nobind"  # two engines bound to the same few cores crawl
OMP_NUM_THREADS = "1"
[models.tiny]
weights = "{os.environ["WARMD_TEST_MODEL"]}"
args = [
  "--max-num-seqs", "1", "--enforce-eager", "--max-model-len", "32768",
  "--hf-overrides", '{{"max_position_embeddings": 32768}}',
]
resting = "hot"
scale = {{ max = 2, waiting_above = 1, for = "1s", cool_down = "1h" }}
"""
        )
        daemon.start()
        until(lambda: daemon.replica("tiny.0")["phase"] == "ready", daemon.log, PATIENCE_S)
        with _clients(CLIENTS, daemon):
            # Of these one is served at a time: the others wait inside vLLM until they go.
            until(
                lambda: daemon.replica("tiny.0")["queued"] >= 2, "vLLM tells its queue", PATIENCE_S
            )
            until(lambda: daemon.replica("tiny.1")["phase"] == "starting", daemon.log, PATIENCE_S)
        # They have gone: beside an engine that generates, a start on few cores takes minutes.
        until(lambda: daemon.replica("tiny.1")["phase"] == "ready", daemon.log, PATIENCE_S)
        with _clients(2, daemon):
            until(
                lambda: daemon.replica("tiny.1")["in_flight"] >= 1, "one is sent to it", PATIENCE_S
            )
        daemon.stop()


@contextmanager
def _clients(many: int, daemon: Daemon) -> Iterator[None]:
    """Let so many ask all the time; at the end each was answered."""
    gone = threading.Event()
    with ThreadPoolExecutor(many) as clients:
        asking = [clients.submit(_ask, daemon, gone) for _ in range(many)]
        try:
            yield
        finally:
            gone.set()
        assert min(each.result() for each in asking) > 0


def _ask(daemon: Daemon, gone: threading.Event) -> int:
    """Ask for long answers, one after the other, until `gone`; return how many tokens came."""
    came = 0
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{daemon.port}/v1",
        api_key="-",
        max_retries=0,
        timeout=PATIENCE_S,
    ) as client:
        while not (gone.is_set() and came):
            with client.completions.create(
                model="tiny",
                prompt="hi",
                max_tokens=LONG,
                stream=True,
                extra_body={"ignore_eos": True},
            ) as answer:
                for _ in answer:
                    came += 1
                    if gone.is_set():
                        break
    return came
