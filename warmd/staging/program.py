"""The program files of an engine's environment: learnt from an engine that is up, and kept.

Keyed by the environment, which all models on one Python share: what was learnt is forgotten once
something is installed or removed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from warmd.staging.file_set import FileSet, StagingError
from warmd.staging.holder.environment import Environment
from warmd.staging.holder.kept import kept

_PROGRAM = Path(__file__).parent / "holder" / "learn.py"
_CAP = 16 << 30  # bytes; CUDA's libraries and torch take about 8
_PATIENCE_S = 600.0  # at the lowest priority of a busy host, and on a slow disk


@dataclass(frozen=True)
class Learnt:
    """What a learning found: files, their bytes, and in which ways it was told what is read."""

    files: int
    total: int
    by: tuple[str, ...]
    trouble: str | None  # a sentence: why it is worse than it could be


def known_program(state_dir: Path, python: Path) -> FileSet | None:
    """Return what a start on `python` needs, as far as it still exists, in load order.

    None where that was never learnt for the environment as it is now. Touches thousands of files,
    so call it in a thread.
    """
    try:
        paths = kept(_folder(state_dir), Environment(python).name())
    except OSError:
        return None
    return None if paths is None else FileSet.of(paths)


def is_known(state_dir: Path, python: Path) -> bool:
    """Whether nothing is left to be learnt; touches the disk, but a few files only."""
    try:
        return kept(_folder(state_dir), Environment(python).name()) is not None
    except OSError:
        return False


async def learn_program(
    state_dir: Path,
    python: Path,
    pids: Collection[int],
    apart: Iterable[Path] = (),
    *,
    cap: int = _CAP,
) -> Learnt | None:
    """Learn what a start on `python` needs, from engines that are up and quiet, and keep it.

    None where they have gone: access times alone would tell far too much, and the next start
    teaches as well.

    `pids`: the engines' first processes; those below count as well. `apart`: folders of which
    nothing belongs to the program: weights and compile caches. At most `cap` bytes are kept.
    Raises `StagingError`. A cancelled call ends its process before it raises.
    """
    request = {
        "python": str(python),
        "pids": list(pids),
        "apart": [str(folder) for folder in apart],
        "folder": str(_folder(state_dir)),
        "cap": cap,
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-X", "utf8", str(_PROGRAM)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for the daemon to decide on
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
        )
    except OSError as error:
        raise StagingError(
            f"the program files of {python} can't be learnt: {sys.executable} can't be started "
            f"({error.strerror}); repair the Python that runs the daemon"
        ) from None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            said, _ = await process.communicate(json.dumps(request).encode() + b"\n")
    except TimeoutError:
        raise StagingError(
            f"the program files of {python} could not be learnt within {_PATIENCE_S:g} s; look at "
            "the disk that they are on"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _answer(python, said, process.returncode)


def _answer(python: Path, said: bytes, status: int | None) -> Learnt | None:
    try:
        match json.loads(said):
            case {
                "files": int(files),
                "total": int(total),
                "by": [*ways],
                "trouble": str() | None as trouble,
            }:
                return Learnt(files, total, tuple(map(str, ways)), trouble)
            case {"gone": True}:
                return None
            case {"error": str(why)}:
                pass
            case _:
                why = "its answer can't be read"
    except ValueError:
        why = f"the process that looks at them ended with status {status}"
    raise StagingError(f"the program files of {python} can't be learnt: {why}")


def _folder(state_dir: Path) -> Path:
    return state_dir / "programs"
