"""Tiers by folder: core, process, vllm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The rig that runs a real daemon serves the tiers process and vllm alike.
sys.path.append(str(Path(__file__).parent / "process"))

TIERS = ("core", "process", "vllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier not in TIERS:
            raise pytest.UsageError(f"{item.path}: a test stands in one of {', '.join(TIERS)}")
        item.add_marker(tier)
