"""Which files of a model's folder the engine will read, so that they are worth staging."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmd import spoken
from warmd.regular_file import open_regular
from warmd.snapshots import SnapshotError, snapshot_of
from warmd.staging.cut_short import why_cut_short
from warmd.staging.file_set import FileSet, StagingError

_SMALL = frozenset({".json", ".model", ".jinja", ".txt", ".tiktoken"})

# Left behind by training; vLLM's own filter skips them too.
_NOT_FOR_INFERENCE = frozenset(
    {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
)

_CONSOLIDATED = "consolidated"
"""Mistral's own format, which vLLM prefers where it finds it beside the other."""

_TENSORS = (".safetensors",)
_SHARDED = ("sharded_state", "runai_streamer_sharded")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "auto": (*_TENSORS, ".bin", ".pt", ".gguf"),
    "hf": (*_TENSORS, ".bin", ".pt"),
    "bitsandbytes": (*_TENSORS, ".bin", ".pt"),
    "npcache": (".bin", ".pt"),
    "pt": (".pt",),
    "gguf": (".gguf",),
    "dummy": (),  # weights are made up; tokenizer and config are read all the same
    **dict.fromkeys(("safetensors", "fastsafetensors", "instanttensor", "mistral"), _TENSORS),
    **dict.fromkeys(("runai_streamer", *_SHARDED), _TENSORS),
}
"""What each loader of vLLM reads of a folder, the first that there is."""

_NUMBER = re.compile(r"(\d+)")
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.[a-z]+)")


def model_folder(path: Path) -> Path:
    """Return the folder that holds a model's files: `path` itself, or a snapshot below it.

    Touches the file system. Raises `StagingError` where nobody can tell which one is meant.
    """
    try:
        return snapshot_of(path)
    except SnapshotError as error:
        raise StagingError(str(error)) from error


def knows_format(load_format: str) -> bool:
    """Whether it is known here which files vLLM reads with this `--load-format`."""
    return load_format in _SUFFIXES


def weight_files(path: Path, load_format: str = "auto") -> FileSet:
    """Find the weights, tokenizer and configuration that the engine reads, in the order it does.

    `path` is a plain folder, a snapshot of the Hugging Face cache (links into `blobs/`), or what
    `model_folder` finds one in; `load_format` is vLLM's `--load-format`. As vLLM 0.32 chooses by
    itself: consolidated safetensors, else all that the index of safetensors names, else all of
    them, else `.bin`, else `.pt`, else one `.gguf`.
    Touches the file system, so call it in a thread where that may be a network mount.
    Raises `StagingError` where files are missing, half-downloaded or unreadable, or where nobody
    here knows which ones a format reads.
    """
    folder = model_folder(path)
    names = _names(folder)
    read = _weights(folder, names, load_format)
    weights = [_checked(folder / name) for name in sorted(read, key=_natural)]
    if empty := next((file for file in weights if file.size == 0), None):
        raise _half_downloaded(empty.path, "it is empty")
    small = [_checked(folder / name) for name in names if Path(name).suffix in _SMALL]
    chosen = [file for file in small if file.size] + weights
    unique = {file.inode: file for file in reversed(chosen)}
    kept = [file for file in chosen if unique[file.inode] is file]
    return FileSet(tuple(file.path for file in kept), sum(file.size for file in kept))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort pieces by their numbers, as the engine's loader does."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in _NUMBER.split(name)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
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


def _weights(folder: Path, names: Sequence[str], load_format: str) -> list[str]:
    suffixes = _SUFFIXES.get(load_format)
    if suffixes is None:
        raise StagingError(
            f"{folder}: is not staged, for warmd doesn't know which files --load-format "
            f"{load_format} reads; take it out of `args`, or let the model rest cold"
        )
    if not suffixes:
        return []
    for suffix in suffixes:
        found = [n for n in names if n.endswith(suffix) and n not in _NOT_FOR_INFERENCE]
        if suffix == ".safetensors":
            found, index = _tensors(names, found, load_format)
            if index is not None:
                return list(_shards(folder, index))
        elif suffix == ".gguf":
            found = _one_gguf(folder, found)
        elif found:
            for name in names:
                if name.endswith(f"{suffix}.index.json"):
                    _shards(folder, name)  # none may be missing, but all that are there are read
        if found:
            return _complete(folder, found)
    if any(name.endswith(".incomplete") for name in names):
        raise StagingError(
            f"{folder}: the download isn't finished (.incomplete files); finish it, then stage"
        )
    asked = "" if load_format == "auto" else f" for --load-format {load_format}"
    raise StagingError(
        f"{folder}: holds no weights{asked} ({', '.join(suffixes)}); "
        "download the model there or correct `weights`"
    )


def _tensors(
    names: Sequence[str], tensors: list[str], load_format: str
) -> tuple[list[str], str | None]:
    """Return the files of one of both formats that may stand side by side, and their index."""
    own = [name for name in tensors if name.startswith(_CONSOLIDATED)]
    takes_own = load_format == "mistral" or (load_format == "auto" and bool(own))
    index = f"{_CONSOLIDATED if takes_own else 'model'}.safetensors.index.json"
    found = own if takes_own else tensors
    goes_by_it = found and index in names and load_format not in _SHARDED
    return found, index if goes_by_it else None


def _one_gguf(folder: Path, found: list[str]) -> list[str]:
    if len({_stem(name) for name in found}) > 1:
        raise StagingError(
            f"{folder}: holds {len(found)} different .gguf files and the engine loads one; "
            "keep one in a folder of its own"
        )
    return found


def _shards(folder: Path, index: str) -> Iterable[str]:
    try:
        with open_regular(folder / index) as file:
            shards = set(json.load(file)["weight_map"].values())
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
        if path.suffix in _TENSORS and (why := why_cut_short(descriptor, status)):
            raise StagingError(f"{path}: is cut short ({why}); finish or repeat its download")
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
