"""What an engine takes beside weights and KV cache, as long as no start has measured it. Pure.

Conservative on purpose: a reservation that is too large wastes memory, one that is too small fails
a start. Every figure here gives way to a measured one.
"""

from __future__ import annotations

from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.sizing.layers import BATCHED_TOKENS
from warmd.engine.sizing.model_config import ModelConfig
from warmd.ladder import MeasuredParts

_MIB = 2**20
CONTEXT = 640 * _MIB
"""Of CUDA and its kernels, before vLLM counts anything: 0.4 to 0.6 GiB on today's cards."""

GRAPHS = 1536 * _MIB
"""Of CUDA graphs: logs tell of 0.2 to 1.5 GiB, more on many GPUs."""

GRAPHS_OF_SEVERAL = 3584 * _MIB
OTHER = 256 * _MIB
OTHER_OF_SEVERAL = 1280 * _MIB
"""Of workspaces; with tensor parallelism buffers of NCCL and of the custom all-reduce too."""

PROGRAMS = 3 * 2**30
"""Without a GPU: vLLM's three processes with torch, and what they compile."""

_SEQUENCES = 1024
_ENCODERS = 2048 * _MIB
_LEAST = 256 * _MIB


def activation(config: ModelConfig, flags: EngineFlags, tensor_parallel: int) -> tuple[int, str]:
    """Return the peak of one step in bytes, and how it comes about.

    A few copies of what one layer makes of the tokens of a step, and the sampler's copies of the
    logits of every sequence, in float32.
    """
    tokens = flags.number("--max-num-batched-tokens", BATCHED_TOKENS)
    sequences = min(flags.number("--max-num-seqs", _SEQUENCES), tokens)
    hidden = config.number("hidden_size", "n_embd") or 8192
    inner = config.number("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    wide = 3 * inner // tensor_parallel
    experts = config.number("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
    if experts is not None:
        of_expert = config.number("moe_intermediate_size") or inner
        wide = max(wide, experts * (hidden + 2 * of_expert // tensor_parallel))
    layer = 2 * tokens * (4 * hidden + wide)
    logits = 2 * 4 * sequences * (config.number("vocab_size") or 256_000)
    how = f"a guess from {tokens} tokens and {sequences} requests a step"
    if not config.sees_or_hears:
        return max(_LEAST, layer + logits), how
    return layer + logits + _ENCODERS, f"{how}, and 2 GiB for its encoders"


def outside(told: MeasuredParts) -> tuple[int | None, int | None]:
    """Return what a start told of memory outside of torch, and of the CUDA context; None: nothing.

    What the engine's processes held by the driver's word bounds both: a neighbour's growth on the
    card counts as the engine's in vLLM's own figure (vllm#55827), which has no context in it.
    """
    if told.held is None or told.weights is None or told.kv_cache is None:
        return told.other, None
    left = told.held - told.weights - told.kv_cache - (told.graphs or 0)
    if left < 0:  # the driver doesn't see all of its processes, and so says nothing of worth
        return told.other, None
    other = min(told.other or 0, left)
    most = left - other
    # Torch keeps some of a step's activation, nobody knows how much of it.
    least = max(0, most - (told.activation or 0))
    return None if told.other is None else other, min(max(CONTEXT, least), most)
