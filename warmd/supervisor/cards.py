"""What was seen of the cards, and what was done on them since. Written on the event loop alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmd.devices import HOST, CardUse, GpuError, GpuTrouble, Sweep
from warmd.ladder import Phase
from warmd.planner import Card, CardFacts, Claim, Stranger
from warmd.replica import Replica, ReplicaState
from warmd.status import CardShare, CardStatus
from warmd.supervisor.events import Mismatch, Quarantine
from warmd.supervisor.model import Managed
from warmd.supervisor.wards import Examination, Wards, sick_of

NAMED_S = 300.0
"""So long the largest processes of the host are named after an engine has found no room there."""

_SHOWN_S = 45.0
"""So long a look is shown: with no engine up there is one each 30 s, and nobody starts by it."""


@dataclass(frozen=True)
class CardRules:
    """The cards that engines stand on, and what holds for each of them; bytes."""

    cards: tuple[Card, ...] = ()
    headroom: int = 0
    tolerance: int = 0  # so much more than its reservation an engine may hold


@dataclass(frozen=True)
class Look:
    """What one look at all cards found. `began`: monotonic seconds.

    `ours` maps processes to the replicas that they are of, `who` names the others. `fares` where
    the cards' health was looked at as well. Where `sweep` is None, `trouble` says why.
    """

    began: float
    sweep: Sweep | None = None
    ours: Mapping[int, str] = field(default_factory=dict)
    who: Mapping[int, str] = field(default_factory=dict)
    trouble: str | None = None
    fares: Examination | None = None


class Cards:
    """The last look at the cards, when each was last worked on, and which are out of service."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.wanted = asyncio.Event()  # somebody waits for a look
        self.to_examine = True  # that look shall see how they fare, too
        self.named_until = -math.inf  # and until then who holds most of the host's memory
        self.rules = CardRules()
        self._now = now
        self._look = Look(-1.0)  # the last one that found anything
        self._trouble: str | None = None  # why a later one didn't
        self._seen: dict[str, CardFacts] = {}
        self._moved: dict[str, float] = {}
        self._told: dict[str, int | None] = {}  # replica -> pid of the engine that was told of
        self._wards = Wards()

    def fit(self, rules: CardRules) -> None:
        """Watch these cards from now on; of other ones than before nothing is known yet."""
        if rules.cards != self.rules.cards:
            self._look, self._trouble = Look(-1.0), None
            self.to_examine = True
            self.wanted.set()
        self.rules = rules
        self._wards.keep(rules.cards)
        self._refresh()

    def want(self, *, names: bool = False) -> None:
        """Ask for a look; `names`: one that names who holds most of the host's memory."""
        if names:
            self.named_until = self._now() + NAMED_S
        self.wanted.set()

    @property
    def on_host(self) -> bool:
        """Whether the host's memory is the device."""
        return any(card.key == HOST for card in self.rules.cards)

    @property
    def in_trouble(self) -> bool:
        """Whether the last look failed, for all cards or for one that is in service."""
        seen = self._seen.values()
        return any(card.trouble is not None and card.quarantine is None for card in seen)

    @property
    def quarantined(self) -> frozenset[str]:
        """The keys of the cards that are out of service."""
        return self._wards.out

    @property
    def settled(self) -> Mapping[str, float]:
        """Up to which stamp what happened to a card counts no more, by its key."""
        return self._wards.settled

    @settled.setter
    def settled(self, known: Mapping[str, float]) -> None:
        self._wards.settled = known

    def follow(self, replica: Replica, old: ReplicaState, new: ReplicaState) -> None:
        """Hear of a replica's new state: after each operation its cards are looked at anew.

        And once an engine's program runs: not before, for a look would hold up its exec.
        """
        if old.phase.holds_the_device and not new.phase.holds_the_device:
            for key in replica.cards_used or tuple(self._seen):
                self._moved[key] = self._now()
            # An engine that failed may be the first to tell of a sick card.
            self.to_examine |= new.phase in (Phase.BACKING_OFF, Phase.FAILED)
            self.wanted.set()
        elif new.pid not in (None, old.pid) or _is_adopted(old, new):
            self.wanted.set()

    def see(self, look: Look) -> tuple[list[tuple[str, str | None]], list[Quarantine]]:
        """Take what a look found; of one that failed, that nobody can tell.

        Returns each card about which there is doubt from now on, and why, or no longer any; and
        those that go out of service, or come back.
        """
        moved: list[Quarantine] = []
        if look.sweep is not None and (HOST in look.sweep.cards) is not self.on_host:
            self.wanted.set()  # other cards have come since it began
            return [], []
        if look.sweep is not None:
            self._look = look
            moved = list(self._wards.see(self.rules.cards, look.sweep, look.fares))
            if look.fares is None and self._wards.is_in_doubt(look.sweep):
                self.to_examine = True
                self.wanted.set()
        self._trouble = look.trouble if look.sweep is None else None
        before = {key: card.doubt for key, card in self._seen.items()}
        self._refresh()
        now = self._seen.values()
        return [(c.words, c.doubt) for c in now if c.doubt != before.get(c.key)], moved

    def give_back(self, name: str) -> tuple[str, list[Quarantine]]:
        """Take a card back into service, by its index or UUID; return a sentence, and what changes.

        Raises `LookupError` where there is none of that name, `ValueError` where it can't be.
        """
        named = [card for card in self.rules.cards if card.is_named(name)]
        if not named:
            known = ", ".join(f"{card.label} ({card.key})" for card in self.rules.cards)
            raise LookupError(f"no GPU is named {name}: there are {known or 'none'}")
        out = [card for card in named if card.key in self.quarantined]
        if not out:
            doubt = next((d for card in named if (d := self._seen[card.key].doubt)), None)
            but = "" if doubt is None else f", but nobody can tell what it holds: {doubt}"
            return f"{named[0].words} is in service already{but}", []
        for card in out:
            if self._wards.is_dead(card):
                raise ValueError(
                    f"{card.words} can't be used, {self._wards.why(card.key)}: "
                    f"{self._wards.remedy(card)}"
                )
        moved = [each for card in out for each in self._wards.give_back(card)]
        self._refresh()
        words = " and ".join(card.words for card in out)
        return f"{words} {'is' if len(out) == 1 else 'are'} back in service", moved

    def _refresh(self) -> None:
        self._seen = {card.key: self._facts(card) for card in self.rules.cards}

    def facts(self) -> dict[str, CardFacts]:
        """Return every card as it was last seen."""
        return {
            key: replace(card, moved_at=self._moved[key]) if key in self._moved else card
            for key, card in self._seen.items()
        }

    def _facts(self, card: Card) -> CardFacts:
        return replace(self._held(card), quarantine=self._wards.why(card.key))

    def _held(self, card: Card) -> CardFacts:
        look, headroom, trouble = self._look, self.rules.headroom, self._trouble
        words = "the host's memory" if card.key == HOST else card.label
        if look.sweep is None:
            return CardFacts(card.key, words, card.total, headroom, trouble=trouble)
        use = look.sweep.cards.get(card.key)
        if use is None:
            trouble = trouble or self._why_unseen(look.sweep, card)
            return CardFacts(card.key, words, card.total, headroom, trouble=trouble)
        ours: dict[str, int] = {}
        for pid, held in use.held.items():
            if pid in look.ours:
                ours[look.ours[pid]] = ours.get(look.ours[pid], 0) + held
        foreign = tuple(_strangers(look, use, sum(ours.values())))
        return CardFacts(
            *(card.key, words, use.total, headroom, use.used, ours, foreign),
            swept_at=look.began,
            trouble=trouble,
            named=use.key != HOST or use.others is not None,
        )

    def _why_unseen(self, sweep: Sweep, card: Card) -> str:
        sick = sick_of(self.rules.cards, sweep).get(card.key)
        return str(GpuError(GpuTrouble.MISSING) if sick is None else sick.error)

    def mismatches(self, models: Iterable[Managed]) -> Iterator[Mismatch]:
        """Yield, once for each engine, those that hold more than their reservation allows."""
        for model in models:
            for replica in model.replicas:
                over = self._over(model, replica)
                if over is None:
                    if not replica.state.phase.is_up:
                        self._told.pop(replica.name, None)
                elif self._told.get(replica.name) != replica.state.pid:
                    self._told[replica.name] = replica.state.pid
                    yield over

    def _over(self, model: Managed, replica: Replica) -> Mismatch | None:
        """Compare what an engine at work holds with what it is promised."""
        state = replica.state
        if not model.terms.vram or not _at_work(state) or state.since > self._look.began:
            return None
        if replica.is_stale:
            return None  # it was started with another promise, and its turn comes
        for card in self._seen.values():
            held = card.ours.get(replica.name, 0)
            if held > model.terms.vram + self.rules.tolerance:
                return Mismatch(model.name, replica.name, card.words, model.terms.vram, held)
        return None

    def statuses(
        self, models: Iterable[Managed], claims: Mapping[str, list[Claim]], to_wall: float
    ) -> tuple[CardStatus, ...]:
        """Return each card for people; nothing where no model reserves anything."""
        managed = list(models)
        if not any(model.terms.vram for model in managed):
            return ()
        over = [o for m in managed for r in m.replicas if (o := self._over(m, r)) is not None]
        names = {card.key: card for card in self.rules.cards}
        return tuple(
            replace(
                _status(card, names[key], claims[key], over, now=self._now(), to_wall=to_wall),
                remedy=self._wards.remedy(names[key]),
            )
            for key, card in self.facts().items()
        )


