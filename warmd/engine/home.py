"""The files of one engine: its folder, its socket, and the stable name of its model's weights."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from warmd.config.run_files import ENGINE_SOCKET, SOCKET_PATH_MAX, engine_folder
from warmd.engine.errors import EngineError

_ZMQ_NAME_BYTES = 1 + 36  # vLLM's own sockets: "/" and a UUID


@dataclass(frozen=True)
class EngineHome:
    """Where one engine lives. Nobody but the daemon's user may look in."""

    folder: Path

    @property
    def socket(self) -> Path:
        """The engine's HTTP socket."""
        return self.folder / ENGINE_SOCKET

    @property
    def log(self) -> Path:
        """What the engine prints."""
        return self.folder / "engine.log"

    @property
    def note(self) -> Path:
        """What a later daemon must know of the engine."""
        return self.folder / "engine.json"

    @property
    def rpc(self) -> Path | None:
        """The folder for vLLM's own sockets; None where their paths would be too long for it."""
        folder = self.folder / "rpc"
        fits = len(os.fsencode(folder)) + _ZMQ_NAME_BYTES <= SOCKET_PATH_MAX
        return folder if fits else None


def engine_home(run_dir: Path, replica: str) -> EngineHome:
    """Name the files of `replica`; touches nothing."""
    return EngineHome(engine_folder(run_dir, replica))


def stable_path(cache_dir: Path, model: str) -> Path:
    """Name the path under which the engine always sees a model's weights.

    vLLM's compile cache holds the `--model` path in its key: another path is a full recompile.
    """
    return cache_dir / "models" / model


def prepare_home(home: EngineHome) -> None:
    """Make the folder, private to this user, and remove what an earlier engine left.

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
        _private_folder(home.folder)
        _remove(home.socket)
        _remove(home.note)
        if home.rpc is not None:
            _private_folder(home.rpc)
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


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise EngineError(f"{folder} must be a folder of warmd's own, not a link; move it away")
    if found.st_uid != os.geteuid():
        raise EngineError(
            f"{folder} belongs to user {found.st_uid}, not to the daemon's user {os.geteuid()};"
            " remove it, or change its owner"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
