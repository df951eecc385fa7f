"""What a model's folder says of its size: config.json and the headers of its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from warmd.engine.errors import SizingError
from warmd.engine.sizing.headers import read_header
from warmd.engine.sizing.model_config import ModelConfig
from warmd.engine.sizing.weights import Weights, tally
from warmd.regular_file import open_regular
from warmd.staging import StagingError, model_folder, weight_files

_CONFIG_MAX = 32 * 2**20
_PLAIN = (".bin", ".pt", ".gguf")


@dataclass(frozen=True)
class Checkpoint:
    """A model's config and weights, as far as a size goes."""

    config: ModelConfig
    weights: Weights


def read_checkpoint(folder: Path, *, headers: bool = True) -> Checkpoint:
    """Read config.json and the weights' headers; waits for the disk. Raises `SizingError`.

    Without `headers` there are no weights in it: many a model has 100,000 tensors to read of.
    """
    try:
        config = _config(model_folder(folder) / "config.json")
        if not headers:
            return Checkpoint(config, tally(()))
        files = weight_files(folder).files
    except StagingError as error:
        raise SizingError(str(error)) from error
    tensors = (read_header(file) for file in files if file.suffix == ".safetensors")
    plain = (file.stat().st_size for file in files if file.suffix in _PLAIN)
    return Checkpoint(config, tally(tensors, plain))


def _config(path: Path) -> ModelConfig:
    try:
        with open_regular(path) as file:
            text = file.read(_CONFIG_MAX + 1)
    except OSError as error:
        raise SizingError(f"{path}: can't be read ({error.strerror})") from error
    try:
        found = json.loads(text) if len(text) <= _CONFIG_MAX else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SizingError(f"{path}: is no model's config; download it again")
    return ModelConfig.of(found)
