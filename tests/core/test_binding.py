"""What holds an engine to its reservation: the figures, and what is refused."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.engine import Binder, Binding, EngineError, Reservation, binder
from warmd.engine.binding import (
    BESIDE_WORKER,
    SPARE,
    WORKER,
    Overheads,
    bind,
    check_room,
    overheads,
)
from warmd.engine.sizing import Checkpoint, Estimate, Wanted, estimate
from warmd.engine.sizing.headers import Tensor
from warmd.engine.sizing.model_config import ModelConfig
from warmd.engine.sizing.overheads import CONTEXT, outside
from warmd.engine.sizing.weights import tally
from warmd.ladder import MeasuredParts

GIB, MIB = 2**30, 2**20
CARD = 80 * GIB
TOLD = MeasuredParts(
    version="0.33.0",
    weights=16 * GIB,
    kv_cache=20 * GIB,
    kv_tokens=160 * 1024,
    activation=2 * GIB,
    graphs=GIB,
    other=GIB // 2,
)
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 1024,
    "vocab_size": 512,
    "max_position_embeddings": 32768,
}
REQUEST = 32768 * 8 * 2 * 8 * 128 * 2
"""Bytes that one request of full length takes: 1 GiB."""


def test_an_engine_that_nobody_has_measured_gets_its_share_alone() -> None:
    assert bind(Reservation(40 * GIB, CARD), None).args == ("--gpu-memory-utilization", "0.492187")


def test_a_measured_one_gets_what_is_left_for_its_kv_cache() -> None:
    beside = overheads(TOLD, eager=False)
    assert beside == Overheads(int(19.5 * GIB), CONTEXT)
    binding = bind(Reservation(40 * GIB, CARD), beside, REQUEST)
    assert binding.kv_cache == 40 * GIB - int(19.5 * GIB) - CONTEXT - SPARE
    assert binding.args[2:] == ("--kv-cache-memory-bytes", str(binding.kv_cache))


def test_without_a_gpu_the_share_leaves_room_for_its_other_processes() -> None:
    binding = bind(Reservation(8 * GIB, 64 * GIB, gpu=False), None)
    assert binding == Binding(share=(8 * GIB - BESIDE_WORKER) * 10**6 // (64 * GIB))


sizes = st.integers(0, 100 * GIB)
maybe = st.none() | sizes


@given(
    vram=st.integers(1, 200 * GIB),
    card=st.integers(200 * GIB, 300 * GIB),
    told=st.builds(
        MeasuredParts,
        version=st.just(""),
        weights=maybe,
        kv_cache=maybe,
        kv_tokens=maybe,
        activation=maybe,
        graphs=maybe,
        other=maybe,
        held=maybe,
    ),
    request_bytes=maybe,
)
def test_nothing_ever_goes_beyond_the_reservation(
    vram: int, card: int, told: MeasuredParts, request_bytes: int | None
) -> None:
    beside = overheads(told, eager=False)
    try:
        binding = bind(Reservation(vram, card), beside, request_bytes)
    except EngineError:
        return
    assert binding.share is not None
    context = CONTEXT if beside is None else beside.context
    assert context + card * binding.share // 10**6 <= vram
    if binding.kv_cache is not None:
        assert beside is not None
        assert 0 < binding.kv_cache <= vram - beside.within - context - SPARE
        assert binding.kv_cache >= (request_bytes or 0)


@pytest.mark.parametrize(
    ("held", "other", "context"),
    [
        (None, GIB // 2, None),
        # Weights, KV cache and graphs are 37 GiB; some of the activation may be held as well.
        (38 * GIB, GIB // 2, GIB // 2),
        (39 * GIB, GIB // 2, CONTEXT),
        (41 * GIB, GIB // 2, 3 * GIB // 2),
        # Of what vLLM took for its own a neighbour had a part (vllm#55827).
        (37 * GIB + GIB // 4, GIB // 4, 0),
        # The driver sees the processes of another container without their memory.
        (0, GIB // 2, None),
    ],
)
def test_the_driver_s_word_bounds_what_vllm_can_not_see(
    held: int | None, other: int, context: int | None
) -> None:
    assert outside(replace(TOLD, held=held)) == (other, context)


@pytest.mark.parametrize("part", ["weights", "activation", "other", "kv_tokens"])
def test_a_start_that_did_not_tell_all_binds_no_kv_cache(part: str) -> None:
    told = MeasuredParts(**(asdict(TOLD) | {part: None}))
    assert overheads(told, eager=False) is None


def test_a_kv_cache_for_less_than_one_request_is_left_to_vllm() -> None:
    beside = overheads(TOLD, eager=False)
    assert bind(Reservation(21 * GIB, CARD), beside, REQUEST).kv_cache is None


def test_less_than_a_cuda_context_is_refused() -> None:
    with pytest.raises(EngineError, match=r"^its vram of 512.0 MiB is less than a CUDA context"):
        bind(Reservation(512 * MIB, CARD), None)


def alone(weights: int, args: tuple[str, ...], told: MeasuredParts | None) -> Estimate:
    """The estimate of a model with such weights and one request at a time."""
    found = tally([[Tensor("model.norm.weight", "BF16", 1, weights)]])
    return estimate(Checkpoint(ModelConfig.of(CONFIG), found), Wanted(args, 1), told)


NEEDS_LESS = ("--max-model-len", "4096")


@pytest.mark.parametrize(
    ("args", "told", "refusal"),
    [
        (
            (),
            None,
            (
                "one engine of it can't live in its vram of 4.0 GiB: weights take 3.8 GiB, its KV"
                " cache 1.0 GiB (1 request of 32768 tokens, 32.0 KiB a token), so at least 819.2"
                " MiB are missing; raise vram, or lower --max-model-len"
            ),
        ),
        # Guesses and what may not be loaded at all refuse nobody.
        (NEEDS_LESS, None, None),
        (("--cpu-offload-gb", "2"), None, None),
        (
            NEEDS_LESS,
            TOLD,
            (
                "one engine of it can't live in its vram of 4.0 GiB: weights take 16.0 GiB, its KV"
                " cache 512.0 MiB (1 request of 4096 tokens, 32.0 KiB a token), a step 2.0 GiB, so"
                " at least 14.5 GiB are missing; raise vram"
            ),
        ),
    ],
)
def test_what_surely_does_not_fit_is_refused(
    args: tuple[str, ...], told: MeasuredParts | None, refusal: str | None
) -> None:
    found = alone(4 * GIB, args, told)
    if refusal is None:
        check_room(4 * GIB, found, kv_set=None, fits_length=False)
        return
    with pytest.raises(EngineError) as error:
        check_room(4 * GIB, found, kv_set=None, fits_length=False)
    assert str(error.value) == refusal


def test_where_vllm_chooses_the_longest_request_it_needs_no_room_of_ours() -> None:
    check_room(4 * GIB, alone(4 * GIB, (), None), kv_set=None, fits_length=True)


# Before a start, with a model's files


def a_model(folder: Path) -> Path:
    """A model with hardly any weights, whose longest request takes 1 GiB."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header = b'{"model.norm.weight":{"dtype":"BF16","shape":[512],"data_offsets":[0,1024]}}'
    body = len(header).to_bytes(8, "little") + header + bytes(1024)
    (folder / "model.safetensors").write_bytes(body)
    return folder


