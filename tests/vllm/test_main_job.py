"""The main job on the real vLLM: cold -> staged -> hot behind one endpoint, and real answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import psutil
import pytest
from daemon_rig import Answer, Daemon, a_daemon, until

from warmd.engine.compiled import CompiledTracker
from warmd.engine.sizing import PartsTracker, read_checkpoint
from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.sizing.layers import kv_layers
from warmd.staging import cache_files, known_program, learn_program, remember_caches

PATIENCE_S = 400.0
"""A first start compiles; on two busy cores that takes minutes."""

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)


@pytest.fixture(scope="module")
def hot() -> Iterator[tuple[Daemon, Answer]]:
    """A daemon whose model got hot by the first chat, and that chat's answer."""
    with a_daemon() as daemon:
        daemon.write_config({}, gateway='max_wait = "400s"')
        # Caches live across runs, as they do on a server: the first run alone compiles.
        cache = ROOT / ".cache" / "vllm-tier"
        text = daemon.config.read_text().replace(str(daemon.folder / "cache"), str(cache))
        text = (
            text.partition("[engine]")[0]
            + f"""
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
stop_timeout = "20s"
[engine.env]
VLLM_CPU_KVCACHE_SPACE = "1"
[models.tiny]
weights = "{os.environ["WARMD_TEST_MODEL"]}"
aliases = ["gpt-4o", "claude"]
args = ["--max-model-len", "1024"]
"""
        )
        daemon.config.write_text(text)
        daemon.start()
        daemon.wait_for_rung("staged", "tiny")
        first = daemon.chat("tiny", max_tokens=4, patience=PATIENCE_S)
        yield daemon, first
        daemon.stop()


def test_a_cold_start_ends_in_an_answer_and_tells_its_stages(hot: tuple[Daemon, Answer]) -> None:
    daemon, first = hot
    assert first.status == 200, f"{first.body!r}\n{daemon.log}"
    assert first.json["usage"]["completion_tokens"] >= 1
    replica = daemon.replica("tiny.0")
    assert (replica["rung"], replica["phase"]) == ("hot", "ready")
    took = replica["last_start"]
    stages = ["program", "imports", "weights", "compile", "kv-cache", "first-answer"]
    assert list(took) == stages, "the CPU's log is understood, stage by stage"
    assert took["imports"] > 1.0
    assert all(seconds >= 0 for seconds in took.values())
    assert "tiny.0  staged -> hot  in" in daemon.log


def test_a_token_takes_what_was_estimated(hot: tuple[Daemon, Answer]) -> None:
    """By vLLM's own word of how many tokens its KV cache holds."""
    daemon, _ = hot
    tracker = PartsTracker()
    for line in (daemon.run_dir / "engines" / "tiny.0" / "engine.log").read_text().splitlines():
        tracker.line(line)
    told = tracker.parts
    assert told is not None
    assert told.kv_cache == 2**30
    assert told.kv_tokens
    found = daemon.control("GET", "/size?model=tiny").json
    assert found["max_model_len"] == 1024
    cache = read_checkpoint(Path(os.environ["WARMD_TEST_MODEL"]))
    layers = kv_layers(cache.config, EngineFlags.of(()), 1, float_bytes=2)
    assert layers.each_token == told.kv_cache / told.kv_tokens


async def test_what_its_start_read_is_learnt(hot: tuple[Daemon, Answer], tmp_path: Path) -> None:
    daemon, _ = hot
    python, model = (Path(os.environ[f"WARMD_TEST_{n}"]) for n in ("ENGINE_PYTHON", "MODEL"))
    cache = ROOT / ".cache" / "vllm-tier"
    pid = daemon.replica("tiny.0")["pid"]
    learnt = await learn_program(tmp_path, python, [pid], [cache, model])
    assert learnt is not None
    assert learnt.trouble is None
    known = known_program(tmp_path, python)
    assert known is not None
    assert 200 * 2**20 < known.total < 4 * 2**30
    shown = [str(file) for file in known.files]
    for part in ("libtorch_cpu.so", "/vllm/engine/", "/torch/__pycache__/", "/encodings/"):
        assert any(part in file for file in shown), part
    assert not any(file.startswith((str(cache), str(model))) for file in shown)

    tracker = CompiledTracker()
    for line in (daemon.run_dir / "engines" / "tiny.0" / "engine.log").read_text().splitlines():
        tracker.line(line)
    remember_caches(tmp_path, "tiny", map(Path, tracker.folders))
    caches = cache_files(tmp_path, "tiny")
    assert caches is not None
    assert {file.name for file in caches.files if file.parent.name == "rank_0_0"} == {"model"}
    assert any(file.suffix == ".so" for file in caches.files)


