"""One target for each model: how warm, how many, and why in one sentence.

The rule: what an operator set goes before all else. Without that the calendar says where the model
stands (`policy.calendar`: an open window, else the cron entry that fired last), and demand only
lifts it above that. Where the calendar is silent it stands, in this order, where demand wants it,
where it cooled to after demand, where it rests. What the calendar wants soon lifts it above all of
these. Whoever wants it hot, its load may ask for more replicas of it (`policy.scale`), unless an
operator has said how many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from warmd.ladder import Rung
from warmd.policy.calendar import NO_CALENDAR, SILENT, Calendar, Stretch
from warmd.policy.scale import Scale, Scaling
from warmd.spoken import count, duration


@dataclass(frozen=True)
class Wish:
    """What the config says of a model. `idle_after` and `idle_keep` in seconds.

    `cannot_sleep` says why its engines can't be put to sleep; None where they can. `scale`: how
    its load may ask for more replicas than `replicas`; `most`: how many engines it has a place for.
    """

    resting: Rung
    replicas: int
    idle_after: float
    idle_then: Rung = Rung.ASLEEP
    idle_keep: float = 0.0
    cannot_sleep: str | None = None
    calendar: Calendar = NO_CALENDAR
    scale: Scale | None = None
    most: int = 64

    def many(self, said: int | None) -> int:
        """Return how many replicas it has where its calendar says `said`, or nothing of that.

        Where its load may ask for more, its own number is a minimum, which a calendar only raises.
        """
        if said is None:
            return self.replicas
        return said if self.scale is None else max(said, self.replicas)


@dataclass(frozen=True)
class Override:
    """What an operator set. `until` in Unix seconds, None until further notice.

    `floor`: it is not to be less; its own policy may want more. `replicas` None: as many as the
    model has by itself.
    """

    rung: Rung
    until: float | None
    floor: bool = False
    replicas: int | None = None

    @property
    def refuses(self) -> bool:
        """Whether nobody who asks for the model is served."""
        return self.rung is not Rung.HOT and not self.floor

    def holds_at(self, now: float) -> bool:
        """Whether it is in force at `now` (Unix seconds)."""
        return self.until is None or now < self.until


@dataclass(frozen=True)
class Demand:
    """Who asks for a model. `idle_s`: seconds since the last request ended, infinite before it.

    `scaling`: how many replicas its load asks for; None while it isn't hot, or doesn't scale.
    `awaited`: somebody was refused, is to come back, and shall find it ready then.
    `aside`: the rung to which an operator's word has put it since the last request came, where that
    word is over: then what was asked for before is no reason to bring it up again.
    """

    waiting: int
    in_flight: int
    idle_s: float
    scaling: Scaling | None = None
    aside: Rung | None = None
    awaited: bool = False


@dataclass(frozen=True)
class Coming:
    """What must be ready soon, and is to begin now or has begun. `reason` says by when."""

    rung: Rung
    replicas: int
    reason: str


class Rank(IntEnum):
    """On what a target rests; where there isn't room for all, the lower one goes first."""

    OPERATOR = 0
    DEMAND = 1
    CALENDAR = 2
    RESTS = 3

    @property
    def word(self) -> str:
        """Its name for people and programs: `calendar`."""
        return self.name.lower()


@dataclass(frozen=True)
class Target:
    """What is wanted of a model now. `replicas` counts engines, and matters from asleep up.

    `otherwise`: where it would stand without the calendar; None where that isn't what rules.
    `extra`: so many of `replicas`, the last, are for its load alone: they put nobody aside, and are
    put aside first. `sleepers`: so many replicas beyond them stay asleep where they have an engine.
    `added`: so many of `least`, the last, are there for the calendar alone, though the model would
    stand as warm without it.
    """

    rung: Rung
    replicas: int
    reason: str
    rank: Rank = Rank.RESTS
    otherwise: Rung | None = None
    extra: int = 0
    sleepers: int = 0
    added: int = 0

    @property
    def least(self) -> int:
        """The replicas that it has whatever its load."""
        return self.replicas - self.extra


def held_hot(target: Target, override: Override | None, hold: str | None, now: float) -> Target:
    """Return `target`, lifted to hot for the reason `hold`; an operator's word goes before it.

    It counts as rest: nobody makes room for it, and it makes room for whoever is asked for.
    """
    refused = override is not None and override.refuses and override.holds_at(now)
    if hold is None or refused or target.rung is Rung.HOT:
        return target
    return replace(target, rung=Rung.HOT, reason=hold, rank=Rank.RESTS, otherwise=None, added=0)


def decide_target(
    wish: Wish,
    override: Override | None,
    demand: Demand,
    now: float,
    says: Stretch = SILENT,
    *,
    coming: Coming | None = None,
) -> Target:
    """Decide what a model shall be at `now` (Unix seconds), from facts alone.

    `says`: what its calendar says at `now`; `coming`: what it wants soon, which only lifts.
    """
    own = _lifted(_own(wish, demand, says), coming)
    target = _for_load(wish, override, demand, _wanted(wish, override, own, now), now)
    if target.rung is Rung.ASLEEP and wish.cannot_sleep is not None:
        reason = f"{target.reason}, but it can't sleep: {wish.cannot_sleep}"
        return replace(target, rung=Rung.STAGED, reason=reason)
    return target


