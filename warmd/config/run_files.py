"""Where an engine's files are in the run folder, for the config's check and the rooms alike."""

from __future__ import annotations

from pathlib import Path

SOCKET_PATH_MAX = 107
"""Bytes that the kernel takes for a unix socket's path, without the final NUL (unix(7))."""

ENGINES = "engines"
"""The folder below `host.run_dir` that holds one folder for each replica."""

ENGINE_SOCKET = "engine.sock"


def engine_folder(run_dir: Path, replica: str) -> Path:
    """Name the folder of `replica`; touches nothing."""
    return run_dir / ENGINES / replica
