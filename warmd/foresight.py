"""What a reload would move, and why: pure, from the settings now and new and what runs now.

Field names of the dataclasses are the stable JSON of `warmctl plan --json`: add, never rename.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from warmd.config import Settings
from warmd.ladder import Phase, Rung, replica_name
from warmd.planner import Room, StopEngine
from warmd.policy.estimate import STOP_S, expected_start, expected_wake
from warmd.reload import Change, Effect, KeyChange
from warmd.spoken import count, duration
from warmd.status import ReplicaStatus
from warmd.supervisor import Outlook

_COMPILED = ("weights", "args", "env", "engine.python", "engine.env")
_BROKEN = (Phase.BACKING_OFF, Phase.FAILED)
_SLEEPS_ON = (Phase.ASLEEP, Phase.FALLING_ASLEEP, Phase.READY, Phase.WAKING, Phase.DRAINING)
_ALL_FIT = Room()


class Fate(StrEnum):
    """What becomes of a replica, in the order in which a device is given to it."""

    CALLED_OFF = "called-off"
    BEGUN_AGAIN = "begun-again"
    STOPPED = "stopped"
    PUT_TO_SLEEP = "put-to-sleep"
    WOKEN = "woken"
    STARTED = "started"
    MADE_ANEW = "made-anew"
    STAYS = "stays"
    IDLE = "idle"  # no engine runs, and none is started

    @property
    def moves(self) -> bool:
        """Whether anything happens."""
        return self not in (Fate.STAYS, Fate.IDLE)

    @property
    def rises(self) -> bool:
        """Whether it comes up, which whoever waits for it hurries."""
        return self in (Fate.WOKEN, Fate.STARTED)


@dataclass(frozen=True)
class ReplicaProspect:
    """What becomes of one replica; `without_s`: for so long (estimated) it can't answer."""

    name: str
    fate: Fate
    sentence: str
    without_s: float | None = None


