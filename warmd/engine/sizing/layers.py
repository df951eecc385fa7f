"""What a model's layers keep of a request in the KV cache of one GPU. Pure.

The formulas are vLLM's (v1/kv_cache_interface.py, and kv_cache_utils.py for how layers are put
into groups of one size). What they can't be applied to with certainty raises `SizingError`.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.engine.errors import SizingError
from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.sizing.model_config import ModelConfig

BLOCK = 16
"""Tokens: vLLM's default block, in which requests get their cache."""

BATCHED_TOKENS = 8192
"""vLLM's own default on GPUs of 70 to 160 GiB; fewer on smaller ones."""

_BATCHES = 2  # one runs while the next is scheduled

_ENCODERS = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "modernbert", "nomic_bert"}
    | {"gte", "new", "clip", "siglip", "siglip2"}
)
_LATENT = frozenset(
    {"deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "kimi_k2"}
    | {"longcat_flash", "pangu_ultra_moe", "axk1"}
)
_WINDOW_EVERYWHERE = frozenset({"mistral", "mixtral", "phi3", "starcoder2"})

# Keys of layers that keep something else, or not the same in each layer.
_NOT_KNOWN = (
    *("layers_block_type", "hybrid_override_pattern", "attn_type_list", "block_configs"),
    *("attn_layer_indices", "full_attn_idxs", "linear_attn_config", "compress_ratios", "ssm_cfg"),
    *("mamba_d_state", "mamba_n_heads", "state_size", "cross_attention_layers", "rswa_window"),
    *("is_encoder_decoder", "global_head_dim", "num_global_key_value_heads", "swa_head_dim"),
    *("swa_num_key_value_heads", "attention_head_dim", "hidden_size_per_head", "multi_query"),
)
_FULL, _WINDOW, _CHUNK, _LINEAR = (
    *("full_attention", "sliding_attention", "chunked_attention", "linear_attention"),
)
_LINEAR_KEYS = (
    *("linear_num_key_heads", "linear_num_value_heads"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"),
)
_KINDS = {
    "attention": _FULL,
    **{kind: kind for kind in (_FULL, _WINDOW, _CHUNK, _LINEAR)},
    "deepseek_sparse_attention": _FULL,
    "indexed_attention": _FULL,
}


@dataclass(frozen=True)
class KvLayers:
    """How many layers keep what, filled up to vLLM's groups; bytes on one GPU.

    `full` layers keep every token, `windowed` ones the last `window` and what is in flight, and
    `linear` ones a state of `state` bytes, which vLLM keeps twice to reuse prefixes.
    """

    token: int  # one token in one layer
    full: int
    windowed: int = 0
    window: int = 0
    linear: int = 0
    state: int = 0
    block: int = BLOCK
    in_flight: int = _BATCHES * BATCHED_TOKENS

    @property
    def each_token(self) -> int:
        """Bytes that a further token takes, however long the request is."""
        return self.full * self.token

    def request(self, tokens: int) -> int:
        """Bytes that a request of so many tokens takes."""
        whole = -(-tokens // self.block) * self.block
        kept = min(self.window - 1 + self.in_flight, tokens)
        windowed = (-(-kept // self.block) + 1) * self.block if self.windowed else 0
        states = 2 * self.linear * self.state
        return (self.full * whole + self.windowed * windowed) * self.token + states


def kv_layers(
    config: ModelConfig, flags: EngineFlags, tensor_parallel: int, float_bytes: int
) -> KvLayers:
    """Say what the layers of a model keep. Raises `SizingError` where that can't be known.

    `float_bytes`: of the weights once loaded, and so of a KV cache without a dtype of its own.
    """
    if config.model_type in _ENCODERS:
        return KvLayers(token=0, full=0)
    layers = config.number("num_hidden_layers", "n_layer", "num_layers")
    if layers is None:
        raise SizingError("config.json doesn't say how many layers there are")
    if (key := config.has(*_NOT_KNOWN)) is not None:
        raise SizingError(f"its layers keep more than keys and values ({key} in config.json)")
    kinds = _kinds(config, layers)
    if config.has("kv_lora_rank"):
        return KvLayers(token=_latent(config, flags, float_bytes), full=layers)
    heads = max(1, kv_heads(config) // tensor_parallel)
    token = _token(heads, _head_dim(config), _kv_bytes(config, flags, float_bytes))
    full, linear = kinds.count(_FULL), kinds.count(_LINEAR)
    windowed = layers - full - linear
    in_flight = _BATCHES * flags.number("--max-num-batched-tokens", BATCHED_TOKENS)
    if linear:
        if windowed or not full:
            raise SizingError("it mixes kinds of layers in a way that isn't known here")
        state = _state(config, tensor_parallel, float_bytes)
        block = -(-state // (BLOCK * token)) * BLOCK  # a block of tokens is as large as a state
        full, linear = _grouped(full, linear)
        return KvLayers(token, full, linear=linear, state=block * token, block=block)
    if flags.windows_hold_all and full:
        full, windowed = layers, 0
    window = config.number("attention_chunk_size" if _CHUNK in kinds else "sliding_window") or 0
    full, windowed = _grouped(full, windowed)
    return KvLayers(token, full, windowed, window, in_flight=in_flight)


def kv_heads(config: ModelConfig) -> int:
    """Return the KV heads of all GPUs together. Raises `SizingError`."""
    if config.has("kv_lora_rank"):
        return 1
    heads = config.number(
        *("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num"),
        *("num_attention_groups", "num_attention_heads", "n_head"),
    )
    if heads is None:
        raise SizingError("config.json doesn't say how many heads its attention has")
    return heads


def _kinds(config: ModelConfig, layers: int) -> list[str]:
    """Say of each layer what it keeps; where a window's layers aren't named, every token."""
    named = config.text.get("layer_types")
    if isinstance(named, list):
        kinds = [_KINDS.get(kind, "") if isinstance(kind, str) else "" for kind in named]
        if len(kinds) != layers or "" in kinds:
            unknown = next((str(n) for n, kind in zip(named, kinds, strict=True) if not kind), "")
            raise SizingError(f"its layer_types in config.json aren't known here {unknown[:40]}")
        return kinds
    windowed = config.number("sliding_window") is not None
    if not windowed or config.text.get("use_sliding_window") is False:
        return [_FULL] * layers
    pattern = config.number("sliding_window_pattern")
    if pattern is not None:
        return [_WINDOW if (n + 1) % pattern else _FULL for n in range(layers)]
    return [_WINDOW if config.model_type in _WINDOW_EVERYWHERE else _FULL] * layers


def _grouped(some: int, others: int) -> tuple[int, int]:
    """Fill both kinds of layers up to a multiple of the group's size, as vLLM does."""
    if not some or not others:
        return some, others
    fewest, most = sorted((some, others))
    group = most if most < 1.5 * fewest else fewest
    return -(-some // group) * group, -(-others // group) * group


def _head_dim(config: ModelConfig) -> int:
    if (found := config.number("head_dim")) is not None:
        return found
    hidden = config.number("hidden_size", "n_embd")
    heads = config.number("num_attention_heads", "n_head")
    if hidden is None or heads is None or hidden < heads:
        raise SizingError("config.json doesn't say how wide a head of its attention is")
    return hidden // heads


def _kv_bytes(config: ModelConfig, flags: EngineFlags, float_bytes: int) -> float:
    """Bytes of one number in the KV cache. Raises `SizingError` for a form of unknown size."""
    dtype = flags.kv_cache_dtype
    if dtype == "auto":
        return 1 if _brings_fp8(config) else float_bytes
    if dtype in ("bfloat16", "float16"):
        return 2
    if dtype in ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"):
        return 1
    if dtype in ("nvfp4", "nvfp4_4over6"):
        return 1 / 2 + 1 / 16  # and the scales of 16 numbers
    raise SizingError(f"what a token takes with --kv-cache-dtype {dtype} isn't known here")


def _brings_fp8(config: ModelConfig) -> bool:
    """Whether the weights were made for a KV cache of 8 bits, which vLLM then takes."""
    found = config.quantization
    inner = found.get("quantization")
    tables = [found, inner] if isinstance(inner, dict) else [found]
    algorithms = {str(table.get("kv_cache_quant_algo")).lower() for table in tables}
    scheme = next((t["kv_cache_scheme"] for t in tables if t.get("kv_cache_scheme")), None)
    return "fp8" in algorithms or (isinstance(scheme, dict) and scheme.get("num_bits") == 8)


def _token(heads: int, head_dim: int, number: float) -> int:
    return int(2 * heads * head_dim * number)


def _latent(config: ModelConfig, flags: EngineFlags, float_bytes: int) -> int:
    """Bytes of a token in one layer of latent attention (MLA): the same on every GPU."""
    rank, rope = config.number("kv_lora_rank"), config.number("qk_rope_head_dim")
    if config.model_type not in _LATENT or rank is None or rope is None:
        raise SizingError(
            f"what the latent attention of {config.model_type} keeps isn't known here"
        )
    index = config.number("index_head_dim") if config.has("index_topk") else None
    if index is None:
        return int((rank + rope) * _kv_bytes(config, flags, float_bytes))
    # Sparse attention keeps its own form, and beside it the keys of its index with a scale.
    packed = flags.kv_cache_dtype.startswith("fp8")
    return (656 if packed else (rank + rope) * float_bytes) + index + index // 128 * 4


def _state(config: ModelConfig, tensor_parallel: int, float_bytes: int) -> int:
    """Bytes of the state of one gated delta net (Qwen3-Next, Qwen3.5)."""
    k_heads, v_heads, k_dim, v_dim, kernel = (_of_linear(config, key) for key in _LINEAR_KEYS)
    number = 4 if config.text.get("mamba_ssm_dtype") == "float32" else float_bytes
    channels = 2 * k_heads * k_dim + v_heads * v_dim
    convolution = channels // tensor_parallel * (kernel - 1) * float_bytes
    return convolution + max(1, v_heads // tensor_parallel) * k_dim * v_dim * number


def _of_linear(config: ModelConfig, key: str) -> int:
    if (found := config.number(key)) is None:
        raise SizingError(f"what its linear attention keeps isn't known here (no {key})")
    return found
