"""Tiers by folder: core, process, systemd, vllm; with CI set, a skipped test is a failed one."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Machines that run tests are busy: how long an example takes says nothing.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# The rig that runs a real daemon serves the tiers process and vllm alike.
sys.path.append(str(Path(__file__).parent / "process"))

TIERS = ("core", "process", "systemd", "vllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier not in TIERS:
            raise pytest.UsageError(f"{item.path}: a test stands in one of {', '.join(TIERS)}")
        item.add_marker(tier)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
