"""What calendars want soon: from when on each rise is due, so that it is ready in time.

Pure but for what it remembers of the last look, which only saves work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf

from warmd.ladder import Phase, Rung
from warmd.planner.timetable import Rise, Slot, are_files_due, is_due, line_up
from warmd.policy import Coming, Stretch, Wish
from warmd.policy.lead import Figures, Leads, leads_of, with_margin
from warmd.replica import Replica
from warmd.supervisor.model import Managed
from warmd.supervisor.ports import Known
from warmd.supervisor.shelf import Shelf

_ON_THE_WAY = frozenset(
    {
        Phase.STARTING,
        Phase.WARMING,
        Phase.READY,
        Phase.WAKING,
        Phase.ADOPTING,
        Phase.BACKING_OFF,
    }
)
_NEARLY_ASLEEP = frozenset({Phase.DRAINING, Phase.FALLING_ASLEEP, Phase.ASLEEP})

_FIRST_HORIZON_S = 86400.0
"""How far the first look goes: it has to learn what leads come to."""


class Soon:
    """Finds out for each model what must be ready soon."""

    def __init__(self) -> None:
        self._rises: Sequence[Rise] = ()
        self._slots: Mapping[tuple[str, float], Slot] = {}
        self._leads: dict[str, Leads] = {}
        self._horizon = _FIRST_HORIZON_S

    def look(self, models: Iterable[Managed], wall: float, shelf: Shelf) -> None:
        """Set of each model what is coming at `wall` (Unix seconds), and when it is needed next."""
        near = wall + self._horizon
        coming: dict[str, tuple[Managed, list[Rise]]] = {}
        horizon = 0.0
        for model in models:
            model.coming, model.begin_at, model.needed_in = None, inf, inf
            model.files_due = False
            course = () if model.retired else model.course(wall)
            if not course:
                continue
            model.needed_in = max(0.0, _needed_at(course) - wall)
            if course[0].rung is not None and course[0].rung >= Rung.ASLEEP:
                model.begin_at = 0.0  # it is overdue, should it not be there
            needs = [each for each in _needs(course, model.terms.wish) if each[0].since <= near]
            if needs or model.name not in self._leads:
                self._leads[model.name] = leads_of(figures(model, shelf))
            leads = self._leads[model.name]
            horizon += _at_most(leads) * len(model.replicas)
            if needs:
                coming[model.name] = model, list(_rises(model, needs, leads))
        self._horizon = horizon
        rises = [rise for _, each in coming.values() for rise in each]
        if rises != self._rises:
            self._rises, self._slots = rises, line_up(rises)
        for model, each in coming.values():
            self._set(model, each, wall)

    def _set(self, model: Managed, rises: Sequence[Rise], wall: float) -> None:
        files = [r for r in rises if are_files_due(r, self._slots[r.key], wall)]
        model.files_due = any(r.stands < Rung.ASLEEP and not r.under_way for r in files)
        due = [r for r in rises if is_due(r, self._slots[r.key], wall)]
        ups = [r for r in due if r.rung >= Rung.ASLEEP]
        if ups:
            first = max(ups, key=lambda r: (r.rung.height, r.index))
            replicas = max(r.index for r in ups if r.rung is first.rung) + 1
            model.begin_at = min(self._slots[r.key].begin_at for r in ups)
            model.coming = Coming(first.rung, replicas, _reason(model, first, first.rung, wall))
            return
        if files:
            first = min(files, key=lambda r: r.by)
            reason = _reason(model, first, Rung.STAGED, wall)
            model.coming = Coming(Rung.STAGED, first.replicas, reason)


def figures(model: Managed, shelf: Shelf) -> Figures:
    """Return what is known of the rises of `model`."""
    totals = [staged.state.total for staged in model.sets.values()]
    files = None if model.staged.state.total is None else sum(t or 0 for t in totals)
    known = model.any_figures()
    slept = [r.state.last_nap.seconds for r in model.replicas if r.state.last_nap is not None]
    asleep = max(slept, default=None if known is None else known.first_sleep_s)
    return Figures(
        starts=model.starts_from,
        wakes=tuple(model.wakes) or (() if known is None else (known.wake_s,)),
        sleep_s=asleep,
        files=files,
        disk_rate=shelf.disk_rate,
        stages=(model.staged.state.total or 0) <= shelf.budget,
    )


def figures_of_new(known: Known) -> Figures:
    """Return what earlier lives knew of the rises of a model that isn't there."""
    wakes = tuple(known.wakes) or tuple(each.wake_s for each in known.figures.values())
    return Figures(starts=known.starts_from, wakes=wakes)


def _rises(model: Managed, needs: Sequence[tuple[Stretch, int]], leads: Leads) -> Iterator[Rise]:
    """Yield the next rise of each replica, and those of its files before that."""
    staged = model.staged.state
    files = staged.held or staged.busy
    cannot_sleep = model.terms.wish.cannot_sleep is not None
    for index, replica in enumerate(model.replicas):
        for need, replicas in needs:
            if need.rung is None or index >= replicas:
                continue
            rung = need.rung
            if rung is Rung.ASLEEP and cannot_sleep:
                rung = Rung.STAGED
            stands = _stands(replica, staged=staged.held)
            way = _under_way(replica, rung, stands)
            yield Rise(
                replica=replica.name,
                model=model.name,
                index=index,
                by=need.since,
                rung=rung,
                stands=stands,
                leads=leads,
                cards=replica.fit.cards,
                replicas=replicas,
                under_way=way,
                staged=files,
            )
            if rung >= Rung.ASLEEP:
                break


def _needed_at(course: Sequence[Stretch]) -> float:
    """Return since or from when on the calendar wants its files in RAM."""
    wants = (s.since for s in course if s.rung is not None and s.rung >= Rung.STAGED)
    return next(wants, inf)


def _needs(course: Sequence[Stretch], wish: Wish) -> Iterator[tuple[Stretch, int]]:
    """Yield the stretches that want more than those before them, with their replicas."""
    for before, after in pairwise(course):
        if after.rung is None or after.rung < Rung.STAGED:
            continue
        replicas = wish.replicas if after.replicas is None else after.replicas
        had = wish.replicas if before.replicas is None else before.replicas
        was = Rung.COLD if before.rung is None else before.rung
        if after.rung > was or (after.rung is was and replicas > had):
            yield after, replicas


def _stands(replica: Replica, *, staged: bool) -> Rung:
    phase = replica.state.phase
    if phase in _NEARLY_ASLEEP and replica.sleeps:
        return Rung.ASLEEP
    if phase in (Phase.READY, Phase.WAKING, Phase.ADOPTING):
        return Rung.HOT
    return Rung.STAGED if staged else Rung.COLD


def _under_way(replica: Replica, rung: Rung, stands: Rung) -> bool:
    return replica.state.phase in _ON_THE_WAY or stands >= rung >= Rung.ASLEEP


def _at_most(leads: Leads) -> float:
    """Return the seconds for which nothing that one replica does can be too early."""
    return with_margin(leads.start_at_most + leads.sleep + leads.wake) + with_margin(
        leads.stage_at_most
    )


def _reason(model: Managed, rise: Rise, rung: Rung, wall: float) -> str:
    calendar = model.terms.wish.calendar
    by = calendar.clock(rise.by, wall)
    why = next((s.why for s in model.stretches if s.since == rise.by), "its calendar wants it")
    if rung is rise.rung:
        return f"it is to be {rung} by {by}: then {why}"
    return f"it is to be {rise.rung} by {by}, and its files are staged before: then {why}"
