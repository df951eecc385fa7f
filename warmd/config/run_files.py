"""Where an engine's files are in the run folder, for the config's check and the rooms alike."""

from __future__ import annotations

from pathlib import Path

SOCKET_PATH_MAX = 107
"""Bytes that the kernel takes for a unix socket's path, without the final NUL (unix(7))."""

ENGINES = "engines"
"""The folder below `host.run_dir` that holds one folder for each replica."""

ENGINE_SOCKET = "engine.sock"

SHIM_SOCKET_SUFFIX = ".shim"
"""`ENGINES/NAME.shim`: where an engine that outlives the daemon is found again.

Shorter than `ENGINES/NAME/engine.sock`: a path that the config's check lets pass fits as well.
"""


def shim_socket(run_dir: Path, replica: str) -> Path:
    """Name the socket on which the shim of `replica` waits for the next daemon."""
    return run_dir / ENGINES / f"{replica}{SHIM_SOCKET_SUFFIX}"


def engine_folder(run_dir: Path, replica: str) -> Path:
    """Name the folder of `replica`; touches nothing."""
    return run_dir / ENGINES / replica


def engine_unit(replica: str) -> str:
    """Name the unit that runs the engine of `replica`, where systemd does."""
    return f"warmd-engine@{replica}.service"
