"""What the planner needs to know of models, replicas and weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from warmd.ladder import Phase, Rung, share_a_card
from warmd.planner.card_facts import CardFacts, Claim
from warmd.planner.ledger import RamLedger
from warmd.policy import Fairness, Rank, Target


@dataclass(frozen=True)
class ReplicaFacts:
    """What one replica does. Times are monotonic seconds, sizes bytes.

    `launches`: its start has begun, and no program runs yet; `launched_at`: when one began to run,
    None where that isn't known; `sleeps`: its engine can be put to sleep; `pins`: the host RAM that
    its next sleep would take beyond what it holds already; `kept`: what it keeps on each card while
    it sleeps; `worn`: why it should be made anew before it sleeps again; `rehearses`: it sleeps for
    a rehearsal only, and what is reserved for it stays so; `anew`: it was up and was stopped only
    to be started with its new settings; `failures`: of its starts, in a row; `cards`: the keys of
    the GPUs that its engine uses, none where that isn't told: then it may be any; `next_cards`:
    those of its next engine.
    """

    name: str
    phase: Phase
    retry_at: float | None = None  # when it may be tried again
    reason: str = ""
    since: float = 0.0  # when its phase began
    stale: bool = False  # its engine was started with settings that have changed since
    renewed: bool = False  # its settings have changed since it was last ready
    in_flight: int = 0
    launches: bool = False
    launched_at: float | None = None
    sleeps: bool = False
    pins: int = 0
    kept: int = 0
    worn: str | None = None
    rehearses: bool = False
    anew: bool = False
    failures: int = 0
    cards: frozenset[str] = frozenset()
    next_cards: frozenset[str] = frozenset()

    def hot_for(self, now: float) -> float:
        """Return the seconds for which it has been ready."""
        return now - self.since if self.phase is Phase.READY else 0.0

    def meets(self, other: ReplicaFacts) -> bool:
        """Whether both engines may use the same card."""
        return share_a_card(self.cards, other.cards)


@dataclass(frozen=True)
class StagingFacts:
    """What is held in RAM of one set of files. Sizes in bytes, `retry_at` in monotonic s."""

    total: int | None  # None until its files have been looked at
    busy: bool = False  # on its way into RAM
    held: bool = False  # resident by measurement and held there
    retry_at: float | None = None
    problem: str | None = None  # why the last try failed
    partial: bool = False  # held as far as `limit` goes, and no further
    limit: int | None = None  # bytes that are brought in or held at most; None: all
    urgent: bool = True  # the pace at which it is brought in
    rated: bool = False  # a rate is set for what nobody waits for
    reason: str = ""  # why it stands as it stands
    left: int = 0  # bytes that an earlier daemon left held: in the ledger, and there for it alone

    @property
    def taken(self) -> int:
        """The bytes that it counts for in the budget."""
        if not (self.busy or self.held or self.partial):
            return 0
        total = self.total or 0
        return total if self.limit is None else min(total, self.limit)


NOTHING_TO_STAGE = StagingFacts(total=0)
"""Of a set that has no files: no cache has been written yet, nothing has been learnt."""


@dataclass(frozen=True)
class ModelFacts:
    """One model as it is. Lengths of time are seconds, `vram` is bytes for each engine.

    `oldest_wait`: how long its longest-waiting request has waited; `switch_cost`: what it costs to
    put it aside and bring it back; `rehearse`: it is time to see what its sleep takes;
    `sleepless_until` (monotonic): no engine is started only to be put to sleep before. `staging` is
    that of its weights, `caches` of its compile cache, `program` the key of its program files.
    `stays_for`: for so many seconds what its target rests on is known to hold, None where nobody
    knows. `begin_at` (Unix seconds): when its rise for its calendar was to begin, 0 where that is
    overdue; `needed_in`: seconds until its calendar wants its files, infinite where it says nothing
    of that; `files_due`: some engine is to be started soon for which they belong in RAM already.
    """

    name: str
    target: Target
    replicas: Sequence[ReplicaFacts]
    staging: StagingFacts
    oldest_wait: float = 0.0
    waiting: int = 0
    idle_s: float = float("inf")
    pool: str | None = None
    vram: int = 0  # on each card of an engine
    unsized: str | None = None  # why nobody knows it, and none may be started
    unverified: str | None = None  # why its weights may not be loaded
    pinned: bool = False  # nobody's wait puts it aside
    refused: bool = False  # an operator keeps it down: no request ever waits for it
    sleep_level: int = 1
    switch_cost: float = 0.0
    rehearse: bool = False
    sleepless_until: float = float("-inf")
    stays_for: float | None = None
    begin_at: float = float("inf")
    needed_in: float = float("inf")
    files_due: bool = False
    caches: StagingFacts = NOTHING_TO_STAGE
    program: str | None = None

    @cached_property
    def wanted(self) -> Sequence[ReplicaFacts]:
        """The replicas that shall have an engine."""
        return self.replicas[: self.target.replicas] if self.target.rung >= Rung.ASLEEP else ()

    @property
    def target_phase(self) -> Phase:
        """Where the wanted replicas shall stand."""
        return Phase.ASLEEP if self.target.rung is Rung.ASLEEP else Phase.READY

    @property
    def firm(self) -> Sequence[ReplicaFacts]:
        """The wanted replicas that it has whatever its load."""
        return self.wanted[: self.target.least]

    @property
    def extra(self) -> Sequence[ReplicaFacts]:
        """The wanted replicas that are for its load alone: they put nobody aside."""
        return self.wanted[self.target.least :] if self.target.extra else ()

    @property
    def spare(self) -> Sequence[ReplicaFacts]:
        """The replicas that sleep where they have an engine, and are never started for it."""
        if not self.target.sleepers or not self.wanted:
            return ()
        return self.replicas[len(self.wanted) : len(self.wanted) + self.target.sleepers]

    @property
    def surplus(self) -> Sequence[ReplicaFacts]:
        """The replicas that shall have none, the highest first."""
        return self.replicas[len(self.wanted) + len(self.spare) :][::-1]

    def is_for_load(self, replica: ReplicaFacts) -> bool:
        """Whether `replica` is, or was, for the model's load alone: it goes before all others."""
        return replica in self.extra or replica in self.spare

    def is_for_calendar(self, replica: ReplicaFacts) -> bool:
        """Whether its calendar wants `replica` hot: for that, what only rests makes room."""
        target = self.target
        if target.rung is not Rung.HOT or replica not in self.firm:
            return False
        return target.rank is Rank.CALENDAR or replica in self.firm[target.least - target.added :]

    def is_wished(self, replica: ReplicaFacts) -> bool:
        """Whether an operator or its calendar wants `replica` hot: what only rests makes room."""
        target = self.target
        set_so = target.rank is Rank.OPERATOR and target.rung is Rung.HOT
        return (set_so and replica in self.firm) or self.is_for_calendar(replica)

    def only_rests(self, replica: ReplicaFacts) -> bool:
        """Whether nobody asks for the engine, and neither an operator nor its calendar wants it."""
        used = self.waiting or replica.in_flight
        return self.target.rank is Rank.RESTS and not (used or self.keeps(replica))

    def keeps(self, replica: ReplicaFacts) -> bool:
        """Whether nobody's wait puts `replica` aside."""
        return self.pinned and not self.is_for_load(replica)

    def drains(self, replica: ReplicaFacts) -> bool:
        """Whether `replica` is wanted no longer, and still serves who came before."""
        return self.target.rung is Rung.HOT and replica.in_flight > 0


