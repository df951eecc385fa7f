"""The longest request that a model takes, and whether its args ask for a longer one. Pure.

As vLLM derives it (config/model.py, _get_and_verify_max_len).
"""

from __future__ import annotations

from collections.abc import Sequence

from warmd.engine.errors import SizingError
from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.sizing.model_config import ModelConfig

_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
# Their max_position_embeddings are what comes after scaling.
_ALREADY_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}


def derived_max_len(config: ModelConfig) -> int | None:
    """Return the longest request in tokens, None where config.json doesn't tell."""
    known = [found for key in _KEYS if (found := config.number(key)) is not None]
    if not known:
        return None
    length = config.number("model_max_length") or min(known)
    if "gemma3" in config.model_type:  # scaled already
        return length
    scale: float = 1
    for rope in config.ropes():
        kind = str(rope.get("rope_type") or rope.get("type"))
        factor = rope.get("factor")
        if kind == "longrope":
            original = rope.get("original_max_position_embeddings")
            inner = original if type(original) is int else None
            return config.number("original_max_position_embeddings") or inner or length
        if kind not in _ALREADY_SCALED and isinstance(factor, int | float):
            scale = factor
    return int(length * scale) if 0 < scale < 1e6 else None


_CHANGES_IT = ("--hf-overrides", "--rope-scaling", "--rope-theta", "--config-format", "--tokenizer")


def check_length(args: Sequence[str], config: ModelConfig | None) -> None:
    """Raise `SizingError` where vLLM surely refuses the --max-model-len of `args`."""
    flags = EngineFlags.of(args)
    asked = flags.max_model_len
    if asked is None or config is None or any(flag in flags.values for flag in _CHANGES_IT):
        return
    most = derived_max_len(config)
    if most is not None and asked > max(most, config.number("model_max_length") or 0):
        raise SizingError(
            f"--max-model-len {asked} is more than the {most} tokens that the model was made for, "
            "by its config.json; lower it"
        )
