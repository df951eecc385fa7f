"""What calendars want soon: from when on each rise is due, so that it is ready in time.

Pure but for what it remembers of the last look: that saves work, and what was due then is due on
once room was made for it, so that who made it doesn't come back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

from warmd.ladder import Phase, Rung
from warmd.planner.making_room import Lodger
from warmd.planner.timetable import Rise, Slot, are_files_due, is_due, line_up
from warmd.policy import Coming, Stretch, Wish
from warmd.policy.lead import Figures, leads_of
from warmd.replica import Replica
from warmd.supervisor.lodgers import Lodgers
from warmd.supervisor.model import Managed
from warmd.supervisor.ports import Known
from warmd.supervisor.shelf import Shelf
from warmd.supervisor.terms import Terms

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


@dataclass
class _Look:
    """What the last look found of one model, and what it was made from."""

    rises: Sequence[Rise]
    made_from: tuple[object, ...] = ()
    needed_at: float = inf  # since or from when on its files are wanted in RAM
    wanted: bool = False  # its calendar wants an engine now
    from_on: float = inf  # before that nothing of it is due
    reasons: dict[tuple[tuple[str, float], Rung], str] = field(default_factory=dict)


class Soon:
    """Finds out for each model what must be ready soon."""

    def __init__(self) -> None:
        self._looks: dict[str, _Look] = {}
        self._slots: Mapping[tuple[str, float], Slot] = {}
        self._rooms: Mapping[tuple[str, float], float] = {}
        self._made_room: set[tuple[str, float]] = set()  # those that were due before they had room

    def look(
        self, models: Iterable[Managed], wall: float, shelf: Shelf, pools: Mapping[str, int]
    ) -> None:
        """Set of each model what is coming at `wall` (Unix seconds), and when it is needed next.

        `pools`: bytes of VRAM on each of their cards.
        """
        models = list(models)
        lodgers = Lodgers(models, pools)
        looks: dict[str, _Look] = {}
        planned: list[tuple[Managed, _Look]] = []
        for model in models:
            model.coming, model.begin_at, model.needed_in = None, inf, inf
            model.files_due = False
            course = () if model.retired else model.diary.course(wall)
            if not course:
                continue
            last = self._looks.get(model.name)
            facts = _facts(model, course, shelf)
            if last is None or last.made_from != facts:
                rises = tuple(_rises(model, course, shelf, lodgers.all_aside_s(model)))
                if last is None or last.rises != rises:  # else all stay lined up as they are
                    last = _Look(rises)
                now = course[0].rung
                last.made_from, last.needed_at = facts, _needed_at(course)
                last.wanted, last.reasons = now is not None and now >= Rung.ASLEEP, {}
            model.needed_in = max(0.0, last.needed_at - wall)
            if last.wanted:
                model.begin_at = 0.0  # it is overdue, should it not be there
            looks[model.name] = last
            planned.append((model, last))
        if looks.keys() != self._looks.keys() or any(
            each is not self._looks[name] for name, each in looks.items()
        ):
            self._looks = looks
            self._line_up()
        near = [(model, each) for model, each in planned if wall >= each.from_on]
        rooms = dict(_rooms(near, planned, lodgers))
        if rooms != self._rooms:
            self._rooms = rooms
            self._line_up()
        for model, each in near:
            self._set(model, each, wall)

    def _line_up(self) -> None:
        """Line all up anew: something has changed."""
        rises = [rise for each in self._looks.values() for rise in each.rises]
        rooms = self._rooms
        self._made_room &= {rise.key for rise in rises}
        self._slots = line_up(
            [replace(r, room=rooms[r.key]) if r.key in rooms else r for r in rises]
        )
        for each in self._looks.values():
            slots = [self._slots[rise.key] for rise in each.rises]
            each.from_on = min((_earliest(slot) for slot in slots), default=inf)

    def _is_due(self, rise: Rise, wall: float) -> bool:
        slot = self._slots[rise.key]
        due = is_due(rise, slot, wall) or (rise.key in self._made_room and wall >= slot.hold_at)
        if due and rise.key in self._rooms:
            self._made_room.add(rise.key)
        elif not due:
            self._made_room.discard(rise.key)
        return due

    def _set(self, model: Managed, look: _Look, wall: float) -> None:
        rises = look.rises
        files = [r for r in rises if are_files_due(r, self._slots[r.key], wall)]
        model.files_due = any(r.stands < Rung.ASLEEP and not r.under_way for r in files)
        due = [r for r in rises if self._is_due(r, wall)]
        ups = [r for r in due if r.rung >= Rung.ASLEEP]
        if ups:
            first = max(ups, key=lambda r: (r.rung.height, r.index))
            replicas = max(r.index for r in ups if r.rung is first.rung) + 1
            model.begin_at = min(self._slots[r.key].begin_at for r in ups)
            reason = _reason(model, look, first, first.rung, wall)
            model.coming = Coming(first.rung, replicas, reason)
            return
        if files:
            first = min(files, key=lambda r: r.by)
            reason = _reason(model, look, first, Rung.STAGED, wall)
            model.coming = Coming(Rung.STAGED, first.replicas, reason)


def coming_on(
    terms: Mapping[str, Terms],
    models: Mapping[str, Managed],
    wall: float,
    shelf: Shelf,
    pools: Mapping[str, int],
) -> dict[str, Coming | None]:
    """Return what each model would have coming at `wall` on other `terms`; nothing is changed."""
    others = [
        replace(models[name], terms=each, retired=False)
        for name, each in terms.items()
        if name in models
    ]
    Soon().look(others, wall, shelf, pools)
    return {model.name: model.coming for model in others}


def figures(model: Managed, shelf: Shelf) -> Figures:
    """Return what is known of the rises of `model`."""
    totals = [staged.state.total for staged in model.sets.values()]
    files = None if model.staged.state.total is None else sum(t or 0 for t in totals)
    known = model.any_figures()
    return Figures(
        starts=model.starts_from,
        wakes=tuple(model.wakes) or (() if known is None else (known.wake_s,)),
        sleep_s=model.sleep_s,
        files=files,
        disk_rate=shelf.disk_rate,
        stages=(model.staged.state.total or 0) <= shelf.budget,
        asides=tuple(model.asides),
    )


def figures_of_new(known: Known) -> Figures:
    """Return what earlier lives knew of the rises of a model that isn't there."""
    wakes = tuple(known.wakes) or tuple(each.wake_s for each in known.figures.values())
    return Figures(starts=known.starts_from, wakes=wakes)


