"""An estimate's parts, what a start's log puts in their place, and the table of both."""

# ruff: noqa: E501  # a log has lines as long as they are

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_sizing_layers import DEEPSEEK_V3, LLAMA_8B, QWEN3_32B

from warmd.cli.size import size_table
from warmd.engine import SizingError
from warmd.engine.sizing import Checkpoint, Estimate, Part, PartsTracker, Wanted, estimate
from warmd.engine.sizing.headers import Tensor
from warmd.engine.sizing.model_config import ModelConfig
from warmd.engine.sizing.weights import tally
from warmd.ladder import MeasuredParts

GIB = 2**30

OLD = """\
(EngineCore_DP0 pid=3021) INFO [core.py:77] Initializing a V1 LLM engine (v0.26.0) with config: x
(EngineCore_DP0 pid=3021) INFO [gpu_model_runner.py:2581] Model loading took 14.08 GiB and 9.5 seconds
(EngineCore_DP0 pid=3021) INFO [gpu_worker.py:298] Available KV cache memory: 55.15 GiB
(EngineCore_DP0 pid=3021) INFO [kv_cache_utils.py:864] GPU KV cache size: 451,744 tokens
(EngineCore_DP0 pid=3021) INFO [gpu_model_runner.py:3118] Graph capturing finished in 5 secs, took 0.67 GiB
(EngineCore_DP0 pid=3021) INFO [gpu_worker.py:391] Free memory on device (78.66/79.19 GiB) on startup. \
Desired GPU memory utilization is (0.9, 71.27 GiB). Actual usage is 14.08 GiB for weight, 1.97 GiB for \
peak activation, 0.07 GiB for non-torch memory, and 0.67 GiB for CUDAGraph memory. Replace"""

NEW = """\
(EngineCore pid=66) INFO 11-22 05:47:42 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: x
(Worker_TP0 pid=1) INFO [gpu_model_runner.py:5150] Model loading took 30.5 GiB memory and 9.500000 seconds
(Worker_TP1 pid=2) INFO [gpu_model_runner.py:5150] Model loading took 30.6 GiB memory and 9.600000 seconds
(Worker_TP0 pid=1) INFO [gpu_model_runner.py:6475] Estimated CUDA graph memory: 0.60 GiB total
(Worker_TP0 pid=1) INFO [gpu_worker.py:760] Available KV cache memory: 40.0 GiB
(Worker_TP1 pid=2) INFO [gpu_worker.py:760] Available KV cache memory: 39.5 GiB
(EngineCore pid=66) INFO [kv_cache_utils.py:2327] GPU KV cache size: 323,584 tokens, Maximum concurrency for \
32,768 tokens per request: 9.88x
(Worker_TP0 pid=1) INFO [gpu_model_runner.py:6582] Graph capturing finished in 9 secs, took 0.75 GiB
(Worker_TP0 pid=1) INFO [gpu_worker.py:1013] Free memory on device (140.1/140.8 GiB) on startup. Desired GPU \
memory utilization is (0.92, 129.5 GiB). Actual usage is 31.35 GiB for consumed memory (weights + non-torch), \
2.1 GiB for peak activation, and 0.75 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with"""

CPU = """\
(Worker pid=26119) INFO [cpu_worker.py:260] Explicitly set (1.0/13.21) GiB for KV cache on node 0.
(EngineCore pid=26066) INFO [kv_cache_utils.py:2327] CPU KV cache size: 2,097,152 tokens, Maximum concurrency"""

FIXED = """\
INFO [gpu_model_runner.py:5150] Model loading took 30.5 GiB memory and 9.500000 seconds
INFO [gpu_worker.py:560] Initial free memory 140.1 GiB, reserved 16.0 GiB memory for KV Cache as specified by \
kv_cache_memory_bytes config and skipped memory profiling."""


def told(log: str) -> MeasuredParts | None:
    tracker = PartsTracker()
    for line in log.splitlines():
        tracker.line(line)
    return tracker.parts


def gib(value: float) -> int:
    return round(value * GIB)


