"""Which digests a model's files shall have: of a manifest, or of a Hugging Face cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from warmd.regular_file import open_regular
from warmd.staging.file_set import StagingError

HUGGING_FACE = "hugging-face"

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".gguf"})
_LINE = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]{64}) [ *](?P<name>.+)")
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


class MismatchError(StagingError):
    """A file isn't what its digest says; `path` names it. Trying again is no use."""

    def __init__(self, sentence: str, path: str) -> None:
        super().__init__(sentence)
        self.path = path


def parse_checksums(text: str) -> Mapping[str, str]:
    """Return digests in lower case by name, from the format of sha256sum(1).

    Raises `ValueError`: which line is none, or names what isn't below the folder.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")  # noqa: PLW2901 - written on another system
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not `<64 hex digits>  <name>`")
        name = match["name"]
        if match["escaped"]:
            name = re.sub(r"\\[\\nr]", lambda escape: _ESCAPES[escape[0]], name)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"line {number} names {name}, outside the folder")
        digest = match["digest"].lower()
        if found.setdefault(str(path), digest) != digest:
            raise ValueError(f"line {number} gives {name} a second digest")
    return found


def expected_digests(verify: str, folder: Path, files: Iterable[Path]) -> Mapping[Path, str]:
    """Return the hex digests that `files` below `folder` shall have, as `verify` says.

    64 digits are SHA-256, 40 are git's SHA-1 of a blob. Touches the file system. Raises
    `StagingError` where there is no such manifest, or it doesn't name every weight file.
    """
    if verify == HUGGING_FACE:
        return {file: _blob_name(file) for file in files}
    manifest = folder / verify
    try:
        with open_regular(manifest) as opened:
            listed = parse_checksums(opened.read().decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise StagingError(
            f"{manifest}: can't be read ({error.strerror}); put the sums there, or correct `verify`"
        ) from None
    except ValueError as error:
        raise StagingError(f"{manifest}: {error}; make it anew with sha256sum") from None
    found = {}
    for file in files:
        digest = listed.get(str(PurePosixPath(file.relative_to(folder.absolute()))))
        if digest is not None:
            found[file] = digest
        elif file.suffix in _WEIGHTS:
            raise StagingError(f"{manifest}: names no digest for {file.name}; add it")
    return found


def _blob_name(file: Path) -> str:
    name = file.resolve().name
    if not _BLOB.fullmatch(name):
        raise StagingError(
            f"{file}: is no link to a blob of a Hugging Face cache, whose name is its digest; "
            'set `verify` to a manifest like "SHA256SUMS"'
        )
    return name
