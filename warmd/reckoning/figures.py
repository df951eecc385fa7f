"""From the rows of one model's past to its account. Pure: rows in, figures out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from zoneinfo import ZoneInfo

from warmd.history import Asked, Occupied, Past, Took
from warmd.ladder import Rung
from warmd.policy import Rank, Window, Wish
from warmd.policy.advice import Habits, advise
from warmd.policy.estimate import UNMEASURED_START_S, UNMEASURED_WAKE_S, percentile
from warmd.reckoning.account import (
    DELAY_BOUNDS,
    Account,
    Delays,
    Durations,
    FirstBytes,
    ModelAccount,
    Why,
)
from warmd.reckoning.days import (
    HOUR_S,
    day_of,
    strips,
    use_by_day,
    waits_by_day,
    whole_days,
)
from warmd.reckoning.punctuality import kept

_HOT, _CALENDAR = Rung.HOT.value, Rank.CALENDAR.word


@dataclass(frozen=True)
class Manner:
    """What the config says of a model now, as far as its account needs it."""

    zone: str
    windows: Sequence[Window] = ()
    replicas: int = 1
    cannot_sleep: str | None = None

    @classmethod
    def of(cls, wish: Wish) -> Manner:
        """Return what `wish` says."""
        calendar = wish.calendar
        return cls(calendar.zone, calendar.windows, wish.replicas, wish.cannot_sleep)


def account(
    pasts: Iterable[Past], manners: Mapping[str, Manner], zone: str, since: float, now: float
) -> Account:
    """Reckon for each model what happened; `zone` is that of models which the config has no more.

    A model's rows are let go before the next one's are read.
    """
    elsewhere = Manner(zone)
    models = {p.model: reckon(p, manners.get(p.model, elsewhere), since, now) for p in pasts}
    return Account(now, since, DELAY_BOUNDS, models)


def reckon(past: Past, manner: Manner, since: float, now: float) -> ModelAccount:
    """Reckon what happened to a model from `since` until `now` (Unix seconds).

    Its hours are whole ones: the one in which `since` lies counts from its beginning.
    """
    zone = ZoneInfo(manner.zone)
    asked = past.asked
    met = {rung.value: int(getattr(asked, f"met_{rung.value}")) for rung in Rung}
    not_hot = sum(count for rung, count in met.items() if rung != _HOT)
    spared = {rung: int(getattr(asked, f"spared_{rung}")) for rung in _SPARED}
    removed, estimated = _removed(past, spared)
    hot = [each for each in past.occupied if each.rung == _HOT]
    added = sum(each.gpu_seconds for each in hot if each.cause == _CALENDAR) / HOUR_S
    begin, unknown = _watched(past.occupied, since, now)
    failed = past.failed
    days = strips(past.occupied, zone, begin, now)
    whole = whole_days(days, day_of(since, zone), day_of(now, zone))
    habits = Habits(
        whole,
        waits_by_day(past.waited, zone, whole),
        use_by_day(past.use, zone, whole),
        manner.windows,
        manner.replicas,
        _gpus_each(hot),
        added,
        median([took.seconds for took in past.starts]) if past.starts else None,
        manner.cannot_sleep,
    )
    return ModelAccount(
        zone=manner.zone,
        requests=asked.requests,
        met=met,
        not_hot=not_hot,
        not_hot_share=not_hot / asked.requests if asked.requests else None,
        first_delays=_delays(past),
        vain=asked.vain,
        others=_others(past.asked),
        seconds=_seconds(past.occupied),
        unknown_s=unknown,
        gpu_hours_hot=sum(each.gpu_seconds for each in hot) / HOUR_S,
        gpu_hours_added=added,
        spared=spared,
        removed_s=removed,
        removed_by_estimate=estimated,
        removed_s_per_gpu_hour=removed / added if added else None,
        starts=_starts(past.starts),
        wakes=_durations(past.wakes) if past.wakes else None,
        days=days,
        advice=advise(habits),
        windows=kept(past.openings, now),
        failed_starts=None if failed is None else Why(failed.count, failed.last, failed.reason),
    )


_SPARED = tuple(rung.value for rung in Rung if rung is not Rung.HOT)


def _seconds(occupied: Iterable[Occupied]) -> dict[str, float]:
    sums = {rung.value: 0.0 for rung in Rung}
    for each in occupied:
        sums[each.rung] = sums.get(each.rung, 0.0) + each.seconds
    return sums


def _watched(occupied: Iterable[Occupied], since: float, now: float) -> tuple[float, float]:
    """Return from when on it is known where the model stood, and for how long it isn't since.

    Where nothing is known of the hour in which `since` lies, nobody knows whether there was a warmd
    before the first known hour. It began with that hour's first known second; where that isn't
    told, its known seconds are taken to be its last.
    """
    known: dict[int, float] = {}
    for each in occupied:
        known[each.hour] = known.get(each.hour, 0.0) + each.seconds
    if not known:
        return since, 0.0
    first, begin = min(known), since
    if first > since // HOUR_S:
        begin = min(now, (first + 1) * HOUR_S) - known[first]
        if told := [each.since for each in occupied if each.hour == first and each.since]:
            begin = min(begin, *told)
    unknown = 0.0
    for hour in range(first, int(now // HOUR_S) + 1):
        passed = min(now, (hour + 1) * HOUR_S) - max(begin, hour * HOUR_S)
        unknown += max(0.0, passed - known.get(hour, 0.0))
    return begin, unknown


def _gpus_each(hot: Iterable[Occupied]) -> float:
    """Return how many GPUs one replica uses, on average."""
    hot = list(hot)
    replicas = sum(each.replica_seconds for each in hot)
    return sum(each.gpu_seconds for each in hot) / replicas if replicas else 1.0


def _delays(past: Past) -> Delays | None:
    ranked = sorted(each.seconds for each in past.waited if not each.vain)
    if not ranked:
        return None
    counts = [0] * (len(DELAY_BOUNDS) + 1)
    for seconds in ranked:
        counts[bisect_left(DELAY_BOUNDS, seconds)] += 1
    p50, p95, p99 = (percentile(ranked, share) for share in (0.5, 0.95, 0.99))
    every = max(past.asked.first_delays, len(ranked))
    return Delays(len(ranked), p50, p95, p99, ranked[-1], every, counts)


def _others(asked: Asked) -> FirstBytes | None:
    count = asked.first_bytes
    return FirstBytes(count, asked.ttfb_sum / count, asked.ttfb_max) if count else None


def _starts(starts: Iterable[Took]) -> dict[str, Durations]:
    by_rung: dict[str, list[Took]] = {}
    for each in starts:
        by_rung.setdefault(each.rung, []).append(each)
    return {rung: _durations(took) for rung, took in by_rung.items()}


def _durations(took: Sequence[Took]) -> Durations:
    stages: dict[str, list[float]] = {}
    for each in took:
        for stage, seconds in each.stages.items():
            stages.setdefault(stage, []).append(seconds)
    middle = {stage: median(seconds) for stage, seconds in stages.items()}
    return Durations(len(took), median([each.seconds for each in took]), middle)


def _removed(past: Past, spared: dict[str, int]) -> tuple[float, bool]:
    """Return the seconds of waiting that the calendar took away, and whether one is an estimate."""
    removed, estimated = 0.0, False
    for rung, count in spared.items():
        if count:
            seconds, known = _wait_from(past, rung)
            removed += count * seconds
            estimated = estimated or not known
    return removed, estimated


def _wait_from(past: Past, rung: str) -> tuple[float, bool]:
    """Return what a request waits that meets the model on `rung`, and whether that was measured.

    The median of the time in question, else of the last ones ever, else of starts from elsewhere.
    """
    if rung == Rung.ASLEEP.value:
        wakes = past.wakes or past.known_wakes
        seconds = [each.seconds for each in wakes]
        return (median(seconds), True) if seconds else (UNMEASURED_WAKE_S, False)
    for starts in (past.starts, past.known_starts):
        if seconds := [each.seconds for each in starts if each.rung == rung]:
            return median(seconds), True
    seconds = [each.seconds for each in past.known_starts]
    return (median(seconds), False) if seconds else (UNMEASURED_START_S, False)
