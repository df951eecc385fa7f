"""A gateway in a box that is asked all the time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from box import Box
from unpacked import ENTRY, python

_ASKING = Path(__file__).with_name("asking.py")
_OURS = ("env", *ENTRY, python())


@contextmanager
def asked_all_the_time(
    box: Box, model: str = "", interpreter: Sequence[str] = _OURS
) -> Iterator[dict[str, Any]]:
    """Requests all 20 ms meanwhile; what became of them is in the dict at the end.

    A chat with `model`; without one, for the list of models. `interpreter`: a Python in the box.
    """
    box.write("/tmp/asking.py", _ASKING.read_text())
    asking = box.popen(*interpreter, "-I", "/tmp/asking.py", "/tmp/asked", model)
    found: dict[str, Any] = {}
    box.wait_for("it is asked", box.path("/tmp/asked").exists)
    try:
        yield found
        time.sleep(0.3)
    finally:
        box.path("/tmp/asked").unlink()
        said, _ = asking.communicate(timeout=60)
    found |= json.loads(said)
    print(
        f"{found['answered']} answered, {len(found['failed'])} failed, worst {found['worst_s']} s"
    )
