"""What an engine of the model in a folder would take; needs no daemon."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmd.cli.client import RefusedError
from warmd.engine import SizingError
from warmd.engine.sizing import Wanted, estimate, read_checkpoint


def folder_size(args: argparse.Namespace) -> Mapping[str, Any]:
    """Return the same as the daemon's /size. Raises `RefusedError` with a sentence."""
    try:
        folder = Path(args.model).expanduser()
    except RuntimeError as error:
        raise RefusedError(f"{args.model}: there is no such user here") from error
    wanted = Wanted(tuple(args.args), args.concurrency, args.tensor_parallel)
    try:
        found = estimate(read_checkpoint(folder), wanted)
    except SizingError as error:
        raise RefusedError(str(error)) from error
    return {"model": str(folder), **found.facts()}
