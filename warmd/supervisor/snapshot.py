"""What the supervisor tells about a model: facts for people and dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmd.ladder import FileKind, Phase, Rung, StartTimes, replica_name
from warmd.planner import ModelFacts, ReplicaFacts, StagingFacts
from warmd.policy import Coming, Demand, Override, Rank, Stretch, Target, decide_target
from warmd.policy.estimate import expected_start, expected_wake
from warmd.replica import Replica, ReplicaState
from warmd.staged import StagedFiles
from warmd.status import (
    ModelStatus,
    ReplicaStatus,
    SleepStatus,
    StagedStatus,
    StagingStatus,
    StartStatus,
)
from warmd.supervisor.events import Clock
from warmd.supervisor.load import with_sleepers
from warmd.supervisor.model import Managed
from warmd.supervisor.terms import Terms
from warmd.supervisor.timetable import calendar_words, known

RETIRED = Target(Rung.COLD, 0, "it is no longer in the config")


@dataclass(frozen=True)
class Outlook:
    """A model as it is, and as it would be on other terms.

    `target`: what it would be at this moment; `stale`: the replicas whose engine would be another
    one; `starts`, `wakes`: seconds that measured ones took; `first_sleep_s`: what the first sleep
    of a new engine took; `cards`: the keys of the GPUs of each replica, none where it may be any.
    No status for a model that doesn't exist yet.
    """

    target: Target
    status: ModelStatus | None = None
    stale: frozenset[str] = frozenset()
    starts: Sequence[float] = ()
    wakes: Sequence[float] = ()
    first_sleep_s: float | None = None
    cards: Mapping[str, frozenset[str]] = field(default_factory=dict)


def outlook(
    model: Managed, terms: Terms | None, clock: Clock, coming: Coming | None = None
) -> Outlook:
    """Return what `model` would be on other `terms`, or with none any more; nothing is changed.

    `coming`: what their calendar wants soon, where it is another one.
    """
    pairs = zip(model.replicas, terms.fits if terms else (), strict=False)
    figures = model.any_figures()
    wakes = tuple(model.wakes) or (() if figures is None else (figures.wake_s,))
    demand, wall = model.demand(clock.monotonic()), clock.wall()
    target = RETIRED
    if terms:
        same = terms.wish.calendar == model.terms.wish.calendar
        soon = model.coming if same else coming
        target = _ahead(terms, model.override, demand, wall, soon)
    return Outlook(
        with_sleepers(model, target, clock.monotonic()),
        model_status(model, clock),
        frozenset(replica.name for replica, fit in pairs if replica.is_stale_under(fit)),
        tuple(model.starts),
        wakes,
        None if figures is None else figures.first_sleep_s,
        {replica.name: replica.cards for replica in model.replicas} | _cards(model.name, terms),
    )


def outlook_of_new(
    name: str,
    terms: Terms,
    override: Override | None,
    starts: Sequence[float],
    *,
    idle_s: float,
    wall: float,
) -> Outlook:
    """Return what a model would be that is new, from what earlier lives knew of it."""
    target = _ahead(terms, override, Demand(0, 0, idle_s), wall)
    return Outlook(target, starts=tuple(starts), cards=_cards(name, terms))


def _ahead(
    terms: Terms,
    override: Override | None,
    demand: Demand,
    wall: float,
    coming: Coming | None = None,
) -> Target:
    says = terms.wish.calendar.at(wall)
    return decide_target(terms.wish, override, demand, wall, says, coming=coming)


def _cards(name: str, terms: Terms | None) -> dict[str, frozenset[str]]:
    fits = terms.fits if terms else ()
    return {replica_name(name, n): fit.cards for n, fit in enumerate(fits)}


def prospective_facts(
    name: str, model: Managed | None, terms: Terms, ahead: Outlook, now: float
) -> ModelFacts:
    """Return what the planner would know of a model on other `terms`, or of a new one."""
    if model is None:
        facts = ModelFacts(name, ahead.target, (), StagingFacts(total=None))
    else:
        facts = model.facts(now)
    have = {replica.name: replica for replica in facts.replicas}
    for replica, cards in _cards(name, terms).items():
        known = have.get(replica, ReplicaFacts(replica, Phase.DOWN))
        have[replica] = replace(known, cards=cards, stale=replica in ahead.stale)
    return replace(
        facts,
        target=ahead.target,
        replicas=tuple(have.values()),
        pool=terms.pool,
        vram=terms.vram,
        unsized=terms.unsized,
        pinned=terms.pinned,
    )


def _wanted(model: Managed) -> int:
    return model.target.replicas if model.target.rung >= Rung.ASLEEP else 0


_NOTHING: Mapping[str, str] = {}


def model_status(
    model: Managed, clock: Clock, why_not: Mapping[str, str] = _NOTHING
) -> ModelStatus:
    """Return what is known of `model` at this moment; `why_not`: what isn't staged, by key."""
    staged, calendar, wall = model.staged.state, model.terms.wish.calendar, clock.wall()
    says, then = model.diary.change(wall)
    return ModelStatus(
        name=model.name,
        aliases=model.terms.aliases,
        rung=model.rung,
        target=model.target.rung,
        reason=model.target.reason,
        held_up_by=model.held_up_by,
        override_until=model.override.until if model.override else None,
        waiting=len(model.waiting),
        replicas_wanted=_wanted(model),
        oldest_wait=model.oldest_wait(clock.monotonic()),
        staging=StagingStatus(
            staged.done, staged.total or 0, staged.held or staged.partial, staged.busy
        ),
        rank=model.target.rank.word,
        until=_until(model, says),
        calendar=calendar_words(calendar, says, then, wall) if calendar.entries else None,
        timezone=calendar.zone if calendar.entries else None,
        cannot_sleep=model.terms.wish.cannot_sleep,
        pool=model.terms.pool,
        vram=model.terms.vram,
        vram_by=model.terms.vram_by,
        retired=model.retired,
        keepalive=model.keeps,
        replicas=tuple(_replica_status(model, replica, clock) for replica in model.replicas),
        staged=tuple(
            _staged_status(model.sets[kind], why_not.get(model.sets[kind].key))
            for kind in FileKind
            if kind in model.sets
        ),
    )


