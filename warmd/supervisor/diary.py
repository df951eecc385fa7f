"""What a model's calendar says, now and next. What was read is kept, which only saves work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from warmd.policy import Calendar, Stretch

_UNREAD = Stretch(math.inf, math.inf)

_FORESEEN, _FORESEEN_S = 12, 36 * 3600.0
"""So many stretches of a calendar are read ahead at most, and so many seconds."""

_ENOUGH_S = 24 * 3600.0
"""Nothing is read ahead before it is less than this."""


class Diary:
    """Reads one calendar. Moments are Unix seconds."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._stretch: Stretch = _UNREAD  # as it was last read
        self._looked_ahead: tuple[Stretch, Stretch, Stretch | None] | None = None  # from it on
        self._course: Sequence[Stretch] = ()  # and those that follow

    def says(self, wall: float) -> Stretch:
        """Return what the calendar says at `wall`."""
        if not self._stretch.holds_at(wall):
            self._stretch = self._calendar.at(wall)
        return self._stretch

    def change(self, wall: float) -> tuple[Stretch, Stretch | None]:
        """Return what the calendar says at `wall` as long as that goes on, and what then."""
        stretch = self.says(wall)
        if self._looked_ahead is None or self._looked_ahead[0] is not stretch:
            says, *then = islice(self._calendar.changes(wall), 2)
            self._looked_ahead = stretch, says, then[0] if then else None
        return self._looked_ahead[1:]

    def course(self, wall: float) -> Sequence[Stretch]:
        """Return what the calendar says from `wall` on; nothing where it says nothing ever."""
        if not (self._calendar.windows or self._calendar.transitions):
            return ()
        kept = self._course
        if kept and kept[0].holds_at(wall):
            if len(kept) >= _FORESEEN or kept[-1].until >= wall + _ENOUGH_S:
                return kept
        else:
            kept = [each for each in kept if each.until > wall]
        if not kept or not kept[0].holds_at(wall):
            kept = [self.says(wall)]
        kept = list(kept)
        while len(kept) < _FORESEEN and (until := kept[-1].until) < wall + _FORESEEN_S:
            # One may have begun earlier, hidden behind another.
            kept.append(replace(self._calendar.at(until), since=until))
        self._course = kept
        return kept
