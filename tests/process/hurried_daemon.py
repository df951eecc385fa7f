"""The daemon's own command, but for its patience: it looks and tries again at once."""

from __future__ import annotations

import functools
import sys

import warmd.daemon
import warmd.staged.files
import warmd.supervisor.shelf
from warmd.__main__ import main
from warmd.staging import Keeper

warmd.daemon.Keeper = functools.partial(Keeper, interval=0.5)  # type: ignore[assignment,misc]
warmd.staged.files.RETRY_S = 2.0
warmd.supervisor.shelf.SHORT_S = 2.0

if __name__ == "__main__":
    sys.exit(main())