def a_binder(folder: Path, vram: int, told: MeasuredParts | None) -> tuple[Binder, list[str]]:
    heard: list[str] = []
    made = Binder(
        "m.0",
        Reservation(vram, CARD),
        folder,
        Wanted(),
        kv_set=None,
        told=lambda: told,
        tell=heard.append,
    )
    return made, heard


async def test_a_start_follows_from_what_earlier_ones_told(tmp_path: Path) -> None:
    made, heard = a_binder(a_model(tmp_path), 41 * GIB, None)
    assert (await made.binding(anew=False)).kv_cache is None
    made = replace(made, told=lambda: TOLD)
    binding = await made.binding(anew=False)
    assert binding.kv_cache == 41 * GIB - int(19.5 * GIB) - CONTEXT - SPARE
    assert (await made.binding(anew=True)).kv_cache is None
    assert heard == [], "the last start had nearly as much"


async def test_a_kv_cache_that_moves_is_told(tmp_path: Path) -> None:
    made, heard = a_binder(a_model(tmp_path), 60 * GIB, TOLD)
    await made.binding(anew=False)
    assert heard == [
        (
            "m.0: its KV cache gets 39.7 GiB and had 20.0 GiB at the last start: that is left of"
            " its vram of 60.0 GiB by what was measured"
        )
    ]


