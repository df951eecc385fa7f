"""What a model's files say of its size, and how damaged ones are named."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.engine import SizingError
from warmd.engine.sizing import read_checkpoint
from warmd.engine.sizing.headers import HEADER_MAX, Tensor, read_header
from warmd.engine.sizing.weights import tally


def written(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> Path:
    """Write a sound file of tensors: dtype, shape, bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


MATRIX = {"model.layers.0.mlp.up_proj.weight": ("BF16", [4, 8], 64)}


def test_a_header_tells_what_a_file_holds(tmp_path: Path) -> None:
    file = written(tmp_path / "model.safetensors", {**MATRIX, "norm.weight": ("F32", [2], 8)})
    assert read_header(file) == (
        Tensor("model.layers.0.mlp.up_proj.weight", "BF16", 2, 64),
        Tensor("norm.weight", "F32", 1, 8),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        (3).to_bytes(8, "little") + b"{}",
        (HEADER_MAX + 1).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}left over",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (20_000).to_bytes(8, "little") + b"[" * 20_000,
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(SizingError, match=r"model\.safetensors: is damaged or cut short"):
        read_header(file)


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "model.safetensors", MATRIX)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SizingError, match="take 64 bytes and 63 are there"):
        read_header(file)


@pytest.fixture(scope="module")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "model.safetensors"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200) | _JSON.map(lambda found: json.dumps({"t": found}).encode()))
def test_no_garbage_is_more_than_a_named_error(garbage: Path, header: bytes) -> None:
    garbage.write_bytes(len(header).to_bytes(8, "little") + header)
    with suppress(SizingError):
        tensors = read_header(garbage)
        assert sum(tensor.size for tensor in tensors) == 0, "no data follows it"


def test_tensor_parallelism_splits_what_vllm_splits() -> None:
    layer = "model.layers.0"
    tensors = [
        Tensor("model.embed_tokens.weight", "BF16", 2, 800),
        Tensor(f"{layer}.self_attn.k_proj.weight", "BF16", 2, 80),
        Tensor(f"{layer}.self_attn.kv_a_proj_with_mqa.weight", "BF16", 2, 40),
        Tensor(f"{layer}.mlp.gate.weight", "BF16", 2, 24),
        Tensor(f"{layer}.mlp.gate_proj.weight", "BF16", 2, 400),
        Tensor(f"{layer}.input_layernorm.weight", "BF16", 1, 8),
    ]
    found = tally([tensors[:3], tensors[3:]])
    assert (found.total, found.files) == (1352, 2)
    assert found.held(1, 2, None) == 1352
    assert found.held(4, 2, None) == 200 + 40 + 40 + 24 + 100 + 8, "two KV heads, so two halves"


def test_floats_take_what_they_take_once_loaded() -> None:
    found = tally([[Tensor("a", "F32", 2, 400), Tensor("b", "F8_E4M3", 2, 50)]])
    assert found.held(1, 1, 2) == 250
    assert found.held(1, 1, 4) == 450
    assert found.held(1, 1, None) == 450


def test_a_folder_is_read_by_its_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    shard = "model-00001-of-00001.safetensors"
    written(tmp_path / shard, MATRIX)
    written(tmp_path / "adapter.safetensors", MATRIX)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(MATRIX, shard)}))
    found = read_checkpoint(tmp_path)
    assert (found.weights.total, found.weights.files) == (64, 1)
    (tmp_path / shard).unlink()
    with pytest.raises(SizingError, match="is missing, though"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SizingError, match=r"config\.json: is no model's config"):
        read_checkpoint(tmp_path)
