"""The loop: observe, ask policy, ask planner, carry out. Owns the replicas and who waits for them.

Everything here runs on one event loop, and nothing in a tick waits: an action is begun, its result
comes back as an event, and the next tick sees the new facts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress

from warmd.ladder import Phase, Rung, share_a_card
from warmd.planner import (
    Action,
    LookAtCards,
    LookAtFiles,
    PaceFiles,
    Plan,
    RamLedger,
    ReleaseFiles,
    Room,
    Scene,
    SleepEngine,
    StageFiles,
    StartEngine,
    StopEngine,
    WakeEngine,
    claims,
    make_plan,
    room_ahead,
)
from warmd.policy import Override, Target, decide_target, held_hot
from warmd.policy.estimate import STOP_S, expected_start, expected_wake, start_left
from warmd.replica import EngineRecord, Replica, ReplicaListener, ReplicaState
from warmd.status import CardStatus, ModelStatus
from warmd.supervisor.cards import Cards, Look
from warmd.supervisor.events import Clock, Events
from warmd.supervisor.held_up import held_up
from warmd.supervisor.model import Managed, Terms
from warmd.supervisor.ports import Build, Known, Rules
from warmd.supervisor.shelf import Held, Shelf
from warmd.supervisor.snapshot import (
    RETIRED,
    Outlook,
    model_status,
    outlook,
    outlook_of_new,
    prospective_facts,
)
from warmd.supervisor.soon import Soon
from warmd.supervisor.teller import REMEMBERED, Teller
from warmd.supervisor.waiting import Lease, WaitingRoom
from warmd.supervisor.word import word_on

TICK_S = 1.0
"""The longest time between two looks at the facts; every event brings the next look forward."""

SLEEPLESS_S = 1800.0
"""How long no engine is started only to sleep, after there was no RAM for that."""


class Supervisor(ReplicaListener):
    """Keeps every model on the way to its target; hands out places on ready replicas."""

    def __init__(
        self, clock: Clock, events: Events, ram: Callable[[Held, int], RamLedger], build: Build
    ) -> None:
        """`ram` returns the ledger of the moment for what is held and the bytes that are pinned."""
        self.rules = Rules()
        self._build = build
        self.models: dict[str, Managed] = {}
        self._names: dict[str, str] = {}
        self._clock = clock
        self._events = events
        self._teller = Teller(events)
        self._ram = ram
        self.cards = Cards(clock.monotonic)
        self._changed = asyncio.Event()
        self._soon = Soon()
        self.shelf = Shelf(build, self.models, self._teller, self._changed.set, self._why_now)
        self._closing = False
        self._waiting_room = WaitingRoom(clock, self._changed.set, self._ahead)

    def adopt(self, name: str, terms: Terms, why: str = "its settings have changed") -> None:
        """Take a model into care, or care for it on new terms; `why` they are new.

        An engine that new terms change is drained and started anew; no other one notices.
        """
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = Managed(name, terms, (), {})
        model.sets = self.shelf.fit(terms.files)
        model.terms, model.retired = terms, False
        model.forget_calendar()
        for replica, fit in zip(model.replicas, terms.fits, strict=False):
            replica.refit(fit)
            replica.forgive(why)
        new = range(len(model.replicas), len(terms.fits))
        model.replicas = (
            *model.replicas,
            *(self._build.replica(name, index, terms.fits[index]) for index in new),
        )
        model.told |= {model.replicas[n].name: model.rung_of(model.replicas[n]) for n in new}
        self._take_names()
        self._wake(model)

    def retire(self, name: str) -> None:
        """Serve a model no longer: its engines are drained and stopped, then it is forgotten."""
        self.models[name].retired = True
        self._take_names()
        self._wake(self.models[name])

    def _take_names(self) -> None:
        self._names = {
            known: model.name
            for model in self.models.values()
            if not model.retired
            for known in (model.name, *model.terms.aliases, *model.terms.adapters)
        }

    # The loop

    async def run(self, after_tick: Callable[[], None]) -> None:
        """Tick until cancelled; `after_tick` is called after each completed tick."""
        while True:
            self._changed.clear()
            self.tick()
            after_tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._changed.wait()

    def tick(self) -> None:
        """Look at the facts, decide, and begin what can be begun."""
        if self._closing:
            return
        self._soon.look(self.models.values(), self._clock.wall(), self.shelf)
        for model in self.models.values():
            self._retarget(model)
            for replica in model.replicas:
                self._teller.watch(model, replica)
        self._carry_out(self._plan())
        for model in self.models.values():
            model.drop_surplus()
        for name in [m.name for m in self.models.values() if m.is_gone]:
            del self.models[name]
        self.shelf.drop_unused()

    def _retarget(self, model: Managed) -> None:
        wall = self._clock.wall()
        if model.override is not None and not model.override.holds_at(wall):
            self._set_override(model, None, "the time that an operator set is over")
        now, had = self._clock.monotonic(), model.target
        was, says = model.scaling, model.says(wall)
        model.rescale(now)
        demand = model.demand(now)
        given = model.terms.wish, model.override, demand, wall, says
        target = decide_target(*given, coming=model.coming)
        target = held_hot(target, model.override, model.hold, wall)
        model.target = model.with_sleepers(target, now)
        scaling = model.scaling
        if was and scaling and was.wanted != scaling.wanted and had.replicas != target.replicas:
            self._events.replicas_wanted(model.name, had.replicas, target.replicas, scaling.why)
        if model.retired:
            model.target = RETIRED

    def _why_now(self, model: Managed) -> str:
        if not self._closing:
            self._retarget(model)
        return model.target.reason

    def _plan(self) -> Plan:
        scene = self._scene()
        plan = make_plan(scene)
        for model in self.models.values():
            model.held_up_by = plan.held_up.get(model.name)
        self.shelf.heed(plan.unstaged, scene.ram.budget)
        return plan

    def _scene(self) -> Scene:
        now = self._clock.monotonic()
        models = self.models.values()
        ram = self._ram(self.shelf.held, sum(m.pinned for m in models))
        facts = [m.facts(now) for m in models]
        rules, cards = self.rules, self.cards.facts()
        programs = self.shelf.programs()
        return Scene(facts, ram, now, rules.pools, rules.fairness, cards, programs)

    def _carry_out(self, plan: Plan) -> None:
        replicas = self._replicas
        for action in plan.actions:
            self._begin(action, replicas)

    @property
    def _replicas(self) -> dict[str, Replica]:
        return {r.name: r for m in self.models.values() for r in m.replicas}

    def _begin(self, action: Action, replicas: Mapping[str, Replica]) -> None:
        match action:
            case StartEngine(replica=name, reason=reason):
                replicas[name].begin_start(reason)
            case StopEngine(replica=name, reason=reason, sleepless=sleepless, anew=anew):
                if sleepless:
                    model = self.models[replicas[name].model]
                    model.sleepless_until = self._clock.monotonic() + SLEEPLESS_S
                replicas[name].begin_stop(reason, anew=anew)
            case SleepEngine(replica=name, reason=reason, rehearsal=rehearsal):
                replicas[name].begin_sleep(reason, rehearsal=rehearsal)
            case WakeEngine(replica=name, reason=reason):
                replicas[name].begin_wake(reason)
            case LookAtCards(names=names):
                self.cards.want(names=names)
            case StageFiles() | ReleaseFiles() | PaceFiles() | LookAtFiles():
                self.shelf.begin(action)

    # What replicas tell

    def replica_changed(self, model: str, name: str, old: ReplicaState, new: ReplicaState) -> None:
        """Hear that a replica changed: write it down, wake who waits, look again."""
        managed = self.models[model]
        self._teller.tell(managed, name, old, new)
        if old.phase is Phase.WARMING and new.phase is Phase.READY:
            self._build.came_up(self._replicas[name])
        self.cards.follow(self._replicas[name], old, new)
        self._wake(managed)

    def replica_stuck(self, model: str, name: str, pid: int) -> None:
        """Hear that an engine can't be ended: nothing else may start on its device meanwhile."""
        self._events.engine_stuck(model, name, pid)

    def replica_kept(self, model: str, name: str, kept: str) -> None:
        """Hear that an engine has ended and its VRAM isn't back: it counts as a stranger's."""
        self._events.memory_kept(model, name, kept)

    # What the watch over the cards asks, and tells

    @property
    def engines(self) -> dict[int, str]:
        """The main process of each engine that is up, with its replica's name."""
        up = (r for r in self._replicas.values() if r.state.phase.is_up)
        return {r.state.pid: r.name for r in up if r.state.pid is not None}

    @property
    def reserves(self) -> bool:
        """Whether any model has a reservation."""
        return any(m.terms.vram for m in self.models.values())

    @property
    def holds_cards(self) -> bool:
        """Whether an engine is up that has a reservation, or what the cards hold is in doubt."""
        up = (r.state.phase.is_up for m in self.models.values() if m.terms.vram for r in m.replicas)
        return any(up) or (self.reserves and self.cards.in_trouble)

    def seen(self, look: Look) -> None:
        """Take what was seen of the cards, and look at the facts again."""
        self._teller.tell_cards(*self.cards.see(look))
        for mismatch in self.cards.mismatches(self.models.values()):
            self._events.reservation_exceeded(mismatch)
        self._changed.set()

    def return_gpu(self, name: str) -> str:
        """Take a GPU back into service; return a sentence. Raises as `Cards.give_back` does."""
        sentence, moved = self.cards.give_back(name)
        self._teller.tell_cards([], moved)
        self._changed.set()
        return sentence

    def _wake(self, model: Managed) -> None:
        for woken in model.waiting:
            woken.set()
        self._changed.set()

    # What the gateway asks

    def resolve(self, name: str) -> str | None:
        """Return the model's own name for a name or an alias, None where there is none."""
        return self._names.get(name)

    def rung(self, model: str) -> Rung:
        """Return the highest rung that a replica of `model` stands on."""
        return self.models[model].rung

    def rung_met(self, model: str) -> Rung:
        """Return the rung that a request for `model` meets now."""
        return self.models[model].rung_met

    def idle_s(self, model: str) -> float:
        """Return the seconds since the last request for `model` ended; 0 while one is there."""
        managed = self.models[model]
        if managed.in_flight or managed.waiting:
            return 0.0
        return self._clock.monotonic() - managed.last_request

    async def acquire(self, model: str, waited: float = 0.0) -> Lease:
        """Return a place on a ready replica of `model`; raises `NotReadyError`.

        `waited`: seconds for which the request has been held already.
        """
        return await self._waiting_room.acquire(self.models[model], waited)

    def _ahead(self, replica: Replica) -> float:
        """Estimate the seconds until other models are done with the cards of `replica`."""
        now = self._clock.monotonic()
        left = 0.0
        for other in (m for m in self.models.values() if m.name != replica.model):
            for state in (r.state for r in other.replicas if share_a_card(r.cards, replica.cards)):
                if state.phase.is_coming_up and state.started_at is not None:
                    left += start_left(expected_start(other.starts), now - state.started_at)
                elif state.phase in (Phase.WAKING, Phase.FALLING_ASLEEP):
                    left += start_left(expected_wake(other.wakes), now - state.since)
                elif state.phase.holds_the_device:
                    left += STOP_S
        return left

    # What an operator asks

    def statuses(self) -> dict[str, ModelStatus]:
        """Return what is known of each model at this moment."""
        return {
            name: model_status(m, self._clock, self.shelf.why_not)
            for name, m in self.models.items()
        }

    def card_statuses(self) -> tuple[CardStatus, ...]:
        """Return what is known of each card at this moment; none where nothing is reserved."""
        models, now = self.models.values(), self._clock.monotonic()
        held = claims([m.facts(now) for m in models], self.cards.facts())
        return self.cards.statuses(models, held, self._clock.wall() - now)

    def outlook(self, name: str, terms: Terms | None, known: Known | None = None) -> Outlook:
        """Say what a model would be on other terms, or without them; nothing is changed.

        `known` is what earlier lives knew of a model that is new.
        """
        model = self.models.get(name)
        if model is not None:
            return outlook(model, terms, self._clock)
        known, wall = known or Known(), self._clock.wall()
        idle_s = math.inf if known.last_request is None else wall - known.last_request
        if terms is None:
            raise LookupError(f"there is no model {name}, and no terms for one")
        return outlook_of_new(name, terms, known.override, known.starts, idle_s=idle_s, wall=wall)

    def room_ahead(
        self, terms: Mapping[str, Terms], outlooks: Mapping[str, Outlook], rules: Rules
    ) -> Room:
        """Say which replicas would be put aside or find no room where they shall be, and why."""
        now = self._clock.monotonic()
        facts = [
            prospective_facts(name, self.models.get(name), each, outlooks[name], now)
            for name, each in terms.items()
        ]
        ram, cards = self._scene().ram, self.cards.facts()
        return room_ahead(Scene(facts, ram, now, rules.pools, rules.fairness, cards))

    def set_target(
        self,
        name: str,
        rung: Rung | None,
        for_s: float | None,
        *,
        floor: bool = False,
        replicas: int | None = None,
    ) -> str:
        """Set a model's target, or give it back to the policy with None; return a sentence.

        `replicas` None: as many as its policy wants. Raises `ValueError` for a model that is no
        longer in the config, that can't sleep, or that has no place for so many.
        """
        model = self.models[name]
        if model.retired:
            raise ValueError(f"{name} is no longer in the config and is being stopped")
        was, stands = model.override, model.target
        if floor and rung is stands.rung and was is not None and was.refuses:
            self.try_files_again(name)  # what was set before is kept: it says more
            return f"{name} is to be {stands.rung} anyway: {stands.reason}"
        override, sentence = word_on(
            model, rung, for_s, self._clock.wall(), floor=floor, replicas=replicas
        )
        self._set_override(model, override, "an operator said so")
        for replica in model.replicas:
            replica.forgive(f"an operator set it to {rung or 'auto'}")
        self.try_files_again(name)
        why = held_up(self._scene(), model)
        return sentence if why is None else f"{sentence}; held up for now: {why}"

    def try_files_again(self, name: str) -> None:
        """Forget what went wrong as a model's files were staged, and look at the facts at once."""
        model = self.models[name]
        for staged in model.sets.values():
            staged.forgive()
        self._wake(model)
        self._retarget(model)

    def _set_override(self, model: Managed, override: Override | None, reason: str) -> None:
        if model.override != override:
            model.override = override
            self._events.override_changed(model.name, override, reason)

    def restore(self, name: str, known: Known) -> None:
        """Take over what an earlier life of the daemon knew of a model."""
        model = self.models[name]
        model.override = known.override
        model.starts = list(known.starts)[-REMEMBERED:]
        model.starts_from = {rung: [*each] for rung, each in known.starts_from.items()}
        model.wakes = list(known.wakes)[-REMEMBERED:]
        model.figures = dict(known.figures)
        if known.last_request is not None:
            ago = max(0.0, self._clock.wall() - known.last_request)
            model.last_request = self._clock.monotonic() - ago

    def left_behind(self) -> tuple[dict[str, EngineRecord], dict[str, str]]:
        """Return, by replica, what of an earlier daemon may be taken over, and why the rest can't.

        Only what the earlier daemon noted is looked at: the engines aren't asked yet.
        """
        found, doubts = {}, {}
        for replica in (r for m in self.models.values() for r in m.replicas):
            record = EngineRecord.found(replica.fit.make.noted())
            if record is None or not record.phase.is_up:
                continue  # its engine had ended before the earlier daemon did
            doubt = record.doubt(replica.fit)
            if doubt is None:
                found[replica.name] = record
            else:
                doubts[replica.name] = doubt
        return found, doubts

    def take_over(self, replica: str, record: EngineRecord) -> None:
        """Check the engine that an earlier daemon left running, and go on with it."""
        self._replicas[replica].begin_takeover(record)

    # The end

    async def close(self, reason: str, *, leave: bool = False) -> None:
        """Drain and stop every engine, let all files go; return when nothing is left.

        `leave`: engines that are ready or asleep, and what is staged, are left to the next daemon.
        """
        self._closing = True
        self._waiting_room.close()
        for model in self.models.values():
            model.target = Target(Rung.COLD, 0, f"warmd is stopping: {reason}")
            model.held_up_by = None
            self._wake(model)
            for replica in model.replicas:
                if leave:
                    replica.begin_leaving()
                else:
                    replica.begin_stop(reason)
        await self.shelf.clear(reason, leave=leave)
        for model in list(self.models.values()):
            for replica in model.replicas:
                await replica.ended()
