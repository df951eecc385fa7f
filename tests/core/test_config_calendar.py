"""The calendar's tables: what they may hold, and what is said where they hold something else."""

from __future__ import annotations

import shutil
from datetime import date, time
from pathlib import Path

import pytest
import tomli
from test_config_checks import config

from warmd.calendars import calendar_of
from warmd.config import ConfigError, bygone, describe, differences, load
from warmd.config.hours import host_zone
from warmd.ladder import Rung

WINDOW = '[[models.m.windows]]\nfrom = "09:00"\nto = "18:00"\n'


def problems(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return [str(each).removeprefix(f"{file}:") for each in caught.value.problems]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('from = "9"\nto = "18:00"', '6: models.m.windows[0].from: must be a time such as "09:00"'),
        ('from = 9\nto = "18:00"', '6: models.m.windows[0].from: must be a time such as "09:00"'),
        ("from = 09:00:30\nto = 10:00:00", "6: models.m.windows[0].from: must be a time of whole"),
        ('from = "24:00"\nto = "18:00"', "6: models.m.windows[0].from: can't open at the end of a"),
        ('from = "18:00"\nto = "18:00"', "7: models.m.windows[0].to: would be open for no time"),
        ('from = "18:00"', "5: models.m.windows[0].to: is missing, and has no default"),
        (WINDOW + 'day = "mon"', "8: models.m.windows[0].day: unknown key, did you mean 'days'?"),
        (
            WINDOW + 'days = "mon-fry"',
            '8: models.m.windows[0].days: must be days such as "mon-fri"',
        ),
        (
            '[models.m.windows]\nfrom = "09:00"\nto = "18:00"',
            "models.m.windows: must be an array of tables: head each with [[models.m.windows]]",
        ),
        (WINDOW + 'days = ["mon"]', "8: models.m.windows[0].days: must be a string"),
        (
            WINDOW + 'rung = "cold"\nreplicas = 2',
            "9: models.m.windows[0].replicas: has no effect on this rung: cold and staged have no",
        ),
        (
            '[[models.m.cron]]\nat = "0 9 * * *"\nreplicas = 2\nrung = "staged"',
            "7: models.m.cron[0].replicas: has no effect on this rung",
        ),
        (WINDOW + 'rung = "warm"', "8: models.m.windows[0].rung: must be 'cold', 'staged',"),
        (WINDOW + "replicas = 0", "8: models.m.windows[0].replicas: must be at least 1 (got 0)"),
        (
            WINDOW + 'dates = ["2026-12-24",\n"2026-02-30"]',
            '9: models.m.windows[0].dates[1]: must be a date such as "2026-12-24" (got',
        ),
        (
            WINDOW + "dates = [2026-12-24T09:00:00]",
            '8: models.m.windows[0].dates[0]: must be a date such as "2026-12-24" (got a date or',
        ),
        (WINDOW + "dates = [20261224]", "8: models.m.windows[0].dates[0]: must be a date such as"),
        (WINDOW + 'dates = ["20261224"]', "8: models.m.windows[0].dates[0]: must be a date such"),
        (
            WINDOW + 'except = ["Feiertage"]',
            "8: models.m.windows[0].except[0]: a calendar's name is",
        ),
        (
            WINDOW + 'except = ["holiday"]\n[calendars.holidays]\ndates = ["2026-12-25"]',
            "8: models.m.windows[0].except[0]: there is no such calendar, did you mean 'holidays'?",
        ),
        (WINDOW + 'except = ["feast"]', "there is no such calendar: add [calendars.feast]"),
        (
            '[calendars.x]\ndates = ["soon"]',
            '6: calendars.x.dates[0]: must be a date such as "2026',
        ),
        ("[calendars.x]\ndates = []", "6: calendars.x.dates: must not be empty"),
        ("[calendars.x]\ndays = []", "6: calendars.x.days: unknown key, did you mean 'dates'?"),
        ('timezone = "Berlin"', "5: models.m.timezone: must be a time zone that this host knows"),
        ('timezone = "../../etc/passwd"', "5: models.m.timezone: must be a time zone that this"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, lines: str, says: str) -> None:
    header = "" if lines.startswith(("[", "timezone")) else "[[models.m.windows]]\n"
    found = problems(config(tmp_path, header + lines))
    assert any(says in each for each in found), found


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("0 0 30 2 *", "would never fire: no year has such a day"),
        ("0 0 31 4,6 *", "would never fire: no year has such a day"),
        ("0 25 * * *", "is no cron entry: "),
        (
            "0 9 * *",
            "must have five fields (minute, hour, day of the month, month, day of the week)",
        ),
        ("@daily", "must have five fields"),
        ("0 9 * * mon-fry", "'fry' is no day of the week: take mon to sun, or 0 to 7"),
        ("0 9 * jan/2 *", "is no cron entry: 'jan/2' is no month"),
    ],
)
def test_an_entry_that_is_none_or_never_fires_is_refused(
    tmp_path: Path, at: str, says: str
) -> None:
    lines = f'[[models.m.cron]]\nat = "{at}"\nrung = "hot"'
    [only] = problems(config(tmp_path, lines))
    assert only.startswith(f"6: models.m.cron[0].at: {says}")
    assert only.endswith(f'(got "{at}")')


def test_times_and_dates_may_be_tomls_own_and_come_back_as_text(tmp_path: Path) -> None:
    lines = (
        "[[models.m.windows]]\nfrom = 09:00:00\nto = 18:30:00\ndates = [2026-12-24, 'fairs']\n"
        "[calendars.fairs]\ndates = [2027-01-05]\n"
    )
    settings = load(config(tmp_path, lines))
    [window] = calendar_of(settings, "m").windows
    assert (window.start, window.to) == (time(9), time(18, 30))
    assert window.dates == {date(2026, 12, 24), date(2027, 1, 5)}
    assert window.text == "2026-12-24,fairs 09:00-18:30"


