"""What of a model's weights one GPU holds. Pure.

Under tensor parallelism vLLM splits every matrix, embeddings and lm_head by the vocabulary. Held
whole by each GPU are vectors (norms, biases, scales), the projections of MLA into its latent space
and the routers of experts. K and V projections are split no further than there are KV heads. A
tensor that is tied to another or that only speculation needs is counted all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from warmd.engine.sizing.headers import Tensor

_WHOLE = re.compile(
    r"\.(?:q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj|indexer\.\w+)\.|gate\.weight$"
)
_KV = re.compile(r"\.(?:k_proj|v_proj)\.")
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class _Split(Enum):
    """Among how many GPUs a tensor is divided."""

    ALL = auto()
    KV_HEADS = auto()
    NONE = auto()


@dataclass(frozen=True)
class Weights:
    """The tensors of a model: bytes by how they are split and by dtype, in so many files.

    `plain`: bytes of files without such a header (.bin, .pt, .gguf), taken as they are.
    """

    by_split: Mapping[tuple[_Split, str], int]
    files: int
    plain: int = 0

    @property
    def total(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(self.by_split.values()) + self.plain

    def held(self, tensor_parallel: int, kv_heads: int, float_bytes: int | None) -> int:
        """Bytes on each GPU; `float_bytes`: what a float takes once loaded, None: as stored."""
        ways = {
            _Split.ALL: tensor_parallel,
            _Split.KV_HEADS: max(1, min(tensor_parallel, kv_heads)),
            _Split.NONE: 1,
        }
        held = -(-self.plain // tensor_parallel)
        for (split, dtype), size in self.by_split.items():
            stored = _FLOATS.get(dtype)
            loaded = size * float_bytes // stored if stored and float_bytes else size
            held += -(-loaded // ways[split])
        return held


def tally(files: Iterable[Iterable[Tensor]], plain: Iterable[int] = ()) -> Weights:
    """Add up what the headers of a model's files say; `plain`: sizes of files without one."""
    by_split: dict[tuple[_Split, str], int] = {}
    count = 0
    for file in files:
        count += 1
        for tensor in file:
            key = (_split(tensor), tensor.dtype)
            by_split[key] = by_split.get(key, 0) + tensor.size
    others = tuple(plain)
    return Weights(by_split, count + len(others), sum(others))


def _split(tensor: Tensor) -> _Split:
    if tensor.dimensions < 2 or _WHOLE.search(tensor.name):
        return _Split.NONE
    return _Split.KV_HEADS if _KV.search(tensor.name) else _Split.ALL
