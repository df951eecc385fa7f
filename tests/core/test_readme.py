"""What the README promises to programs is what they get, and what it shows is what is printed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from warmd.config import ConfigError, load
from warmd.reckoning import Account, Delays, Durations, FirstBytes, ModelAccount
from warmd.status import (
    CardStatus,
    ModelStatus,
    ReplicaStatus,
    SleepStatus,
    StagedStatus,
    StagingStatus,
    StartStatus,
    Status,
)

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize(
    "facts",
    [
        Status,
        ModelStatus,
        ReplicaStatus,
        StagingStatus,
        StagedStatus,
        StartStatus,
        SleepStatus,
        CardStatus,
    ],
)
def test_every_field_of_the_status_stands_in_the_stable_table(facts: type) -> None:
    section = README[README.index("### For programs") : README.index("`warmctl history --json`")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    missing = {field.name for field in fields(facts)} - named
    assert not missing


@pytest.mark.parametrize("facts", [Account, ModelAccount, Delays, FirstBytes, Durations])
def test_every_field_of_a_report_stands_in_its_table(facts: type) -> None:
    begin = README.index("`warmctl report --json`:")
    section = README[begin : README.index("`warmctl plan --json`")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    assert not {field.name for field in fields(facts)} - named


def test_the_misspelt_key_of_the_first_config_is_where_the_readme_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(\[engine\].*?\[models.*?)```", README, re.DOTALL)[:1]
    file = tmp_path / "warmd.toml"
    file.write_text(block.replace("resting", "restng", 1))
    with pytest.raises(ConfigError) as error:
        load(file)
    (told,) = re.findall(r"^/etc/warmd/(warmd.toml:\d+: .*)$", README, re.MULTILINE)
    assert f"{tmp_path}/{told}" in str(error.value)
