"""The daemon's own command, but for its patience: it looks and tries again at once."""

from __future__ import annotations

import functools
import sys

import warmd.daemon
import warmd.staged.files
import warmd.supervisor.shelf
from warmd.__main__ import main
from warmd.staging import Keeper

for room, name, hurried in (
    (warmd.daemon, "Keeper", functools.partial(Keeper, interval=0.5)),
    (warmd.staged.files, "RETRY_S", 2.0),
    (warmd.supervisor.shelf, "SHORT_S", 2.0),
):
    assert hasattr(room, name)
    setattr(room, name, hurried)

if __name__ == "__main__":
    sys.exit(main())
