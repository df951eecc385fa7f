"""The loop: observe, ask policy, ask planner, carry out. Owns the replicas and who waits for them.

Everything here runs on one event loop, and nothing in a tick waits: an action is begun, its result
comes back as an event, and the next tick sees the new facts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from warmd.gateway import Ask
from warmd.ladder import Phase, Rung, share_a_card
from warmd.planner import (
    Action,
    LookAtCards,
    LookAtFiles,
    PaceFiles,
    Plan,
    RamLedger,
    ReleaseFiles,
    Scene,
    SleepEngine,
    StageFiles,
    StartEngine,
    StopEngine,
    WakeEngine,
    make_plan,
)
from warmd.policy import Target, decide_target, held_hot
from warmd.policy.estimate import STOP_S, expected_start, expected_wake, start_left
from warmd.replica import Replica, ReplicaLease, ReplicaListener, ReplicaState
from warmd.supervisor.cards import Cards, Look
from warmd.supervisor.events import Clock, Events
from warmd.supervisor.load import rescale, with_sleepers
from warmd.supervisor.model import Managed
from warmd.supervisor.openings import Openings
from warmd.supervisor.ports import Build, Rules
from warmd.supervisor.shelf import Held, Shelf
from warmd.supervisor.snapshot import RETIRED, known_for
from warmd.supervisor.soon import Soon
from warmd.supervisor.succession import Succession
from warmd.supervisor.teller import Teller
from warmd.supervisor.terms import Terms
from warmd.supervisor.view import View
from warmd.supervisor.waiting import WaitingRoom
from warmd.supervisor.word import Word

TICK_S = 1.0
"""The longest time between two looks at the facts; every event brings the next look forward."""

SLEEPLESS_S = 1800.0
"""How long no engine is started only to sleep, after there was no RAM for that."""

_NOTHING_KNOWN = Ask()


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
        self._openings = Openings(clock, events)
        self.shelf = Shelf(build, self.models, self._teller, self._changed.set, self._why_now)
        self._closing = False
        self._waiting_room = WaitingRoom(clock, self._changed.set, self._ahead)
        self.succession = Succession(clock, self.models)
        self.view = View(clock, self.models, self.cards, self.shelf, self._scene)
        self.word = Word(clock, self.models, events, self._scene, self._look_at)

    def adopt(self, name: str, terms: Terms, why: str = "its settings have changed") -> None:
        """Take a model into care, or care for it on new terms; `why` they are new.

        An engine that new terms change is drained and started anew; no other one notices.
        """
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = Managed(name, terms, (), {})
        model.sets = self.shelf.fit(terms.files)
        model.take(terms)
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
        self._soon.look(self.models.values(), self._clock.wall(), self.shelf, self.rules.pools)
        for model in self.models.values():
            self._retarget(model)
            for replica in model.replicas:
                self._teller.watch(model, replica)
        self._carry_out(self._plan())
        self._openings.look(self.models.values())
        for model in self.models.values():
            model.drop_surplus()
        for name in [m.name for m in self.models.values() if m.is_gone]:
            del self.models[name]
        self.shelf.drop_unused()

    def _retarget(self, model: Managed) -> None:
        wall = self._clock.wall()
        self.word.expire(model, wall)
        now, had = self._clock.monotonic(), model.target
        was, says = model.scaling, model.diary.says(wall)
        rescale(model, now)
        demand = model.demand(now)
        given = model.terms.wish, model.override, demand, wall, says
        target = decide_target(*given, coming=model.coming)
        target = held_hot(target, model.override, model.hold, wall)
        model.target = with_sleepers(model, target, now)
        model.stays_for = known_for(model, says, now, wall)
        scaling = model.scaling
        if was and scaling and was.wanted != scaling.wanted and had.replicas != target.replicas:
            why = scaling.why or target.reason  # none of its load's: something else asks for them
            self._events.replicas_wanted(model.name, had.replicas, target.replicas, why)
        if model.retired:
            model.target = RETIRED

    def _look_at(self, model: Managed) -> None:
        """Wake who waits for `model`, and look at once at what it shall be."""
        self._wake(model)
        self._retarget(model)

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

    def replica_unproven(self, model: str, name: str, why: str) -> None:
        """Hear that an engine's weights are others than were verified: that is done first."""
        self.models[model].staged.verify_anew(why)

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

    def hold_hot(self, model: Managed, why: str) -> None:
        """Keep `model` hot though nobody asks for it, from this moment on."""
        model.hold = why
        self._changed.set()

    def _wake(self, model: Managed) -> None:
        self._waiting_room.look(model)
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

    def wants_prefix(self, model: str) -> bool:
        """Whether what a prompt begins with says to which replica of `model` it goes."""
        managed = self.models[model]
        return managed.terms.by_prefix and len(managed.replicas) > 1

    def take(self, model: str, prefix: int | None = None) -> ReplicaLease | None:
        """Return a place on a ready replica of `model`; None where there is none."""
        return self._waiting_room.take(self.models[model], prefix)

    async def acquire(self, model: str, ask: Ask = _NOTHING_KNOWN) -> ReplicaLease:
        """Return a place on a ready replica of `model`, once there is one.

        Raises `NotReadyError` and `QueueFullError`.
        """
        return await self._waiting_room.acquire(self.models[model], ask)

    def outlook(self, model: str, since: float) -> str:
        """Say what `model` is doing, to who waits for it since then (monotonic seconds)."""
        return self._waiting_room.outlook(self.models[model], since)

    def eta_s(self, model: str) -> float | None:
        """Seconds until `model` is ready; None where that isn't known."""
        return self._waiting_room.eta_s(self.models[model])

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

    # The end

    def begin_closing(self, reason: str) -> None:
        """Begin nothing more and refuse who waits; engines that are ready serve on."""
        self._closing = True
        self._waiting_room.close()
        for model in self.models.values():
            model.target = Target(Rung.COLD, 0, f"warmd is stopping: {reason}")
            model.held_up_by = None
            self._wake(model)

    async def close(self, reason: str, *, leave: float | None = None) -> None:
        """Drain and stop every engine, let all files go; return when nothing is left.

        `leave`: engines that are ready or asleep, and what is staged, are left to the next daemon,
        so many seconds from now at the most.
        """
        self.begin_closing(reason)
        for model in self.models.values():
            for replica in model.replicas:
                if leave is not None:
                    replica.begin_leaving(leave)
                else:
                    replica.begin_stop(reason)
        await self.shelf.clear(reason, leave=leave is not None)
        for model in list(self.models.values()):
            for replica in model.replicas:
                await replica.ended()
