"""Which files of a model's folder the engine will read, so that they are worth staging."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmd import spoken

_SMALL = frozenset({".json", ".model", ".jinja", ".txt", ".tiktoken"})

# Left behind by training; vLLM's own filter skips them too.
_NOT_FOR_INFERENCE = frozenset(
    {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
)

_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.[a-z]+)")


class StagingError(Exception):
    """Weights can't be staged. The text is one sentence: what, why, what to do."""


@dataclass(frozen=True)
class WeightFiles:
    """What to stage: files by the paths that lead there, each inode once, and their bytes."""

    files: tuple[Path, ...]
    total: int


def weight_files(folder: Path) -> WeightFiles:
    """Find the weights, tokenizer and configuration that the engine reads from `folder`.

    A plain folder or a snapshot of the Hugging Face cache (links into `blobs/`). Safetensors by
    their index where there is one, else all of them, else `.bin`, else `.pt`, else one `.gguf`.
    Touches the file system, so call it in a thread where that may be a network mount.
    Raises `StagingError` where files are missing, half-downloaded or unreadable.
    """
    names = _names(folder)
    weights = _weights(folder, names)
    small = [name for name in names if Path(name).suffix in _SMALL]
    chosen = [_checked(folder / name) for name in weights]
    if empty := next((file for file in chosen if file.size == 0), None):
        raise _half_downloaded(empty.path, "it is empty")
    chosen += [file for name in small if (file := _checked(folder / name)).size]
    unique = {file.inode: file for file in reversed(chosen)}
    kept = [file for file in chosen if unique[file.inode] is file]
    return WeightFiles(tuple(file.path for file in kept), sum(file.size for file in kept))


def _names(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except FileNotFoundError:
        raise StagingError(
            f"{folder}: no such folder; download the model there or correct `weights`"
        ) from None
    except NotADirectoryError:
        raise StagingError(
            f"{folder}: is no folder; `weights` names the folder that holds the model's files"
        ) from None
    except OSError as error:
        raise StagingError(
            f"{folder}: can't be listed ({error.strerror}); let the daemon's user read it"
        ) from None
    if {"snapshots", "blobs"} <= set(names):
        raise StagingError(
            f"{folder}: is the root of a Hugging Face cache entry; "
            "set `weights` to one of the folders under its snapshots/"
        )
    return names


def _weights(folder: Path, names: Sequence[str]) -> list[str]:
    for suffix in (".safetensors", ".bin", ".pt"):
        indexes = [name for name in names if name.endswith(f"{suffix}.index.json")]
        if indexes := _not_consolidated(indexes):
            return sorted({shard for index in indexes for shard in _shards(folder, index)})
        plain = [n for n in names if n.endswith(suffix) and n not in _NOT_FOR_INFERENCE]
        if plain := _not_consolidated(plain):
            return _complete(folder, plain)
    quantised = [name for name in names if name.endswith(".gguf")]
    if len({_stem(name) for name in quantised}) > 1:
        raise StagingError(
            f"{folder}: holds {len(quantised)} different .gguf files and the engine loads one; "
            "keep one in a folder of its own"
        )
    if quantised:
        return _complete(folder, quantised)
    if any(name.endswith(".incomplete") for name in names):
        raise StagingError(
            f"{folder}: the download isn't finished (.incomplete files); finish it, then stage"
        )
    raise StagingError(
        f"{folder}: holds no weights (.safetensors, .bin, .pt or .gguf); "
        "download the model there or correct `weights`"
    )


def _not_consolidated(names: Sequence[str]) -> list[str]:
    """Drop the second copy of the weights that some models bring along."""
    return [name for name in names if not name.startswith("consolidated")] or list(names)


def _shards(folder: Path, index: str) -> Iterable[str]:
    try:
        shards = set(json.loads((folder / index).read_bytes())["weight_map"].values())
        outside = {
            shard for shard in shards if Path(shard).is_absolute() or ".." in Path(shard).parts
        }
    except OSError as error:
        raise StagingError(
            f"{folder / index}: can't be read ({error.strerror}); let the daemon's user read it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StagingError(
            f"{folder / index}: is no index of weights; download the file again"
        ) from None
    if outside or not shards:
        what = f"names {min(outside)}, outside the folder" if outside else "names no weights"
        raise StagingError(f"{folder / index}: {what}; download the file again")
    for shard in sorted(shards):
        if not os.path.lexists(folder / shard):
            raise StagingError(
                f"{folder / shard}: is missing, though {index} names it; finish the download"
            )
    return shards


def _stem(name: str) -> str:
    piece = _PIECE.fullmatch(name)
    return f"{piece['stem']}-of-{piece['count']}" if piece else name


def _complete(folder: Path, names: list[str]) -> list[str]:
    """Refuse `model-00002-of-00003` where one of its pieces isn't there."""
    there = set(names)
    for piece in filter(None, map(_PIECE.fullmatch, names)):
        for number in range(1, int(piece["count"]) + 1):
            digits = f"{number:0{len(piece['number'])}}"
            name = f"{piece['stem']}-{digits}-of-{piece['count']}{piece['suffix']}"
            if name not in there and int(piece["number"]) > 0:
                raise StagingError(
                    f"{folder / name}: is missing, though {piece[0]} is there; finish the download"
                )
    return names


@dataclass(frozen=True)
class _File:
    path: Path
    inode: tuple[int, int]
    size: int


def _checked(path: Path) -> _File:
    try:
        real = path.resolve(strict=True)
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise StagingError(
            f"{path}: links to {os.path.realpath(path)}, which isn't there; finish the download"
        ) from None
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StagingError(
            f"{path}: can't be read ({why}); let the daemon's user read it"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StagingError(f"{path}: is no regular file; put the model's real file there")
        if real.suffix == ".incomplete":
            raise _half_downloaded(path, f"it links to {real.name}")
        if hole := _hole(descriptor, status):
            raise _half_downloaded(
                path, f"{spoken.size(hole)} of {spoken.size(status.st_size)} are holes"
            )
    finally:
        os.close(descriptor)
    # The path as it was given: when a link on it leads elsewhere one day, the holder notices.
    return _File(path.absolute(), (status.st_dev, status.st_ino), status.st_size)


def _hole(descriptor: int, status: os.stat_result) -> int:
    """Bytes that were never written, 0 where there is no hole.

    Compressing file systems use few blocks for whole files, so blocks raise the suspicion and
    SEEK_HOLE (lseek(2)) has to confirm it.
    """
    missing = status.st_size - status.st_blocks * 512
    if missing <= status.st_size // 100:
        return 0
    first = os.lseek(descriptor, 0, os.SEEK_HOLE)
    return missing if first < status.st_size else 0


def _half_downloaded(path: Path, why: str) -> StagingError:
    return StagingError(f"{path}: is half-downloaded ({why}); finish the download, then stage")
