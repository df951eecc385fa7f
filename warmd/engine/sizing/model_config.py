"""A model's config.json, read with distrust: what isn't there or isn't a number is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TEXT_TABLES = ("text_config", "llm_config", "language_config", "thinker_config")
_TENSORS_OF_OTHERS = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower")

_ABSURD = 2**40  # such as 10^30 for "no limit"

# What transformers fills in where these models' own files leave it out.
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"sliding_window_pattern": 2},
    "cohere2": {"sliding_window_pattern": 4},
}


@dataclass(frozen=True)
class ModelConfig:
    """The whole table, and the one of the language model in it (the same where there is one)."""

    root: Mapping[str, Any]
    text: Mapping[str, Any]

    @staticmethod
    def of(root: Mapping[str, Any]) -> ModelConfig:
        """Find the language model in a parsed config.json."""
        text = root
        while (inner := _inner(text)) is not None:
            text = inner
        return ModelConfig(root, text)

    @property
    def model_type(self) -> str:
        """The language model's type; the whole model's where it has none of its own."""
        found = self.text.get("model_type") or self.root.get("model_type")
        return found if isinstance(found, str) else ""

    @property
    def sees_or_hears(self) -> bool:
        """Whether there are encoders beside the language model."""
        return any(key in self.root for key in _TENSORS_OF_OTHERS)

    @property
    def quantization(self) -> Mapping[str, Any]:
        """How the weights are quantised; empty where they are not."""
        for table in (self.root, self.text):
            for key in ("quantization_config", "compression_config"):
                if isinstance(found := table.get(key), dict):
                    return found
        return {}

    def number(self, *keys: str) -> int | None:
        """Return the first of `keys` that is a sensible whole number above 0, None without one."""
        defaults = _DEFAULTS.get(self.model_type, {})
        for table in (self.text, defaults):
            for key in keys:
                found = table.get(key)
                if type(found) is int and 0 < found < _ABSURD:
                    return found
        return None

    def has(self, *keys: str) -> str | None:
        """Return the first of `keys` that says something in either table, None where none does."""
        for table in (self.text, self.root):
            for key in keys:
                if table.get(key):
                    return key
        return None

    def ropes(self) -> Iterator[Mapping[str, Any]]:
        """Every table that scales positions: there may be one for each type of layer."""
        for key in ("rope_scaling", "rope_parameters"):
            found = self.text.get(key)
            if not isinstance(found, dict):
                continue
            nested = [each for each in found.values() if isinstance(each, dict)]
            yield from nested or [found]


def _inner(table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in _TEXT_TABLES:
        if isinstance(found := table.get(key), dict):
            return found
    return None
