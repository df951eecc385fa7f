"""How many replicas of a hot model its load asks for: state in, state out, no clock.

Up: more requests wait than `above`, for `after` seconds: one replica more for each such time, and
each that is still on its way is credited with what it will take, so that a start of a minute isn't
answered with a start in every ten seconds. Down: one at a time, once the load would have fitted in
one replica fewer for `cool_down`, with room to spare. What one replica takes is what it ran when
the queue was last too long; so the load that made one more necessary never takes it away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from warmd.spoken import count, duration

ROOM_TO_SPARE = 0.8
"""The share of what one replica fewer takes that the load may be, for one to go."""


@dataclass(frozen=True)
class Scale:
    """What the config says of it. `above` counts waiting requests, lengths of time are seconds."""

    most: int
    above: int
    after: float
    cool_down: float


@dataclass(frozen=True)
class Load:
    """What is asked of a model now: requests that wait and that run, and its ready replicas."""

    waiting: int
    running: int
    ready: int

    @property
    def each(self) -> float:
        """How many requests a ready replica runs."""
        return self.running / self.ready if self.ready else 0.0


@dataclass(frozen=True)
class Scaling:
    """How many replicas are wanted, and why. Times are monotonic seconds.

    `crowded_since`: since when too many wait; `roomy_since`: since when the load would fit in one
    fewer; `fullest`: the most that one replica ran in the queue of now; `takes`: in the last one
    that was there for too long, None before. `needed`: how many its load may need, which goes down
    by the same rule also while `least` of them are wanted anyway; None: as many as are wanted.
    """

    wanted: int
    why: str = ""
    crowded_since: float | None = None
    roomy_since: float | None = None
    fullest: float = 0.0
    takes: float | None = None
    needed: int | None = None
    least: int = 0

    @property
    def for_load(self) -> int:
        """How many its load may need."""
        return self.wanted if self.needed is None else self.needed


def rescale(was: Scaling, scale: Scale, least: int, load: Load, now: float) -> Scaling:
    """Return what is wanted at `now`; `least`: what is wanted without any load."""
    most = max(least, scale.most)
    # Where more are wanted from now on, nobody knows yet whether the load needs them.
    needed = min(max(was.for_load, least) if least > was.least else was.for_load, most)
    wanted = max(needed, least)
    scaling = was
    if (needed, least) != (was.needed, was.least):
        scaling = replace(was, needed=needed, least=least)
    if wanted != was.wanted:  # what it says holds only of the number that it was said of
        scaling = replace(scaling, wanted=wanted, why="")
    scaling = _watch_queue(scaling, scale, load, now)
    if scaling.crowded_since is not None:
        return _one_more(scaling, scale, most, load, now)
    return _one_fewer(scaling, scale, least, load, now)


def _watch_queue(was: Scaling, scale: Scale, load: Load, now: float) -> Scaling:
    if load.waiting <= scale.above:
        return was if was.crowded_since is None else replace(was, crowded_since=None)
    since = now if was.crowded_since is None else was.crowded_since
    # The fullest moment of one queue counts: a replica that has just come runs little yet. And a
    # queue that is over at once tells nothing: it was a burst of long prompts.
    fullest = load.each if was.crowded_since is None else max(was.fullest, load.each)
    takes = fullest if fullest and now - since >= scale.after else was.takes
    return replace(was, crowded_since=since, roomy_since=None, fullest=fullest, takes=takes)


def _one_more(was: Scaling, scale: Scale, most: int, load: Load, now: float) -> Scaling:
    since = now if was.crowded_since is None else was.crowded_since
    coming = max(0, was.wanted - load.ready)
    if not load.ready and was.takes is None:
        return was  # those who wait for the first engine don't tell what it will take
    enough = scale.above + coming * _taken_by_one(was, scale)
    if was.wanted >= most or now - since < scale.after or load.waiting <= enough:
        return was
    waited = "waited" if scale.after else "wait"
    how_long = f" for {duration(scale.after)}" if scale.after else ""
    why = f"{count(load.waiting, 'request')} {waited}{how_long}"
    wanted = was.wanted + 1
    return replace(was, wanted=wanted, needed=wanted, why=why, crowded_since=now)


def _one_fewer(was: Scaling, scale: Scale, least: int, load: Load, now: float) -> Scaling:
    had = was.for_load
    fits = (had - 1) * _taken_by_one(was, scale) * ROOM_TO_SPARE
    if had <= 1 or load.waiting + load.running > fits:
        return was if was.roomy_since is None else replace(was, roomy_since=None)
    since = now if was.roomy_since is None else was.roomy_since
    if now - since < scale.cool_down:
        return was if since == was.roomy_since else replace(was, roomy_since=since)
    # Those that never came, for want of room, go at once: nobody misses them.
    needed = max(1, min(had - 1, load.ready))
    wanted = max(least, needed)
    if wanted == was.wanted:
        return replace(was, needed=needed, why="", roomy_since=now)
    why = f"its load has fitted in so few for {duration(scale.cool_down)}"
    return replace(was, wanted=wanted, needed=needed, why=why, roomy_since=now)


def _taken_by_one(scaling: Scaling, scale: Scale) -> float:
    """Return how many requests one replica takes; little where nobody has seen it yet."""
    known = scale.above if scaling.takes is None else scaling.takes
    return max(1, math.floor(known))
