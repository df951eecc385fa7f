"""What requests keep in the KV cache, by the config.json of models that people serve."""

from __future__ import annotations

from typing import Any

import pytest

from warmd.engine import SizingError
from warmd.engine.sizing.flags import EngineFlags, human_int
from warmd.engine.sizing.layers import KvLayers, kv_layers
from warmd.engine.sizing.length import derived_max_len
from warmd.engine.sizing.model_config import ModelConfig

LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
}
QWEN3_32B = {
    "model_type": "qwen3",
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 5120,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 64,
}
QWEN3_235B = {**QWEN3_32B, "num_hidden_layers": 94, "num_key_value_heads": 4}
QWEN2_5_7B = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "max_position_embeddings": 32768,
    "sliding_window": 131072,
    "use_sliding_window": False,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_size": 7168,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "rope_scaling": {"factor": 40, "type": "yarn"},
}
GEMMA3_27B = {  # its own file leaves much to the defaults of transformers
    "model_type": "gemma3",
    "vision_config": {"num_hidden_layers": 27},
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "hidden_size": 5376,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
}
GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "hidden_size": 2560,
        "sliding_window": 1024,
    },
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
MISTRAL_7B_V1 = {**LLAMA_8B, "model_type": "mistral", "sliding_window": 4096}
QWEN3_5_27B = {
    "model_type": "qwen3_5",
    "text_config": {
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 64,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 16,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 48,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "mamba_ssm_dtype": "float32",
    },
}
TINY = {  # of which the real vLLM says that 1 GiB holds 2,097,152 tokens
    **LLAMA_8B,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
KIB = 1024


def layers(config: dict[str, Any], *args: str, ways: int = 1) -> KvLayers:
    return kv_layers(ModelConfig.of(config), EngineFlags.of(args), ways, float_bytes=2)


@pytest.mark.parametrize(
    ("config", "ways", "args", "each_token"),
    [
        (LLAMA_8B, 1, (), 128 * KIB),
        (LLAMA_8B, 4, (), 32 * KIB),
        (LLAMA_8B, 16, (), 16 * KIB),  # half a head can't be kept: there are 8
        (LLAMA_8B, 1, ("--kv-cache-dtype", "fp8"), 64 * KIB),
        (LLAMA_8B, 1, ("--kv_cache_dtype=nvfp4",), 36 * KIB),
        ({**LLAMA_8B, "quantization_config": {"kv_cache_quant_algo": "FP8"}}, 1, (), 64 * KIB),
        (QWEN3_32B, 1, (), 256 * KIB),
        (QWEN3_235B, 4, (), 94 * 512),  # 238,208 tokens in 10.68 GiB, says a log of four L40S
        (QWEN2_5_7B, 1, (), 56 * KIB),
        (DEEPSEEK_V3, 1, (), 61 * 576 * 2),
        (DEEPSEEK_V3, 8, (), 61 * 576 * 2),  # every GPU keeps the latent whole
        (DEEPSEEK_V3, 8, ("--kv-cache-dtype", "fp8"), 61 * 576),
        (TINY, 1, (), 512),
    ],
)
def test_a_token_takes_what_vllm_says(
    config: dict[str, Any], ways: int, args: tuple[str, ...], each_token: int
) -> None:
    found = layers(config, *args, ways=ways)
    assert found.each_token == each_token
    assert found.request(16_000) == 16_000 * each_token
    assert found.request(1) == 16 * each_token, "a block is the least"


def test_layers_with_a_window_keep_no_more_than_it_and_what_is_in_flight() -> None:
    found = layers(GEMMA3_27B, "--max-num-batched-tokens", "2048")
    assert (found.full, found.windowed, found.window) == (10, 60, 1024), "52, in groups of 10"
    layer = 2 * 16 * 128 * 2
    window = 1023 + 2 * 2048
    kept = (-(-window // 16) + 1) * 16
    assert found.request(131072) == (10 * 131072 + 60 * kept) * layer
    assert found.request(64) == (10 * 64 + 60 * 80) * layer
    whole = layers(GEMMA3_27B, "--disable-hybrid-kv-cache-manager")
    assert whole.request(131072) == 62 * 131072 * layer

    small = layers(GEMMA3_4B)
    assert (small.token, small.full, small.windowed) == (2 * 4 * 256 * 2, 5, 30)
    alternating = layers(GPT_OSS_20B)
    assert (alternating.full, alternating.windowed, alternating.window) == (12, 12, 128)
    everywhere = layers(MISTRAL_7B_V1)
    assert (everywhere.full, everywhere.windowed) == (0, 32)
    assert everywhere.request(100_000) < 100_000 * 128 * KIB
    unnamed = layers({**LLAMA_8B, "sliding_window": 4096})
    assert (unnamed.full, unnamed.windowed) == (32, 0), "which layers isn't said: the safe side"


def test_a_delta_nets_state_is_a_block_of_tokens() -> None:
    """vLLM logged of this model: block size 1568, state padded by 0.13 %."""
    found = layers(QWEN3_5_27B, "--kv-cache-dtype", "fp8")
    assert found.block == 1568
    assert found.state == 1568 * 2048
    assert found.state == pytest.approx(1.0013 * 3_207_168, rel=1e-4)
    assert found.request(1) == 16 * found.state + 2 * 48 * found.state


def test_an_encoder_keeps_nothing() -> None:
    assert layers({"model_type": "xlm-roberta", "num_hidden_layers": 24}).request(512) == 0


@pytest.mark.parametrize(
    ("config", "args"),
    [
        ({}, ()),
        ({"num_hidden_layers": 2}, ()),
        ({"num_hidden_layers": "2", "num_attention_heads": 1, "head_dim": 1}, ()),
        ({"num_hidden_layers": True, "num_attention_heads": 1, "head_dim": 1}, ()),
        ({**LLAMA_8B, "hybrid_override_pattern": "M-M*"}, ()),
        ({**LLAMA_8B, "layers_block_type": ["mamba", "attention"]}, ()),
        ({**LLAMA_8B, "is_encoder_decoder": True}, ()),
        ({**LLAMA_8B, "layer_types": ["full_attention"] * 31}, ()),
        ({**LLAMA_8B, "layer_types": [*["full_attention"] * 31, "something_new"]}, ()),
        ({**LLAMA_8B, "layer_types": [*["full_attention"] * 31, 7]}, ()),
        ({**LLAMA_8B, "layer_types": [*["full_attention"] * 31, "linear_attention"]}, ()),
        ({**LLAMA_8B, "kv_lora_rank": 512}, ()),
        ({**LLAMA_8B, "head_dim": None, "hidden_size": 16}, ()),  # 32 heads
        (LLAMA_8B, ("--kv-cache-dtype", "turboquant_k8v4")),
    ],
)
def test_what_is_not_known_is_not_guessed(config: dict[str, Any], args: tuple[str, ...]) -> None:
    with pytest.raises(SizingError):
        layers(config, *args)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LLAMA_8B, 131072),
        (DEEPSEEK_V3, 163840),  # YaRN: scaled already
        (GEMMA3_27B, 131072),
        ({**LLAMA_8B, "rope_scaling": {"type": "linear", "factor": 2.0}}, 262144),
        ({**LLAMA_8B, "rope_parameters": {"full_attention": {"factor": 2.0}}}, 131072 * 2),
        ({"n_positions": 1024, "seq_length": 512}, 512),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),  # Command-R
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope"},
            },
            4096,
        ),
        ({"model_type": "llama"}, None),
        ({"max_position_embeddings": 4096, "model_max_length": 10**30}, 4096),  # "no limit"
        ({"max_position_embeddings": 10**400}, None),
        ({**LLAMA_8B, "rope_scaling": {"type": "linear", "factor": 10**400}}, None),
        ({**LLAMA_8B, "rope_scaling": {"type": ["linear"], "factor": 2}}, 262144),
    ],
)
def test_the_longest_request_is_the_one_that_vllm_derives(
    config: dict[str, Any], length: int | None
) -> None:
    plain = {**config}
    if "rope_parameters" in config:
        del plain["rope_scaling"]
    assert derived_max_len(ModelConfig.of(plain)) == length


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("32768", 32768),
        ("32k", 32_000),
        ("32K", 32_768),
        ("25.6k", 25_600),
        ("2M", 2 * 2**20),
        ("1.5K", None),
        ("many", None),
        ("-1", None),
        ("1" * 400 + "k", None),
    ],
)
def test_numbers_are_read_as_vllm_reads_them(text: str, number: int | None) -> None:
    assert human_int(text) == number


def test_flags_are_read_as_argparse_reads_them() -> None:
    flags = EngineFlags.of(
        ["--max_model_len=8k", "-tp", "2", "--enforce-eager", "--max-model-len", "16K"]
    )
    assert flags.max_model_len == 16384, "the last one holds"
    assert flags.number("--tensor-parallel-size", 1) == 2
    assert flags.eager
    assert EngineFlags.of(["--max-model-len", "auto"]).max_model_len is None
    assert EngineFlags.of(["--max-model-len", "-1"]).max_model_len is None
    with pytest.raises(SizingError, match="--max-model-len must be a number above 0"):
        _ = EngineFlags.of(["--max-model-len", "long"]).max_model_len