def _is_adopted(old: ReplicaState, new: ReplicaState) -> bool:
    return old.phase is Phase.ADOPTING is not new.phase


def _at_work(state: ReplicaState) -> bool:
    return state.phase in (Phase.READY, Phase.DRAINING)


def _strangers(look: Look, use: CardUse, ours: int) -> Iterator[Stranger]:
    if use.key == HOST:
        # Nobody asks each process of the host each time: what isn't ours is somebody's.
        rest = max(0, use.used - ours)
        for pid, held in (use.others or {}).items():
            if held <= rest:  # pages that several share are counted with each of them
                rest -= held
                yield Stranger(look.who.get(pid, f"process {pid}"), held)
        yield Stranger("the rest of this host", rest)
        return
    for pid, held in use.held.items():
        if pid not in look.ours and held:
            yield Stranger(look.who.get(pid, f"process {pid}"), held)


def _status(
    card: CardFacts,
    device: Card,
    claims: Sequence[Claim],
    over: Iterable[Mismatch],
    *,
    now: float,
    to_wall: float,
) -> CardStatus:
    engines = tuple(
        CardShare(claim.replica, claim.bytes, claim.held, sleeps=claim.sleeps) for claim in claims
    )
    known = card.is_known(now, _SHOWN_S)
    foreign = tuple(CardShare(each.who, each.held, each.held) for each in card.foreign)
    return CardStatus(
        key=card.key,
        index=device.index,
        words=card.words,
        name=device.name,
        total=card.total,
        headroom=card.headroom,
        used=card.used if known else None,
        free=card.free if known else None,
        reserved=sum(claim.bytes for claim in claims if not claim.sleeps),
        taken=card.taken(claims),
        engines=engines,
        foreign=foreign,
        trouble=card.trouble,
        quarantine=card.quarantine,
        mismatches=tuple(each.sentence for each in over if each.card == card.words),
        seen=None if card.swept_at < 0 else card.swept_at + to_wall,
    )
