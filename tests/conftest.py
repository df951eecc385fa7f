"""Tiers by folder: core, process, vllm."""

from __future__ import annotations

from pathlib import Path

import pytest

TIERS = ("core", "process", "vllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier not in TIERS:
            raise pytest.UsageError(f"{item.path}: a test stands in one of {', '.join(TIERS)}")
        item.add_marker(tier)
