"""The files of one engine: its folder, its socket, and the stable name of its model's weights."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from warmd.config.run_files import ENGINE_SOCKET, SOCKET_PATH_MAX, engine_folder, engine_unit
from warmd.engine.errors import EngineError

_ZMQ_NAME_BYTES = 1 + 36  # vLLM's own sockets: "/" and a UUID


@dataclass(frozen=True)
class EngineHome:
    """Where one engine lives. Nobody but the daemon's user may look in.

    Where it `is_shared` the engine is of another user, whose group may write here: then nothing
    that the daemon relies on stands in it, and the journal has what the engine prints.
    """

    folder: Path
    is_shared: bool = False

    @property
    def socket(self) -> Path:
        """The engine's HTTP socket."""
        return self.folder / ENGINE_SOCKET

    @property
    def log(self) -> Path | None:
        """What the engine prints; None where the journal has it."""
        return None if self.is_shared else self.folder / "engine.log"

    @property
    def log_named(self) -> str:
        """Where an operator finds what the engine has printed."""
        return str(self.log or f"`journalctl -u {engine_unit(self.folder.name)}`")

    @property
    def note(self) -> Path:
        """What a later daemon must know of the engine."""
        if self.is_shared:
            return self.folder.with_name(f"{self.folder.name}.note.json")
        return self.folder / "engine.json"

    @property
    def mode(self) -> int:
        """What may be done with its folders."""
        return 0o770 if self.is_shared else 0o700

    @property
    def rpc(self) -> Path | None:
        """The folder for vLLM's own sockets; None where their paths would be too long for it."""
        folder = self.folder / "rpc"
        fits = len(os.fsencode(folder)) + _ZMQ_NAME_BYTES <= SOCKET_PATH_MAX
        return folder if fits else None


def engine_home(run_dir: Path, replica: str, *, is_shared: bool = False) -> EngineHome:
    """Name the files of `replica`; touches nothing."""
    return EngineHome(engine_folder(run_dir, replica), is_shared)


def stable_path(cache_dir: Path, model: str) -> Path:
    """Name the path under which the engine always sees a model's weights.

    vLLM's compile cache holds the `--model` path in its key: another path is a full recompile.
    """
    return cache_dir / "models" / model


def prepare_home(home: EngineHome) -> None:
    """Make the folder, as private as it shall be, and remove what an earlier engine left.

    Only for an engine that doesn't run: a live one would lose its socket.
    Raises `EngineError`.
    """
    if len(os.fsencode(home.socket)) > SOCKET_PATH_MAX:
        raise EngineError(
            f"the engine's socket {home.socket} has a path of {len(os.fsencode(home.socket))} bytes"
            f" where the kernel takes {SOCKET_PATH_MAX}; give [host].run_dir a shorter path"
            " or the model a shorter name"
        )
    try:
        home.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _private_folder(home.folder, home.mode)
        _remove(home.socket)
        _remove(home.note)
        if home.rpc is not None:
            _private_folder(home.rpc, home.mode)
            for left_over in home.rpc.iterdir():
                _remove(left_over)
    except OSError as error:
        raise EngineError(
            f"the engine's folder {home.folder} can't be prepared: {_why(error)}"
        ) from error


def point_at(link: Path, weights: Path) -> None:
    """Make `link` a symbolic link to `weights`, in one step: no reader ever finds it missing.

    Raises `EngineError`, also where a real file or folder stands in the link's place.
    """
    try:
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if link.is_symlink():
            if link.readlink() == weights:
                return
        elif link.exists():
            raise EngineError(
                f"{link} is where warmd links a model's weights, but something else stands there;"
                " move it away"
            )
        draft = link.with_name(f".{link.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(weights)
        draft.replace(link)
    except OSError as error:
        raise EngineError(f"{link} can't be linked to {weights}: {_why(error)}") from error


def _private_folder(folder: Path, mode: int) -> None:
    folder.mkdir(mode=mode, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise EngineError(f"{folder} must be a folder of warmd's own, not a link; move it away")
    if found.st_uid != os.geteuid():
        raise EngineError(
            f"{folder} belongs to user {found.st_uid}, not to the daemon's user {os.geteuid()};"
            " remove it, or change its owner"
        )
    # The group comes from the folder above (set-group-ID), and so does that it does.
    inherited = found.st_mode & stat.S_ISGID
    if stat.S_IMODE(found.st_mode) != mode | inherited:
        folder.chmod(mode | inherited)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