def _wanted(wish: Wish, override: Override | None, own: Target, now: float) -> Target:
    if override is None or not override.holds_at(now):
        return own
    if not override.floor:
        reason = f"an operator set it to {override.rung}"
        replicas = wish.replicas if override.replicas is None else min(override.replicas, wish.most)
        return Target(override.rung, replicas, reason, Rank.OPERATOR)
    if own.rung > override.rung:
        return own
    if own.rung is override.rung:
        return replace(own, rank=Rank.OPERATOR, otherwise=None, added=0)
    reason = f"an operator wants it at least {override.rung}"
    return Target(override.rung, wish.replicas, reason, Rank.OPERATOR)


def _for_load(
    wish: Wish, override: Override | None, demand: Demand, target: Target, now: float
) -> Target:
    """Add the replicas that the load asks for, and why there are so many."""
    scaling = demand.scaling
    if scaling is None or wish.scale is None or target.rung is not Rung.HOT:
        return target
    if override is not None and override.holds_at(now) and override.replicas is not None:
        return target  # an operator has counted them
    extra = max(0, min(scaling.wanted, wish.scale.most) - target.replicas)
    if not extra and not scaling.why:
        return target
    many = count(target.replicas + extra, "replica")
    why = scaling.why or "as before, while its load may need them"
    reason = f"{target.reason}; {many}: {why}"
    return replace(target, replicas=target.replicas + extra, extra=extra, reason=reason)


def _lifted(own: Target, coming: Coming | None) -> Target:
    """Return what it shall be where something is to be ready soon."""
    if coming is None or coming.rung < own.rung:
        return own
    if coming.rung is own.rung:
        if coming.replicas <= own.replicas and own.rank is not Rank.RESTS:
            return own
        replicas = max(own.replicas, coming.replicas)
        added = own.added + replicas - own.replicas
        if own.rank is Rank.DEMAND:
            return replace(own, replicas=replicas, added=added)
    else:
        # A sleeper that is to be woken later must not be stopped now.
        replicas = max(coming.replicas, own.replicas if own.rung is Rung.ASLEEP else 0)
        added = 0
    otherwise = own.otherwise if own.rank is Rank.CALENDAR else own.rung
    return Target(coming.rung, replicas, coming.reason, Rank.CALENDAR, otherwise, added=added)


def _own(wish: Wish, demand: Demand, says: Stretch) -> Target:
    """Decide what it shall be where no operator says anything."""
    if says.rung is None:
        return _uncalendared(wish, demand)
    replicas = wish.many(says.replicas)
    asked = _uncalendared(wish, demand)
    added = max(0, replicas - asked.replicas)
    if asked.rank is Rank.DEMAND and says.rung < Rung.HOT:
        # What was hot together stays so until nobody asks any more.
        return replace(asked, replicas=asked.replicas + added, added=added)
    rank = Rank.DEMAND if asked.rank is Rank.DEMAND else Rank.CALENDAR
    otherwise = asked.rung if rank is Rank.CALENDAR else None
    if asked.rung < says.rung:
        added = 0  # all of it is the calendar's, as `otherwise` says
    return Target(says.rung, replicas, says.why, rank, otherwise, added=added)


def _uncalendared(wish: Wish, demand: Demand) -> Target:
    """Decide what it shall be where the calendar says nothing, either."""
    if demand.waiting:
        wait = "waits" if demand.waiting == 1 else "wait"
        reason = f"{count(demand.waiting, 'request')} {wait} for it"
        return Target(Rung.HOT, wish.replicas, reason, Rank.DEMAND)
    if demand.awaited:
        reason = "who asked for it was told when to come back"
        return Target(Rung.HOT, wish.replicas, reason, Rank.DEMAND)
    if wish.resting is Rung.HOT:
        asked = demand.aside is None and (demand.in_flight or demand.idle_s < wish.idle_after)
        rank = Rank.DEMAND if asked else Rank.RESTS
        return Target(Rung.HOT, wish.replicas, "it rests hot", rank)
    if demand.aside is not None:
        return _put_aside(wish, demand.idle_s, demand.aside)
    if demand.in_flight:
        reason = f"{count(demand.in_flight, 'request')} in flight"
        return Target(Rung.HOT, wish.replicas, reason, Rank.DEMAND)
    if demand.idle_s < wish.idle_after:
        reason = f"it had a request within the last {duration(wish.idle_after)}"
        return Target(Rung.HOT, wish.replicas, reason, Rank.DEMAND)
    if demand.idle_s == float("inf"):
        return Target(
            wish.resting, wish.replicas, f"it rests {wish.resting} and nobody asks for it"
        )
    if wish.idle_then > wish.resting and demand.idle_s < wish.idle_keep:
        reason = (
            f"it had no request for {duration(wish.idle_after)}, and is to be {wish.idle_then} "
            f"until it had none for {duration(wish.idle_keep)}"
        )
        return Target(wish.idle_then, wish.replicas, reason)
    cooled = wish.idle_keep if wish.idle_then > wish.resting else 0.0
    idle = duration(max(wish.idle_after, cooled))
    reason = f"it had no request for {idle} and rests {wish.resting}"
    return Target(wish.resting, wish.replicas, reason)


def _put_aside(wish: Wish, idle_s: float, aside: Rung) -> Target:
    """Decide for a model that an operator had put aside, and that nobody has asked for since."""
    since = f"nobody has asked for it since an operator set it to {aside}"
    if aside >= wish.idle_then > wish.resting and idle_s < wish.idle_keep:
        reason = (
            f"{since}, and it is to be {wish.idle_then} until it had no request for "
            f"{duration(wish.idle_keep)}"
        )
        return Target(wish.idle_then, wish.replicas, reason)
    return Target(wish.resting, wish.replicas, f"{since}, and it rests {wish.resting}")
