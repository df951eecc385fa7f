"""Where a model stands at this moment, for who foretells what comes: pure, from its facts."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

from warmd.ladder import Phase, Rung
from warmd.policy import Rank
from warmd.policy.estimate import STOP_S, expected_start, expected_wake, start_left
from warmd.replica import Replica
from warmd.supervisor.events import Clock
from warmd.supervisor.model import Managed
from warmd.supervisor.soon import stands_of


@dataclass(frozen=True)
class Standing:
    """One replica as it is. Moments are Unix seconds, 0 where there is none.

    `began_at`, `ready_at`: of a rise that is under way, else None; `since`: when it came to do what
    it is `doing`; `free_at`: when an operation is done with its cards; `retry_at`: it is not tried
    before; `trouble`: why it failed last, also while it
    starts again; `awake`: it has its room in its pool.
    """

    rung: Rung
    doing: str = "down"
    since: float = 0.0
    began_at: float | None = None
    ready_at: float | None = None
    free_at: float = 0.0
    retry_at: float = 0.0
    trouble: str | None = None
    given_up: bool = False
    awake: bool = False


@dataclass(frozen=True)
class Presence:
    """A model as it is. `used_until`: somebody asks for it, and so it moves for nobody before.

    `held_up`: why it can't come nearer to where it shall be, None where nothing is in the way;
    `shall`: where that is, at most: what stands higher goes down to it now.
    """

    replicas: tuple[Standing, ...]
    used_until: float = 0.0
    held_up: str | None = None
    shall: Rung = Rung.HOT


def presence(model: Managed, clock: Clock) -> Presence:
    """Return where `model` stands."""
    return Presence(
        tuple(_standing(model, replica, clock) for replica in model.replicas),
        _used_until(model, clock),
        model.held_up_by,
        model.target.rung,
    )


def _used_until(model: Managed, clock: Clock) -> float:
    """Return until when it counts as asked for, if nobody asks any more: as `only_rests` does."""
    now, wall = clock.monotonic(), clock.wall()
    after = model.terms.wish.idle_after
    if model.waiting or model.in_flight or model.is_awaited(now):
        return wall + after
    if model.target.rank is not Rank.DEMAND or isinf(model.last_request):
        return 0.0
    return wall + max(0.0, after - (now - model.asked_at(now)))


def _standing(model: Managed, replica: Replica, clock: Clock) -> Standing:
    state, now = replica.state, clock.monotonic()
    to_wall = clock.wall() - now
    stands = stands_of(replica, staged=model.staged.state.held)
    began, left = state.since, None
    if state.phase.is_coming_up:
        began = state.since if state.started_at is None else state.started_at
        left = start_left(expected_start(model.starts), now - began)
    elif state.phase in (Phase.WAKING, Phase.ADOPTING):
        left = start_left(expected_wake(model.wakes), now - began)
        stands = Rung.ASLEEP
    ready = None if left is None else now + to_wall + left
    free = 0.0
    if state.phase.holds_the_device:
        free = now + to_wall + (STOP_S if left is None else left)
    failed = state.phase in (Phase.BACKING_OFF, Phase.FAILED)
    trouble = state.trouble if state.phase.is_coming_up else None
    return Standing(
        rung=stands,
        doing="being taken over" if state.phase is Phase.ADOPTING else state.phase.words,
        since=state.since + to_wall,
        began_at=None if left is None else began + to_wall,
        ready_at=ready,
        free_at=free,
        retry_at=0.0 if state.retry_at is None else state.retry_at + to_wall,
        trouble=state.reason if failed else trouble,
        given_up=state.phase is Phase.FAILED,
        awake=state.phase.is_up and state.phase is not Phase.ASLEEP,
    )
