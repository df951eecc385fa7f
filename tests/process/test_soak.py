"""A short soak, see soak.py: the same blows each time; the long ones are for scripts/soak."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

SECONDS = 45
WITHIN_S = 300


def test_a_daemon_that_is_struck_all_the_time_comes_to_rest_and_leaves_nothing() -> None:
    # A process of its own: a soak adopts every orphan below it.
    soak = Path(__file__).with_name("soak.py")
    running = subprocess.Popen(
        [sys.executable, str(soak), "--seed", "7", "--minutes", str(SECONDS / 60), "--every", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = running.communicate(timeout=WITHIN_S)
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
            said, _ = running.communicate()
            print(said)
    assert running.returncode == 0, said
    assert "nothing is wrong" in said