def test_the_openai_client_works(hot: tuple[Daemon, Answer]) -> None:
    daemon, _ = hot
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{daemon.port}/v1", api_key="none", max_retries=0
    ) as client:
        assert {m.id for m in client.models.list()} == {"tiny", "gpt-4o", "claude"}
        chat = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], max_tokens=4
        )
        assert chat.usage is not None
        assert chat.usage.completion_tokens >= 1
        with client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        assert chunks[-1].usage is not None
        assert len(chunks) > chunks[-1].usage.completion_tokens >= 1
        done = client.completions.create(model="tiny", prompt="the quick", max_tokens=3)
        assert done.choices[0].finish_reason in {"length", "stop"}
        answer = client.responses.create(model="tiny", input="hi", max_output_tokens=16)
        assert answer.id
        with pytest.raises(openai.NotFoundError, match="tiny"):
            client.chat.completions.create(model="nobody", messages=[])


def test_the_anthropic_client_works(hot: tuple[Daemon, Answer]) -> None:
    daemon, _ = hot
    with anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{daemon.port}", api_key="none", max_retries=0
    ) as client:
        message = client.messages.create(
            model="claude", max_tokens=4, messages=[{"role": "user", "content": "hi"}]
        )
        assert message.usage.output_tokens >= 1
        with client.messages.stream(
            model="claude", max_tokens=4, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            assert stream.get_final_message().role == "assistant"
        with pytest.raises(anthropic.NotFoundError, match="tiny"):
            client.messages.create(model="nobody", max_tokens=4, messages=[])


def test_tokenize_passes_and_control_paths_do_not(hot: tuple[Daemon, Answer]) -> None:
    daemon, _ = hot
    tokens = daemon.post("/tokenize", {"model": "tiny", "prompt": "the quick brown fox"})
    assert tokens.json["count"] >= 1
    for path in ("/collective_rpc", "/sleep", "/inference/v1/abort_requests", "/scale_elastic_ep"):
        assert daemon.post(path, {"model": "tiny"}).status == 404
    assert daemon.post("/v1/chat/completions", b"{").status == 400


def test_an_engines_own_refusal_comes_through_untouched(hot: tuple[Daemon, Answer]) -> None:
    daemon, _ = hot
    refused = daemon.chat("tiny", max_tokens=10**6)
    assert refused.status == 400
    assert "1024" in json.dumps(refused.json), "vLLM's own sentence names its limit"


def test_a_killed_engine_core_is_noticed_and_the_model_comes_back(
    hot: tuple[Daemon, Answer],
) -> None:
    """Runs last: vLLM's API server outlives its EngineCore for a moment, then ends."""
    daemon, _ = hot
    first = daemon.replica("tiny.0")["pid"]
    core = next(
        p for p in psutil.Process(first).children() if "EngineCore" in " ".join(p.cmdline())
    )
    tree = [psutil.Process(first), *psutil.Process(first).children(recursive=True)]
    core.kill()
    until(lambda: daemon.replica("tiny.0")["pid"] != first, "it is replaced", 60)
    until(lambda: not any(_lives(p) for p in tree), "nothing of it is left", 10)
    assert "failure 1 in a row" in daemon.log
    assert daemon.chat("tiny", max_tokens=2, patience=PATIENCE_S).status == 200


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
