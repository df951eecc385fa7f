"""One model with all that belongs to it, and the facts that are derived from it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmd.ladder import FileKind, Phase, Rung, SleepFigures
from warmd.planner import NOTHING_TO_STAGE, ModelFacts, ReplicaFacts, StagingFacts
from warmd.policy import Coming, Demand, Override, Scaling, Target, worn
from warmd.policy.estimate import STOP_S, expected_start, expected_wake
from warmd.policy.lead import putting_aside
from warmd.policy.opening import Attendance
from warmd.replica import Nap, Replica, ReplicaState
from warmd.staged import StagedFiles
from warmd.supervisor.diary import Diary
from warmd.supervisor.terms import Terms

QUIET_S = 30.0
"""So long after the last request a model counts as quiet: its sleep may be rehearsed."""

PINNED_PER_WEIGHT = 1.4
"""Host RAM that a sleep is taken to need for each byte of weights before it was measured.

Pinned blocks are rounded up to powers of two (vllm#16663).
"""

PINNED_BESIDE = 2**30
"""What a sleep may take beside twice the weights, at most."""

_Known = tuple[tuple[object, ...], ReplicaFacts]
"""What was told of a replica last, after all that it was made from."""

_NOTHING_YET = Target(Rung.COLD, 1, "warmd has just started")


@dataclass
class Managed:
    """One model. Times are monotonic seconds; written by the supervisor's rooms alone."""

    name: str
    terms: Terms
    replicas: Sequence[Replica]
    sets: Mapping[FileKind, StagedFiles]
    retired: bool = False  # no longer in the config: it goes as soon as its engines have
    override: Override | None = None
    starts: list[float] = field(default_factory=list)  # seconds that measured starts took
    wakes: list[float] = field(default_factory=list)  # and wakes
    starts_from: dict[Rung, list[float]] = field(default_factory=dict)  # starts by the rung met
    asides: list[float] = field(default_factory=list)  # seconds from a drain's begin to its end
    figures: dict[str, SleepFigures] = field(default_factory=dict)  # by SleepPolicy.key, version
    waiting: dict[asyncio.Event, float] = field(default_factory=dict)  # -> when it came
    soonest_at: float = -math.inf  # before which it can't be ready, as last reckoned
    last_request: float = -math.inf  # when the last request ended or gave up
    promised: tuple[float, float] | None = None  # since when and until when somebody is awaited
    aside: Rung | None = None  # where an operator had put it, and nobody has asked for it since
    sleepless_until: float = -math.inf  # there was no RAM for its sleep
    target: Target = _NOTHING_YET
    scaling: Scaling | None = None  # while it is hot and its terms let its load ask for more
    takes: float | None = None  # requests that one engine ran when its queue was last too long
    coming: Coming | None = None  # what must be ready soon, and is due
    begin_at: float = math.inf  # when that was to begin (Unix seconds)
    needed_in: float = math.inf  # seconds until its calendar wants its files in RAM
    files_due: bool = False  # they belong in RAM for an engine that is to be started soon
    stays_for: float | None = None  # seconds for which what decides its target is known to hold
    held_up_by: str | None = None
    attendance: Attendance = field(default_factory=Attendance)  # whether its calendar is kept
    hold: str | None = None  # why it is kept hot for now, though nobody asks for it
    keeps: str | None = None  # how it is kept warm in quiet hours, for people
    told: dict[str, Rung] = field(default_factory=dict)  # rung by replica, as last written down
    met: dict[str, Rung] = field(default_factory=dict)  # rung by replica when its start began
    diary: Diary = field(init=False)  # what its calendar says
    known: dict[str, _Known] = field(init=False, default_factory=dict)  # by replica, saves work

    def __post_init__(self) -> None:
        self.diary = Diary(self.terms.wish.calendar)

    def take(self, terms: Terms) -> None:
        """Be cared for on these terms from now on; the calendar may be another one."""
        self.terms, self.retired = terms, False
        self.diary = Diary(terms.wish.calendar)

    @property
    def staged(self) -> StagedFiles:
        """Its weights: they alone decide whether it counts as staged."""
        return self.sets[FileKind.WEIGHTS]

    @property
    def in_flight(self) -> int:
        """Requests that its replicas serve now."""
        return sum([r.in_flight for r in self.replicas])  # asked often: quicker than a generator

    @property
    def is_gone(self) -> bool:
        """Whether it is retired and nothing of it is left."""
        if not self.retired:
            return False
        held = any(s.state.taken for k, s in self.sets.items() if k is not FileKind.PROGRAM)
        idle = not any(r.state.phase.is_up or r.in_flight for r in self.replicas)
        return idle and not (held or self.waiting)

    @property
    def rung(self) -> Rung:
        """The highest rung that a replica stands on."""
        return max(self.rung_of(r) for r in self.replicas)

    @property
    def rung_met(self) -> Rung:
        """The rung that a request meets now: what is drained or falls asleep is hot no longer."""
        for replica in self.replicas:  # asked for each request: quicker than a generator
            if replica.state.phase is Phase.READY:
                return Rung.HOT
        if any(r.state.phase in _NEARLY_AWAKE or r.is_falling_asleep for r in self.replicas):
            return Rung.ASLEEP
        return Rung.STAGED if self.staged.state.held else Rung.COLD

    def drop_surplus(self) -> None:
        """Forget the replicas that the terms no longer have, once nothing of them is left."""
        if len(self.replicas) <= len(self.terms.fits):
            return
        kept = list(self.replicas)
        while len(kept) > len(self.terms.fits):
            if kept[-1].state.phase.is_up or kept[-1].in_flight:
                break
            kept.pop()
        self.replicas = tuple(kept)

    def rung_of(self, replica: Replica) -> Rung:
        """Return where a replica stands: a rung follows from facts, it is never set."""
        match replica.state.phase:
            case Phase.READY | Phase.DRAINING | Phase.FALLING_ASLEEP:
                return Rung.HOT
            case Phase.ASLEEP | Phase.WAKING:
                return Rung.ASLEEP
            case _:
                return Rung.STAGED if self.staged.state.held else Rung.COLD

    def why_no_hold(self, wall: float) -> str | None:
        """Say why it can't be kept hot for a while; None where it can."""
        word = self.override
        if self.retired:
            return f"{self.name} is no longer in the config and is being stopped"
        if word is not None and word.refuses and word.holds_at(wall):
            return f"an operator set it to {word.rung}: `warmctl set {self.name} auto` ends that"
        return None

    def demand(self, now: float) -> Demand:
        """Return who asks for it at `now`."""
        idle_s, awaited = now - self.asked_at(now), self.is_awaited(now)
        many = len(self.waiting), self.in_flight
        return Demand(*many, idle_s, self.scaling, self.aside, awaited=awaited)

    def promise(self, now: float, seconds: float) -> None:
        """Expect somebody back who was refused at `now` and told to come back in `seconds`."""
        since = self.promised[0] if self.promised and self.is_awaited(now) else now
        self.promised, self.aside, self.last_request = (since, now + seconds), None, now

    def is_awaited(self, now: float) -> bool:
        """Whether who was told to come back is to find it ready, and it isn't."""
        if self.promised is None or now >= self.promised[1]:
            return False
        return not any(r.state.phase is Phase.READY for r in self.replicas)

    def asked_at(self, now: float) -> float:
        """Return when it was asked for last; who is expected back counts as asking until then."""
        if self.promised is None:
            return self.last_request
        return max(self.last_request, min(now, self.promised[1]))

    def oldest_wait(self, now: float) -> float:
        """Return how long the longest-waiting request has waited at `now`, in seconds."""
        return max((now - came for came in self.waiting.values()), default=0.0)

    def starts_from_now(self, replica: Replica) -> Sequence[float]:
        """Return the seconds of starts like the one that `replica` is at, or that comes next."""
        stands = Rung.STAGED if self.staged.state.held else Rung.COLD
        if replica.state.phase.is_coming_up:
            stands = self.met.get(replica.name, stands)
        return self.starts_from.get(stands) or self.starts

    def figures_key(self, replica: Replica) -> str | None:
        """Name what the figures of a replica's sleep hold for; None where that isn't known."""
        if self.terms.sleep is None or replica.version is None:
            return None
        return f"{self.terms.sleep.key} vllm={replica.version}"

    @property
    def pinned(self) -> int:
        """The bytes of host RAM that its engines have taken for their sleep."""
        slept = [r for r in self.replicas if r.state.cycles]
        return sum(self._pins(r, r.state.last_nap) for r in slept)

    def facts(self, now: float) -> ModelFacts:
        """Return what the planner needs to know at `now`."""
        sleep, sets = self.terms.sleep, self.sets
        waiting, oldest = len(self.waiting), self.oldest_wait(now)
        if self.promised is not None and self.is_awaited(now):
            waiting, oldest = waiting + 1, max(oldest, now - self.promised[0])
        caches, program = sets.get(FileKind.CACHES), sets.get(FileKind.PROGRAM)
        replicas = [self._replica_facts(r) for r in self.replicas]
        return ModelFacts(
            name=self.name,
            target=self.target,
            replicas=replicas,
            staging=staging_facts(self.staged),
            oldest_wait=oldest,
            waiting=waiting,
            idle_s=now - self.asked_at(now),
            pool=self.terms.pool,
            vram=self.terms.vram,
            unsized=self.terms.unsized,
            unverified=self._unverified,
            pinned=self.terms.pinned,
            refused=self.override is not None and self.override.refuses,
            sleep_level=1 if sleep is None else sleep.level,
            switch_cost=self._switch_cost(replicas),
            rehearse=self._may_rehearse(now),
            sleepless_until=self.sleepless_until,
            begin_at=self.begin_at,
            needed_in=self.needed_in,
            stays_for=self.stays_for,
            files_due=self.files_due,
            caches=NOTHING_TO_STAGE if caches is None else staging_facts(caches),
            program=None if program is None else program.key,
        )

    def is_refused(self, now: float) -> bool:
        """Whether its weights aren't what they shall be; before long they are looked at again."""
        if self._unverified is None:
            return False
        weights = self.sets[FileKind.WEIGHTS].state
        return weights.refused and now < (weights.retry_at or 0.0)

    @property
    def _unverified(self) -> str | None:
        """Say why its weights may not be loaded yet."""
        asked = any(files.verify is not None for files in self.terms.files)
        return self.sets[FileKind.WEIGHTS].state.unverified if asked else None

    def _replica_facts(self, replica: Replica) -> ReplicaFacts:
        """Return what the planner needs to know of a replica, the same as long as it stands."""
        pins, rehearses = self._will_pin(replica), self._only_rehearses(replica)
        moves = replica.state, replica.fits, replica.in_flight
        made_from = (*moves, self.terms.sleep, pins, rehearses)
        known = self.known.get(replica.name)
        if known is None or known[0] != made_from:
            facts = self._facts_anew(replica, pins, rehearses=rehearses)
            known = self.known[replica.name] = made_from, facts
        return known[1]

    def _facts_anew(self, replica: Replica, pins: int, *, rehearses: bool) -> ReplicaFacts:
        state, sleep = replica.state, self.terms.sleep
        first, last = state.first_nap, state.last_nap
        if sleep is None or not state.cycles or first is None or last is None:
            wear = None
        else:
            known = first.held is not None and last.held is not None
            grown = (first.held or 0, last.held or 0) if known else (0, 0)
            wear = worn(sleep.hygiene, state.cycles, *grown)
        return ReplicaFacts(
            replica.name,
            state.phase,
            state.retry_at,
            state.reason,
            state.since,
            stale=replica.is_stale,
            renewed=replica.is_renewed,
            in_flight=replica.in_flight,
            launches=state.phase is Phase.STARTING and state.pid is None,
            launched_at=None if state.pid is None else state.launched_at,
            sleeps=sleep is not None and replica.sleeps,
            pins=pins,
            kept=0 if sleep is None else kept_asleep(state),
            worn=wear,
            rehearses=rehearses,
            anew=state.anew,
            failures=0 if state.phase.is_up else state.failures,
            cards=replica.cards,
            next_cards=replica.fit.cards,
        )

    def _only_rehearses(self, replica: Replica) -> bool:
        """Whether a replica sleeps for its rehearsal, and shall be woken from it."""
        state = replica.state
        if state.phase is not Phase.ASLEEP or not state.rehearses:
            return False
        return self.target.rung is Rung.HOT and replica in self.replicas[: self.target.replicas]

    def _will_pin(self, replica: Replica) -> int:
        return 0 if replica.state.cycles else self._pins(replica, None)

    def _pins(self, replica: Replica, nap: Nap | None) -> int:
        """The bytes of host RAM that a replica's sleep takes: measured, else by its weights."""
        weights = self.staged.state.total or 0
        known = None
        if self.figures:
            known = self.figures.get(self.figures_key(replica) or "") or self.any_figures()
        figure = None if known is None else known.host_ram
        if nap is not None and nap.host_ram is not None:
            figure = nap.host_ram
        if figure is not None:
            # Somebody else's RAM may have got into the measurement; it must not count for ever.
            return min(figure, 2 * weights + PINNED_BESIDE)
        level = 1 if self.terms.sleep is None else self.terms.sleep.level
        return int(PINNED_PER_WEIGHT * weights) if level == 1 else 0

    def any_figures(self) -> SleepFigures | None:
        """The figures of any version, for an engine that doesn't run and can't say its own."""
        if self.terms.sleep is None:
            return None
        ours = f"{self.terms.sleep.key} vllm="
        return next((f for key, f in self.figures.items() if key.startswith(ours)), None)

    @property
    def sleep_s(self) -> float | None:
        """Seconds that it takes to fall asleep, None where nobody knows."""
        slept = [r.state.last_nap.seconds for r in self.replicas if r.state.last_nap is not None]
        known = self.any_figures()
        return max(slept, default=None if known is None else known.first_sleep_s)

    @property
    def aside_s(self) -> float:
        """Seconds that it takes to put an engine of it aside."""
        return putting_aside(self.asides, self.sleep_s)

    def _switch_cost(self, told: Sequence[ReplicaFacts]) -> float:
        """Seconds that it takes to put it aside and to bring it back, as measured."""
        pairs = zip(self.replicas, told, strict=True)
        naps = [replica.state.last_nap for replica, each in pairs if each.sleeps]
        if not naps:
            return STOP_S + expected_start(self.starts)
        away = max((nap.seconds for nap in naps if nap is not None), default=STOP_S)
        return away + expected_wake(self.wakes)

    def _may_rehearse(self, now: float) -> bool:
        if self.terms.sleep is None or not self.terms.sleep.rehearse:
            return False
        if self.coming is not None:
            return False  # its time may come while it sleeps
        if self.target.otherwise not in (None, Rung.HOT):
            return False  # it is there for its calendar alone: who comes first shall find it so
        if self.hold or self.waiting or self.in_flight or now - self.asked_at(now) < QUIET_S:
            return False
        ready = [r for r in self.replicas if r.state.phase is Phase.READY]
        settled = all(now - r.state.since >= QUIET_S for r in ready)
        unknown = [self.figures_key(r) not in self.figures for r in ready if r.sleeps]
        slept = any(r.state.cycles for r in self.replicas)
        return settled and not slept and any(unknown)


_NEARLY_AWAKE = (Phase.FALLING_ASLEEP, Phase.ASLEEP, Phase.WAKING, Phase.ADOPTING)


def kept_asleep(state: ReplicaState) -> int:
    """Return the bytes that an engine was measured to keep on a card while it sleeps."""
    nap = state.last_nap
    if not state.cycles or nap is None:
        return 0
    return (nap.device_kept if nap.card_kept is None else nap.card_kept) or 0


def staging_facts(staged: StagedFiles) -> StagingFacts:
    """Return what the planner needs to know of a set."""
    state = staged.state
    return StagingFacts(
        state.total,
        state.busy,
        state.held,
        state.retry_at,
        state.problem,
        partial=state.partial,
        limit=state.limit,
        urgent=state.urgent,
        rated=state.rated,
        reason=state.reason,
        left=staged.left,
    )
