"""Windows that never open again: each of their dates has gone by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from warmd.config.settings import Settings

_OVER = timedelta(days=2)
"""So long after its date any window has closed: it may end a day later, and that in any zone."""


def bygone(settings: Settings, now: float) -> Iterator[str]:
    """Say in a sentence each which windows open on past dates alone. `now`: Unix seconds."""
    today = datetime.fromtimestamp(now, UTC).date()
    for name, model in settings.models.items():
        for index, window in enumerate(model.windows):
            if window.days is not None or not window.dates:
                continue
            last = max(_days(settings, window.dates))
            if last + _OVER < today:
                yield (
                    f"models.{name}.windows[{index}].dates: it never opens again, the last of its "
                    f"dates was {last}: name dates to come, or take the window out"
                )


def _days(settings: Settings, names: tuple[str, ...]) -> Iterator[date]:
    for name in names:
        calendar = settings.calendars.get(name)
        for day in (name,) if calendar is None else calendar.dates:
            yield date.fromisoformat(str(day))
