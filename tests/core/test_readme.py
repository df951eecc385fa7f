"""What the README promises to programs is what they get, and what it shows is what is printed."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from warmd.calendars import calendar_of
from warmd.config import ConfigError, load
from warmd.ladder import Rung
from warmd.reckoning import (
    Account,
    Delays,
    Durations,
    FirstBytes,
    Lateness,
    ModelAccount,
    Why,
    Windows,
)
from warmd.status import (
    CalendarStatus,
    CardStatus,
    EntryStatus,
    ModelStatus,
    ReplicaStatus,
    SaidStatus,
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
        CalendarStatus,
        EntryStatus,
        SaidStatus,
    ],
)
def test_every_field_of_the_status_stands_in_the_stable_table(facts: type) -> None:
    section = README[README.index("### For programs") : README.index("`warmctl history --json`")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    missing = {field.name for field in fields(facts)} - named
    assert not missing


@pytest.mark.parametrize(
    "facts", [Account, ModelAccount, Delays, FirstBytes, Durations, Windows, Lateness, Why]
)
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


def test_the_calendar_of_the_readme_says_what_the_readme_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(\[host\]\ntimezone.*?)```", README, re.DOTALL)
    (tmp_path / "config.json").touch()
    python = tmp_path / "python"
    python.touch(mode=0o755)
    file = tmp_path / "warmd.toml"
    model = f'[models.qwen3-32b]\nweights = "{tmp_path}"\n[engine]\npython = "{python}"\n'
    file.write_text(block + model)
    calendar = calendar_of(load(file), "qwen3-32b")

    def says(clock: str) -> tuple[Rung | None, int | None]:
        moment = datetime.fromisoformat(clock).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        stretch = calendar.at(moment.timestamp())
        return stretch.rung, stretch.replicas

    assert says("2026-11-23 09:00") == (Rung.HOT, 2)
    assert says("2026-11-23 18:00") == says("2026-12-25 12:00") == (Rung.ASLEEP, None)
    assert says("2026-12-24 11:59") == (Rung.HOT, None)
    assert says("2026-12-24 12:00") == (Rung.ASLEEP, None)
    listed = README[README.index("## Calendar") : README.index("## Pools and fairness")]
    names = [window.name for window in calendar.windows]
    for name in (*names, *(each.name for each in calendar.transitions)):
        assert f"{name}: " in listed
