"""What an engine of the model in a folder would take; needs no daemon."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmd.cli.client import RefusedError
from warmd.config import refuse_args
from warmd.devices import NO_GPU, GpuError, gpus
from warmd.doctor.look import Look
from warmd.engine import SizingError
from warmd.engine.sizing import Wanted, check_length, estimate, read_checkpoint

_DRIVER_S = 10.0


def folder_size(args: argparse.Namespace) -> Mapping[str, Any]:
    """Return the same as the daemon's /size. Raises `RefusedError` with a sentence."""
    try:
        folder = Path(args.model).expanduser()
    except RuntimeError as error:
        raise RefusedError(f"{args.model}: there is no such user here") from error
    gpu = has_gpu() if args.on is None else args.on == "gpu"
    flags = tuple(args.args)
    wanted = Wanted(flags, args.concurrency, args.tensor_parallel, gpu=gpu)
    try:
        refuse_args(flags, args.tensor_parallel or 1)
    except ValueError as error:
        raise RefusedError(f"--args: {error}") from error
    try:
        checkpoint = read_checkpoint(folder)
        check_length(flags, checkpoint.config)
        found = estimate(checkpoint, wanted)
    except SizingError as error:
        raise RefusedError(str(error)) from error
    return {"model": str(folder), **found.facts(), "assumed": None if args.on else _assumed(gpu)}


def has_gpu() -> bool:
    """Whether this host has a GPU; a driver that doesn't answer is that of one, as in warmd."""
    look = Look("gpu", _usable, _DRIVER_S)
    return look.facts() is not False


def _usable() -> bool:
    try:
        return bool(gpus())
    except GpuError as error:
        return error.trouble not in NO_GPU


def _assumed(gpu: bool) -> str:
    if gpu:
        return "reckoned for a GPU, as this host has one; --on cpu reckons without"
    return "reckoned for this host, which has no GPU; --on gpu reckons for one"