def claims(models: Iterable[ModelFacts], cards: Mapping[str, CardFacts]) -> dict[str, list[Claim]]:
    """Return, by card, what each engine that is up has of it."""
    found: dict[str, list[Claim]] = {key: [] for key in cards}
    for model in models:
        for replica in model.replicas:
            if not replica.phase.is_up:
                continue
            sleeps = replica.phase is Phase.ASLEEP and not replica.rehearses
            # Without cards it may be on any: then only what it is seen to hold counts.
            promised = (replica.kept if sleeps else model.vram) if replica.cards else 0
            for key in replica.cards or cards:
                card = cards.get(key)
                if card is None:
                    continue
                held = card.ours.get(replica.name, 0)
                if held or promised:
                    found[key].append(Claim(replica.name, model.pool, promised, held, sleeps))
    return found


@dataclass(frozen=True)
class Scene:
    """All that a plan is made from. `now` is monotonic seconds.

    `pools` map to the bytes of VRAM that they reserve on each of their cards. Without `cards`
    nobody looks at them, and pools alone say what fits. `programs`: the sets of program files,
    by key, each shared by the models that name it.
    """

    models: Sequence[ModelFacts]
    ram: RamLedger
    now: float
    pools: Mapping[str, int] = field(default_factory=dict)
    fairness: Fairness = field(default_factory=Fairness)
    cards: Mapping[str, CardFacts] = field(default_factory=dict)
    programs: Mapping[str, StagingFacts] = field(default_factory=dict)

    @cached_property
    def claims(self) -> Mapping[str, Sequence[Claim]]:
        """What the engines that are up have of each card."""
        return claims(self.models, self.cards)

    @cached_property
    def by_pool(self) -> Mapping[str, Sequence[ModelFacts]]:
        """The models of each pool."""
        return {name: [m for m in self.models if m.pool == name] for name in self.pools}