def _facts(model: Managed, course: Sequence[Stretch], shelf: Shelf) -> tuple[object, ...]:
    """Return all that its rises are made from: what is replaced whenever it changes, as it is."""
    staged = model.staged.state
    totals = [each.state.total for each in model.sets.values()]
    files = staged.held, staged.busy, totals, shelf.disk_rate, shelf.budget
    phases = [replica.state.phase for replica in model.replicas]
    fits = [replica.fit for replica in model.replicas]
    measured = model.starts, model.wakes, model.asides
    return (course, model.terms, *measured, phases, fits, files)


def _rooms(
    near: Iterable[tuple[Managed, _Look]],
    planned: Iterable[tuple[Managed, _Look]],
    lodgers: Lodgers,
) -> Iterator[tuple[tuple[str, float], float]]:
    """Yield how long others need to make room for each rise whose time is near."""
    coming: dict[str | None, list[tuple[Rise, Lodger]]] = defaultdict(list)
    asked: list[tuple[Managed, Rise]] = []
    for model, look in near:
        asked += [(model, r) for r in look.rises if r.takes and r.rung is Rung.HOT]
    if not asked:
        return
    for model, look in planned:
        for rise in look.rises:
            if rise.rung is Rung.HOT:
                lodger = Lodger(rise.replica, model.terms.vram, rise.cards)
                coming[model.terms.pool].append((rise, lodger))
    for model, rise in asked:
        beside = (lodger for other, lodger in coming[model.terms.pool] if other.by <= rise.by)
        room = lodgers.room_s(model, rise.replica, rise.cards, beside)
        if room:
            yield rise.key, room


def _rises(
    model: Managed, course: Sequence[Stretch], shelf: Shelf, room_at_most: float
) -> Iterator[Rise]:
    """Yield the next rise of each replica, and those of its files before that."""
    wish = model.terms.wish
    leads = leads_of(figures(model, shelf))
    staged = model.staged.state
    needs = list(_needs(course, wish))
    for index, replica in enumerate(model.replicas):
        for need, wanted, replicas in needs:
            if index >= replicas:
                continue
            rung = wanted
            if rung is Rung.ASLEEP and wish.cannot_sleep is not None:
                rung = Rung.STAGED
            stands = stands_of(replica, staged=staged.held)
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
                under_way=_under_way(replica, rung, stands),
                staged=staged.held or staged.busy,
                room_at_most=room_at_most,
            )
            if rung >= Rung.ASLEEP:
                break


def _earliest(slot: Slot) -> float:
    return min(slot.begin_at, slot.stage_at, slot.hold_at, slot.hold_files_at)


def _needed_at(course: Sequence[Stretch]) -> float:
    """Return since or from when on the calendar wants its files in RAM."""
    wants = (s.since for s in course if s.rung is not None and s.rung >= Rung.STAGED)
    return next(wants, inf)


def _needs(course: Sequence[Stretch], wish: Wish) -> Iterator[tuple[Stretch, Rung, int]]:
    """Yield the stretches that want more than those before them: what, and of how many."""
    for before, after in pairwise(course):
        if after.rung is None or after.rung < Rung.STAGED:
            continue
        replicas, had = wish.many(after.replicas), wish.many(before.replicas)
        was = Rung.COLD if before.rung is None else before.rung
        if after.rung > was or (after.rung is was and replicas > had):
            yield after, after.rung, replicas


def stands_of(replica: Replica, *, staged: bool) -> Rung:
    """Return where a replica stands: what goes to sleep counts as asleep, what wakes as hot."""
    phase = replica.state.phase
    if phase in _NEARLY_ASLEEP and replica.sleeps:
        return Rung.ASLEEP
    if phase in (Phase.READY, Phase.WAKING, Phase.ADOPTING):
        return Rung.HOT
    return Rung.STAGED if staged else Rung.COLD


def _under_way(replica: Replica, rung: Rung, stands: Rung) -> bool:
    return replica.state.phase in _ON_THE_WAY or stands >= rung >= Rung.ASLEEP


def _reason(model: Managed, look: _Look, rise: Rise, rung: Rung, wall: float) -> str:
    if (told := look.reasons.get((rise.key, rung))) is None:
        told = look.reasons[rise.key, rung] = _said(model, rise, rung, wall)
    return told


def _said(model: Managed, rise: Rise, rung: Rung, wall: float) -> str:
    calendar = model.terms.wish.calendar
    by = calendar.clock(rise.by, wall)
    course = model.diary.course(wall)
    why = next((s.why for s in course if s.since == rise.by), "its calendar wants it")
    if rung is rise.rung:
        return f"it is to be {rung} by {by}: then {why}"
    return f"it is to be {rise.rung} by {by}, and its files are staged before: then {why}"
