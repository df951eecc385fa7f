"""Not vLLM: starts the benchmark's stand-in engine under the name of the real one's module."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4]))

from stand_in_engine import main

if __name__ == "__main__":
    main()