def test_what_is_described_can_be_loaded_and_is_the_same(tmp_path: Path) -> None:
    lines = (
        '[[models.m.windows]]\ndays = "mon-fri"\nfrom = "22:00"\nto = "06:00"\nexcept = ["off"]\n'
        '[[models.m.windows]]\ndates = ["2026-12-24", "off"]\nfrom = "00:00"\nto = "24:00"\n'
        'rung = "asleep"\nreplicas = 3\n[[models.m.cron]]\nat = "0 20 last * *"\nrung = "cold"\n'
        '[calendars.off]\ndates = ["2026-12-25"]\n'
    )
    settings = load(config(tmp_path, 'timezone = "Europe/Berlin"\n' + lines))
    (tmp_path / "again.toml").write_text(describe(settings))
    again = load(tmp_path / "again.toml")
    changed = {change.key for change in differences(settings, again)}
    assert not [key for key in changed if key.startswith(("models.m.w", "models.m.c", "calend"))]
    assert calendar_of(again, "m") == calendar_of(settings, "m")
    assert settings.models["m"].most_replicas == 3
    shown = tomli.loads(describe(settings))["models"]["m"]["windows"]
    assert shown[0]["except"] == ["off"]


def test_what_a_change_of_the_calendar_is_reads_as_it_is_written(tmp_path: Path) -> None:
    was = load(config(tmp_path, WINDOW)).models["m"]
    new = load(config(tmp_path, WINDOW.replace("18:00", "20:00") + 'days = "mon-fri"')).models["m"]
    [change] = differences(was, new)
    assert (change.key, change.old, change.new) == (
        "windows",
        '[{ from = "09:00", to = "18:00", rung = "hot" }]',
        '[{ days = "mon-fri", from = "09:00", to = "20:00", rung = "hot" }]',
    )


def test_equal_entries_of_models_are_one_and_know_what_the_others_found(tmp_path: Path) -> None:
    file = config(tmp_path, 'timezone = "UTC"\n' + WINDOW)
    other = tmp_path / "models.d" / "n.toml"
    other.parent.mkdir()
    other.write_text(
        f'[models.n]\nweights = "{tmp_path / "weights"}"\ntimezone = "UTC"\n'
        + WINDOW.replace("models.m", "models.n")
    )
    settings = load(file)
    [one], [two] = (calendar_of(settings, name).windows for name in "mn")
    assert one is two
    other.write_text(other.read_text().replace('to = "18:00"', 'to = "18"'))
    [only] = problems(file)
    assert only.startswith(f"{other}:6: models.n.windows[0].to: must be a time such as")


def test_a_models_windows_stand_in_its_own_file(tmp_path: Path) -> None:
    file = config(tmp_path)
    other = tmp_path / "models.d" / "m.toml"
    other.parent.mkdir()
    other.write_text(WINDOW)
    [only] = problems(file)
    assert only == f"{other}:1: models.m: is already set in {file}:3: keep one of the two"


# The machine's own time zone


def test_the_machines_own_zone_is_what_etc_localtime_points_to(tmp_path: Path) -> None:
    local = tmp_path / "localtime"
    assert host_zone(local) == "UTC"  # localtime(5)
    local.symlink_to("../usr/share/zoneinfo/Europe/Berlin")
    assert host_zone(local) == "Europe/Berlin"
    local.unlink()
    local.symlink_to("/usr/share/zoneinfo/Mars/Olympus")
    with pytest.raises(
        ValueError, match=r"own, Mars/Olympus, is not known here \(install tzdata\)"
    ):
        host_zone(local)
    local.unlink()
    shutil.copyfile("/etc/passwd", local)
    with pytest.raises(ValueError, match="is no link to a time zone"):
        host_zone(local)


def test_who_has_a_calendar_and_no_zone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_knows() -> str:
        raise ValueError("/etc/localtime is no link to a time zone")

    monkeypatch.setattr("warmd.config.checks.host_zone", nobody_knows)
    [only] = problems(config(tmp_path, WINDOW))
    assert "host.timezone: is not set, and models have a calendar: /etc/localtime is no" in only
    assert load(config(tmp_path, WINDOW, 'host.timezone = "UTC"')).models["m"].windows
    assert load(config(tmp_path)).models["m"].resting is Rung.STAGED


def test_a_calendar_names_its_zone_where_that_is_not_the_hosts(tmp_path: Path) -> None:
    far = load(config(tmp_path, 'timezone = "Asia/Tokyo"\n' + WINDOW, 'host.timezone = "UTC"'))
    assert calendar_of(far, "m").clock(0.0, 0.0) == "09:00 Asia/Tokyo"
    here = load(config(tmp_path, WINDOW, 'host.timezone = "Asia/Tokyo"'))
    assert calendar_of(here, "m").clock(0.0, 0.0) == "09:00"


def test_a_window_that_never_opens_again_is_warned_of(tmp_path: Path) -> None:
    dated = WINDOW + 'dates = ["2020-01-01", "2019-12-31"]\n'
    settings = load(config(tmp_path, model=f"{dated}{WINDOW}{dated}days = 'mon'"))
    [told] = bygone(settings, 1.8e9)
    assert told == (
        "models.m.windows[0].dates: it never opens again, the last of its dates was 2020-01-01: "
        "name dates to come, or take the window out"
    )
    assert not [*bygone(settings, 1577836800.0 + 86400.0)], "on the day after it may be open yet"