def _until(model: Managed, says: Stretch) -> float | None:
    """Return until when what decides its target is known to do so (Unix seconds)."""
    match model.target.rank:
        case Rank.OPERATOR:
            return model.override.until if model.override else None
        case Rank.DEMAND:
            return None
        case Rank.CALENDAR | Rank.RESTS:
            return known(says.until)


def known_for(model: Managed, says: Stretch, now: float, wall: float) -> float | None:
    """Return for how many seconds what decides its target is known to do so yet.

    `says`: what its calendar says at `wall` (Unix seconds), which is `now` (monotonic).
    """
    until: float | None = None
    match model.target.rank:
        case Rank.OPERATOR:
            until = model.override.until if model.override else None
        case Rank.DEMAND if not (model.waiting or model.in_flight or model.is_awaited(now)):
            until = _demand_until(model, says, now, wall)
        case Rank.CALENDAR if says.rung is Rung.HOT:
            until = known(model.diary.change(wall)[0].until)
        case Rank.DEMAND | Rank.CALENDAR | Rank.RESTS:
            pass
    return None if until is None else max(0.0, until - wall)


def _demand_until(model: Managed, says: Stretch, now: float, wall: float) -> float | None:
    """Return until when what was asked for stays, for its calendar too; None: nobody knows."""
    quiet = wall + model.terms.wish.idle_after - (now - model.asked_at(now))
    if says.rung is Rung.HOT:
        closes = known(model.diary.change(wall)[0].until)
        return None if closes is None else max(quiet, closes)
    return quiet if model.coming is None or model.coming.rung < Rung.HOT else None


def _staged_status(staged: StagedFiles, why_not: str | None) -> StagedStatus:
    state = staged.state
    return StagedStatus(
        staged.kind,
        state.done,
        state.total or 0,
        state.resident,
        state.held,
        state.busy,
        state.partial,
        state.paused,
        state.problem or why_not,
    )


def _replica_status(model: Managed, replica: Replica, clock: Clock) -> ReplicaStatus:
    state = replica.state
    wakes = state.phase is Phase.WAKING
    to_wall = clock.wall() - clock.monotonic()
    return ReplicaStatus(
        name=replica.name,
        rung=model.rung_of(replica),
        phase=state.phase,
        pid=state.pid,
        since=state.since + to_wall,
        reason=state.reason,
        in_flight=replica.in_flight,
        queued=replica.queued,
        failures=state.failures,
        retry_at=None if state.retry_at is None else state.retry_at + to_wall,
        start=_start_status(model, replica, clock.monotonic()),
        last_start=None if state.last_start is None else _by_name(state.last_start),
        sleep=_sleep_status(state),
        rehearses=replica.rehearses,
        expected=expected_wake(model.wakes) if wakes and model.wakes else None,
        stale=replica.is_stale,
        renewed=replica.is_renewed,
    )


def _sleep_status(state: ReplicaState) -> SleepStatus | None:
    nap, wake = state.last_nap, state.last_wake
    if not state.cycles or nap is None:
        return None
    return SleepStatus(
        cycles=state.cycles,
        seconds=nap.seconds,
        host_ram=nap.host_ram,
        device_kept=nap.device_kept,
        last_wake=None if wake is None else wake.parts,
    )


def _start_status(model: Managed, replica: Replica, now: float) -> StartStatus | None:
    stage = replica.stage
    if stage is None or replica.state.started_at is None:
        return None
    return StartStatus(
        stage=stage,
        seconds={s.value: seconds for s, seconds in replica.stage_seconds().items()},
        elapsed=now - replica.state.started_at,
        expected=expected_start(model.starts) if model.starts else None,
    )


def _by_name(times: StartTimes) -> dict[str, float]:
    return {stage.value: seconds for stage, seconds in times.stages.items()}