@pytest.mark.parametrize(
    ("log", "parts"),
    [
        (
            OLD,
            MeasuredParts(
                version="0.26.0",
                weights=gib(14.08),
                kv_cache=gib(55.15),
                kv_tokens=451_744,
                activation=gib(1.97),
                graphs=gib(0.67),
                other=gib(0.07),
            ),
        ),
        (
            NEW,
            MeasuredParts(
                version="0.32.0",
                weights=gib(30.6),
                kv_cache=gib(39.5),
                kv_tokens=323_584,
                activation=gib(2.1) - gib(0.6),  # that wording's peak has the foreseen graphs in it
                graphs=gib(0.75),
                other=gib(31.35) - gib(30.6),
            ),
        ),
        (CPU, MeasuredParts("", kv_cache=GIB, kv_tokens=2_097_152)),
        (FIXED, MeasuredParts("", weights=gib(30.5), kv_cache=gib(16))),
        # with a sleeper's allocator vLLM's own account goes below 0
        (
            OLD.replace("0.07 GiB for non", "-3.58 GiB for non"),
            replace(told(OLD) or MeasuredParts(""), other=0),
        ),
        ("INFO Application startup complete.\nusing 3 GiB of something", None),
    ],
)
def test_a_starts_log_tells_the_parts(log: str, parts: MeasuredParts | None) -> None:
    assert told(log) == parts


def a_checkpoint(config: dict[str, Any], weights: int) -> Checkpoint:
    tensors = [Tensor("model.embed_tokens.weight", "BF16", 2, weights)]
    return Checkpoint(ModelConfig.of(config), tally([tensors]))


def parts(found: Estimate) -> dict[str, Part]:
    return {part.name: part for part in found.parts}


QWEN = a_checkpoint(QWEN3_32B, gib(61))
ARGS = ("--max-model-len", "32K")


def test_there_is_room_for_two_requests_of_full_length_and_for_short_ones() -> None:
    found = estimate(QWEN, Wanted(ARGS))
    assert (found.max_model_len, found.concurrency) == (32768, 2)
    assert parts(found)["weights"].size == gib(61)
    assert parts(found)["KV cache"].size == 2 * 32768 * 256 * 1024 == 16 * GIB
    total = found.on_each_gpu
    assert total is not None
    assert gib(77) < total < gib(84)
    assert found.vram is not None
    assert found.vram % GIB == 0
    assert 0 <= found.vram - total < GIB
    assert estimate(QWEN, Wanted(("--max-model-len", "4096"))).concurrency == 8
    assert estimate(QWEN, Wanted(ARGS, concurrency=5)).concurrency == 5
    assert parts(estimate(QWEN, Wanted((*ARGS, "--enforce-eager"))))["CUDA graphs"].size == 0


def test_tensor_parallelism_divides_weights_and_cache() -> None:
    one, two = (parts(estimate(QWEN, Wanted((*ARGS, "-tp", ways)))) for ways in ("1", "2"))
    for name in ("weights", "KV cache"):
        assert two[name].size == (one[name].size or 0) / 2
    assert estimate(QWEN, Wanted(ARGS, tensor_parallel=2)).tensor_parallel == 2
    # A model without a pool may have it in its args alone, and then its table says 1.
    assert estimate(QWEN, Wanted((*ARGS, "-tp", "2"), tensor_parallel=1)).tensor_parallel == 2


def test_what_was_measured_counts() -> None:
    measured = told(NEW)
    assert measured is not None
    wanted = Wanted((*ARGS, "-tp", "2"))
    found = parts(estimate(QWEN, wanted, measured))
    assert found["weights"].size == gib(30.6)
    assert found["weights"].estimated == gib(30.5)
    assert found["activation"].size == measured.activation
    # 2 requests of 32768 tokens, where 323,584 had 39.5 GiB
    assert found["KV cache"].size == pytest.approx(8 * GIB, rel=0.001)
    assert found["CUDA context"].measured is None, "no line of vLLM's tells it"
    seen = parts(estimate(QWEN, wanted, replace(measured, held=gib(71.9))))
    assert seen["CUDA context"].size == pytest.approx(gib(71.9 - 31.35 - 39.5 - 0.75), abs=4)
    assert estimate(QWEN, wanted, measured).version == "0.32.0"