async def test_a_start_that_can_not_live_is_refused(tmp_path: Path) -> None:
    made, _ = a_binder(a_model(tmp_path), GIB, None)
    with pytest.raises(EngineError, match="1 request of 32768 tokens"):
        await made.binding(anew=False)
    (tmp_path / "config.json").write_text("{")
    assert (await made.binding(anew=False)).share is not None, "that is for vLLM to say"


def test_less_than_any_engine_takes_is_told_when_the_config_is_read(tmp_path: Path) -> None:
    made, _ = a_binder(a_model(tmp_path), 0, None)
    on_cpu = replace(made, reservation=Reservation(GIB, CARD, gpu=False))
    with pytest.raises(EngineError, match="less than vLLM's processes alone may take"):
        on_cpu.check()


async def test_what_the_user_sets_on_a_cpu_goes_before_and_must_fit(tmp_path: Path) -> None:
    made, _ = a_binder(a_model(tmp_path), 0, None)
    on_cpu = replace(
        made,
        reservation=Reservation(8 * GIB, CARD, gpu=False),
        wanted=Wanted(gpu=False, kv_cache=6 * GIB),
        kv_set="VLLM_CPU_KVCACHE_SPACE",
    )
    assert await on_cpu.binding(anew=False) == Binding()
    # Beside it and the weights there are vLLM's processes.
    too_much = replace(on_cpu, wanted=Wanted(gpu=False, kv_cache=7 * GIB))
    words = "1.8 GiB, so at least 768.0 MiB are missing; raise vram, or lower VLLM_CPU_KVCACHE_SPAC"
    with pytest.raises(EngineError, match=words):
        await too_much.binding(anew=False)


@pytest.mark.parametrize(
    ("vram", "args", "refused"),
    [
        # More than vLLM's other processes take, and too little for the worker itself.
        (1600 * MIB, ("--max-model-len", "16"), True),
        (1600 * MIB, ("--max-model-len", "auto"), True),
        (2 * GIB, ("--max-model-len", "4096"), False),
        (2 * GIB, ("--max-model-len", "auto"), False),
        (BESIDE_WORKER + WORKER + GIB, (), True),
        (BESIDE_WORKER + WORKER + GIB + MIB, (), False),
    ],
)
def test_on_a_cpu_there_must_be_room_beside_vllm_s_processes(
    tmp_path: Path, vram: int, args: tuple[str, ...], refused: bool
) -> None:
    made, _ = a_binder(a_model(tmp_path), 0, None)
    wanted = Wanted(args, gpu=False)
    on_cpu = replace(made, reservation=Reservation(vram, CARD, gpu=False), wanted=wanted)
    if not refused:
        assert on_cpu.check() is not None
        return
    with pytest.raises(EngineError, match=r"vLLM's processes 1\.8 GiB, so at least .* raise vram"):
        on_cpu.check()


async def test_a_disk_that_hangs_holds_up_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder, "LOOK_S", 0.0)
    back = threading.Event()

    def told() -> None:
        back.wait(10)

    made = replace(a_binder(tmp_path, 40 * GIB, None)[0], told=told)
    assert (await made.binding(anew=False)).share is not None
    back.set()