@dataclass(frozen=True)
class ModelProspect:
    """What becomes of one model; `change` is `new`, `gone`, `changed` or `earlier` (reloads)."""

    name: str
    change: str
    keys: tuple[KeyChange, ...]
    target: Rung
    reason: str  # why the target is what it is
    replicas: tuple[ReplicaProspect, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step on the device: which replica, what becomes of it, for how long it takes.

    `cards`: the keys of the GPUs that it takes, none where it may be any.
    """

    replica: str
    fate: Fate
    seconds: float
    measured: bool
    cards: tuple[str, ...] = ()

    def waits_for(self, earlier: Step) -> bool:
        """Whether it can't run beside an `earlier` one."""
        if self.fate is Fate.MADE_ANEW is earlier.fate:
            return True  # what doesn't work with new settings shall take one engine, not all
        apart = self.cards and earlier.cards and set(self.cards).isdisjoint(earlier.cards)
        return not apart


@dataclass(frozen=True)
class Foresight:
    """What a reload of `files` would do. `later`: what is no model's.

    `held_up_by`: why no engine is made anew for now, None where nothing is in the way.
    `side_by_side`: some steps run at the same time, on GPUs of their own. `warnings`: what the
    reload would say of what is reserved then.
    """

    files: tuple[str, ...]
    models: dict[str, ModelProspect]
    untouched: tuple[str, ...]
    later: tuple[KeyChange, ...]
    steps: tuple[Step, ...]
    total_s: float
    held_up_by: str | None
    side_by_side: bool = False
    warnings: tuple[str, ...] = ()


def foresee(
    now: Settings,
    new: Settings,
    found: Sequence[Change],
    later: Sequence[KeyChange],
    outlooks: Mapping[str, Outlook],
    *,
    room: Room = _ALL_FIT,
    warnings: tuple[str, ...] = (),
) -> Foresight:
    """Foresee the reload of `new`, of which `found` and `later` are the changes.

    `outlooks` says for each model what it would be, in the order in which models have their turn;
    `room` who would be put aside or find none in its pool.
    """
    changed = {change.model: change for change in found}
    prospects: dict[str, ModelProspect] = {}
    steps: list[tuple[float, Step]] = []
    for name, outlook in outlooks.items():
        change = changed.get(name)
        aside = any(replica in room.aside for replica in outlook.cards)
        if change is None and not outlook.stale and not aside:
            continue
        scene = _Scene(now, new, name, change, outlook, room=room)
        prospects[name] = scene.prospect()
        steps += scene.steps()
    order = [step for _, step in sorted(steps, key=lambda each: each[0])]
    anew = any(step.fate is Fate.MADE_ANEW for step in order)
    return Foresight(
        files=tuple(str(file) for file in new.sources),
        models=prospects,
        untouched=tuple(name for name in new.models if name not in prospects),
        later=tuple(later),
        steps=tuple(order),
        total_s=_in_all(order),
        held_up_by=_held_up_by(new, changed, outlooks) if anew else None,
        side_by_side=any(not b.waits_for(a) for a, b in combinations(order, 2)),
        warnings=warnings,
    )


def _in_all(steps: Sequence[Step]) -> float:
    """Return the seconds until the last step is done; each begins once those it waits for are."""
    ends: list[float] = []
    for n, step in enumerate(steps):
        before = (end for end, other in zip(ends, steps[:n], strict=True) if step.waits_for(other))
        ends.append(max(before, default=0.0) + step.seconds)
    return max(ends, default=0.0)


def _held_up_by(
    new: Settings, changed: Mapping[str, Change], outlooks: Mapping[str, Outlook]
) -> str | None:
    """A changed model's failures are forgotten; another one's keep engines as they are."""
    for name, outlook in outlooks.items():
        if name in changed or outlook.status is None or name not in new.models:
            continue
        for replica in outlook.status.replicas[: _wanted(outlook)]:
            if replica.phase in _BROKEN and replica.renewed:
                how = "has failed" if replica.phase is Phase.FAILED else "is backing off"
                return f"{replica.name} {how} ({replica.reason})"
    return None


def _wanted(outlook: Outlook) -> int:
    return outlook.target.replicas if outlook.target.rung >= Rung.ASLEEP else 0


def _fate(phase: Phase, wanted: Rung, *, stale: bool) -> Fate:
    """Say what becomes of a replica that shall be `wanted`, by the rules of the device lane."""
    up = wanted >= Rung.ASLEEP
    match phase:
        case Phase.DOWN | Phase.BACKING_OFF | Phase.FAILED | Phase.STOPPING:
            return Fate.STARTED if up else Fate.IDLE
        case Phase.STARTING | Phase.WARMING:
            again = Fate.BEGUN_AGAIN if stale else Fate.STAYS
            return again if up else Fate.CALLED_OFF
        case Phase.ASLEEP | Phase.FALLING_ASLEEP:
            if not up:
                return Fate.STOPPED
            fresh = Fate.WOKEN if wanted is Rung.HOT else Fate.STAYS
            return Fate.MADE_ANEW if stale else fresh
        case Phase.READY | Phase.WAKING | Phase.ADOPTING | Phase.DRAINING:
            if not up:
                return Fate.STOPPED
            fresh = Fate.STAYS if wanted is Rung.HOT else Fate.PUT_TO_SLEEP
            return Fate.MADE_ANEW if stale else fresh


class _Scene:
    """One model before and after."""

    def __init__(
        self,
        now: Settings,
        new: Settings,
        name: str,
        change: Change | None,
        outlook: Outlook,
        *,
        room: Room,
    ) -> None:
        self._now = now
        self._new = new
        self._name = name
        self._change = change
        self._outlook = outlook
        self._start_s = expected_start(outlook.starts)
        self._sleep_s = outlook.first_sleep_s or 0.0
        self._room = room
        self._replicas = dict(self._foresee_replicas())

    @property
    def _gone(self) -> bool:
        return self._name not in self._new.models

    def prospect(self) -> ModelProspect:
        """Return what becomes of the model."""
        if self._change is None:
            change = "earlier"
        elif self._gone or self._name not in self._now.models:
            change = "gone" if self._gone else "new"
        else:
            change = "changed"
        return ModelProspect(
            name=self._name,
            change=change,
            keys=self._change.keys if self._change else (),
            target=self._outlook.target.rung,
            reason=self._outlook.target.reason,
            replicas=tuple(
                ReplicaProspect(
                    name, fate, self._sentence(name, was, fate), self._without(was, fate)
                )
                for name, (was, fate) in self._replicas.items()
            ),
            notes=tuple(self._notes()),
        )

    def steps(self) -> Iterator[tuple[float, Step]]:
        """Yield what it does on the device, each with its place in the order."""
        wait = self._outlook.status.oldest_wait if self._outlook.status else 0.0
        for name, (_, fate) in self._replicas.items():
            if not fate.moves:
                continue
            place = float(list(Fate).index(fate))
            if fate.rises and wait:
                # Who is waited for goes before whatever cools, the longest wait first.
                place = 2.0 - wait / (wait + 1.0)
            by = self._outlook.wakes if fate is Fate.WOKEN else self._outlook.starts
            cards = tuple(sorted(self._outlook.cards.get(name, ())))
            yield place, Step(name, fate, self._seconds(fate), bool(by), cards)

    def _foresee_replicas(self) -> Iterator[tuple[str, tuple[ReplicaStatus | None, Fate]]]:
        status, target = self._outlook.status, self._outlook.target
        have = status.replicas if status else ()
        shall_be = 0 if self._gone else self._new.models[self._name].most_replicas
        for index in range(max(len(have), shall_be)):
            was = have[index] if index < len(have) else None
            name = was.name if was else replica_name(self._name, index)
            phase = was.phase if was else Phase.DOWN
            wanted = target.rung if index < _wanted(self._outlook) else Rung.COLD
            spare = _wanted(self._outlook) <= index < _wanted(self._outlook) + target.sleepers
            if spare and phase in _SLEEPS_ON and name not in self._outlook.stale:
                wanted = Rung.ASLEEP
            fate = _fate(phase, wanted, stale=name in self._outlook.stale)
            if name in self._room.aside:
                stops = isinstance(self._room.aside[name], StopEngine)
                fate = Fate.STOPPED if stops else Fate.PUT_TO_SLEEP
            elif fate.rises and name in self._room.left_out:
                fate = Fate.IDLE if fate is Fate.STARTED else Fate.STAYS
            yield name, (was, fate)

    def _seconds(self, fate: Fate) -> float:
        sleep = self._sleep_s if self._outlook.target.rung is Rung.ASLEEP else 0.0
        match fate:
            case Fate.CALLED_OFF | Fate.STOPPED:
                return STOP_S
            case Fate.PUT_TO_SLEEP:
                return self._sleep_s
            case Fate.WOKEN:
                return expected_wake(self._outlook.wakes)
            case Fate.STARTED:
                return self._start_s + sleep
            case Fate.BEGUN_AGAIN | Fate.MADE_ANEW:
                return STOP_S + self._start_s + sleep
            case Fate.STAYS | Fate.IDLE:
                return 0.0

    def _without(self, was: ReplicaStatus | None, fate: Fate) -> float | None:
        hot = was is not None and was.phase is Phase.READY
        return STOP_S + self._start_s if hot and fate is Fate.MADE_ANEW else None

    def _sentence(self, name: str, was: ReplicaStatus | None, fate: Fate) -> str:
        becomes = self._becomes(was, fate)
        if name in self._room.aside:
            becomes = f"{becomes}: {self._room.aside[name].reason}"
        elif name in self._room.left_out and not fate.moves:
            held = f"it stays so for now, held up: {self._room.left_out[name]}"
            becomes = f"{_forgiven(was)}{held}"
        return f"{name} {_stands(was)}: {becomes}"

    def _becomes(self, was: ReplicaStatus | None, fate: Fate) -> str:
        started = f"about {duration(self._seconds(fate))} ({self._by})"
        again = self._outlook.target.rung is Rung.ASLEEP
        slept = ", then put to sleep" if again else ""
        match fate:
            case Fate.STAYS:
                return "it goes on"
            case Fate.IDLE:
                return self._next_start(was)
            case Fate.CALLED_OFF:
                return "its start is called off"
            case Fate.BEGUN_AGAIN:
                return f"its start is called off and begun again, {started}"
            case Fate.STOPPED:
                return f"it is {self._drained(was)}stopped"
            case Fate.PUT_TO_SLEEP:
                return f"it is {self._drained(was)}put to sleep"
            case Fate.WOKEN:
                by = "by its last wakes" if self._outlook.wakes else "a guess: none was measured"
                return f"it is woken, about {duration(self._seconds(fate))} ({by})"
            case Fate.STARTED:
                return f"{_forgiven(was)}it is started, {started}{slept}"
            case Fate.MADE_ANEW if was is not None and was.phase is Phase.READY:
                drained = f"it is drained first, at most {duration(self._drain_s)}, then "
                away = f"about {duration(STOP_S + self._start_s)} without it ({self._by})"
                return f"{drained if was.in_flight else ''}{away}{slept}"
            case Fate.MADE_ANEW:
                then = ", and asleep again" if again else ""
                return f"it is stopped and made anew, {started}{then}"

    @property
    def _by(self) -> str:
        """What the estimate of a start rests on."""
        return "by its last starts" if self._outlook.starts else "a guess: no start was measured"

    @property
    def _drain_s(self) -> float:
        # An engine that is made anew or goes keeps the limits that it has.
        return self._now.engine.drain_timeout

    def _drained(self, was: ReplicaStatus | None) -> str:
        if was is None or not was.in_flight:
            return ""
        return f"drained, at most {duration(self._drain_s)}, and "

    def _next_start(self, was: ReplicaStatus | None) -> str:
        keys = self._change.keys if self._change else ()
        anew = any(key.effect is not Effect.NOW for key in keys)
        takes = "its next start takes the new settings" if anew else "nothing follows"
        if was is None:
            takes = "no engine is started for it now"
        return f"{_forgiven(was)}{takes}" if not self._gone else "nothing is left to stop"

    def _notes(self) -> Iterator[str]:
        status, keys = self._outlook.status, self._change.keys if self._change else ()
        anew = [name for name, (_, fate) in self._replicas.items() if fate is Fate.MADE_ANEW]
        if self._change is None:
            yield "its settings changed with an earlier reload, and its turn has not come yet"
        if self._gone and status is not None and status.waiting:
            verb = "waits" if status.waiting == 1 else "wait"
            yield f"{count(status.waiting, 'request')} {verb} for it and would be refused"
        if any(key.key == "weights" for key in keys):
            yield "what is in RAM of its old weights is let go, and the new ones are brought in"
        if any(key.effect is Effect.ENGINE for key in keys) and not anew and not self._gone:
            runs = any(was and was.phase.is_up for was, _ in self._replicas.values())
            if runs and not any(fate.moves for _, fate in self._replicas.values()):
                yield "its engine runs with these settings already"
        if anew:
            yield from self._meanwhile(anew)
            if self._outlook.starts and any(key.key.startswith(_COMPILED) for key in keys):
                yield "the first start with other settings may take longer: what is new is compiled"

    def _meanwhile(self, anew: Sequence[str]) -> Iterator[str]:
        """Say who answers while an engine is away."""
        ready = [n for n, (was, _) in self._replicas.items() if was and was.phase is Phase.READY]
        if len(ready) > 1:
            yield "its replicas take turns: the others answer meanwhile"
            return
        if not any(name in ready for name in anew):
            return
        max_wait, away = self._new.max_wait(self._name), STOP_S + self._start_s
        held = f"a request that comes meanwhile is held, at most {duration(max_wait)} (max_wait)"
        yield held if max_wait >= away else f"{held}: too short for one that comes early"


def _stands(was: ReplicaStatus | None) -> str:
    if was is None:
        return "is new"
    match was.phase:
        case Phase.READY if was.in_flight:
            return f"is hot with {count(was.in_flight, 'request')} in flight"
        case Phase.READY:
            return "is hot and serves nobody at the moment"
        case Phase.STARTING | Phase.WARMING:
            return "is starting"
        case Phase.STOPPING:
            return "is being stopped"
        case Phase.ADOPTING:
            return "is being taken over"
        case Phase.DOWN:
            staged = ", its weights are in RAM" if was.rung is Rung.STAGED else ""
            return f"does not run{staged}"
        case Phase.FAILED:
            return "has failed"
        case Phase.BACKING_OFF:
            return "is backing off"
        case Phase.DRAINING | Phase.FALLING_ASLEEP | Phase.ASLEEP | Phase.WAKING:
            return f"is {was.phase.words}"


def _forgiven(was: ReplicaStatus | None) -> str:
    return "its failures are forgotten, " if was is not None and was.phase in _BROKEN else ""