def test_what_can_not_be_known_makes_no_sum_until_a_start_tells() -> None:
    strange = a_checkpoint({**LLAMA_8B, "hybrid_override_pattern": "M*"}, gib(15))
    found = estimate(strange, Wanted(ARGS))
    assert found.on_each_gpu is found.vram is None
    assert found.unknown is not None
    assert "hybrid_override_pattern" in found.unknown
    assert "set `vram`" in found.unknown
    measured = MeasuredParts("0.32.0", kv_cache=20 * GIB, kv_tokens=655_360)
    known = estimate(strange, Wanted(ARGS), measured)
    assert parts(known)["KV cache"].size == 2 * GIB
    assert known.on_each_gpu is not None
    assert known.unknown is None
    for split in ("-pp", "--data-parallel-size"):
        assert estimate(QWEN, Wanted((*ARGS, split, "2"))).on_each_gpu is None
    endless = a_checkpoint({**LLAMA_8B, "max_position_embeddings": None}, gib(15))
    assert "how long a request may be" in (estimate(endless, Wanted()).unknown or "")


def test_a_cache_of_fixed_size_is_taken_as_it_is() -> None:
    fixed = estimate(QWEN, Wanted((*ARGS, "--kv-cache-memory-bytes", "16G")))
    assert parts(fixed)["KV cache"].size == 16 * GIB
    host = estimate(QWEN, Wanted(ARGS, kv_cache=4 * GIB, gpu=False))
    assert parts(host)["KV cache"].size == 4 * GIB
    assert "CUDA graphs" not in parts(host)


def test_args_that_make_no_sense_are_named() -> None:
    with pytest.raises(SizingError, match="--tensor-parallel-size must be a number"):
        estimate(QWEN, Wanted(("-tp", "two")))


def test_the_table_shows_each_part_both_ways_and_what_to_write() -> None:
    assert size_table(estimate(QWEN, Wanted((*ARGS, "-tp", "2")), told(NEW)).facts()) == (
        """\
PART           ESTIMATE   MEASURED  HOW
weights        30.5 GiB   30.6 GiB  61.0 GiB in 1 file, split among 2 GPUs
KV cache        8.0 GiB    8.0 GiB  2 requests of 32768 tokens, 128.0 KiB a token
activation      2.7 GiB    1.5 GiB  a guess from 8192 tokens and 1024 requests a step
CUDA graphs     3.5 GiB  768.0 MiB  a guess
other           1.2 GiB  768.0 MiB  a guess: buffers between GPUs, workspaces
CUDA context  640.0 MiB          -  a guess, outside vLLM's own budget
in all         46.6 GiB   42.2 GiB  on each of 2 GPUs
measured at its last start, by vLLM 0.32.0; what it did not tell is estimated
vram = "43GiB\""""
    )


def test_on_a_cpu_there_is_a_vram_to_write_and_what_was_not_measured_is_not_said_to_be() -> None:
    """A start on a CPU tells of its KV cache alone, and that one is set."""
    host = Wanted(ARGS, kv_cache=4 * GIB, gpu=False)
    found = estimate(QWEN, host, told(CPU))
    table = size_table(found.facts()).splitlines()
    [total] = [line for line in table if line.startswith("in all")]
    assert found.version is None
    assert total.split()[4:] == ["-", "of", "the", "host's", "RAM"]
    assert not any("measured" in line for line in table)
    assert table[-1] == f'vram = "{(found.vram or 0) // GIB}GiB"'


def test_the_table_makes_no_sum_of_what_is_not_known() -> None:
    strange = a_checkpoint({**DEEPSEEK_V3, "model_type": "deepseek_v9"}, gib(600))
    table = size_table(estimate(strange, Wanted((*ARGS, "--enable-lora"))).facts())
    assert "vram =" not in table
    assert "\nin all" in table
    assert "not counted: LoRA adapters" in table
    assert (
        "\nnot known: what the latent attention of deepseek_v9 keeps isn't known here: set `vram`"
        in table
    )
