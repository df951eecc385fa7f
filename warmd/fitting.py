"""From a model's tables to its terms: what its replicas are run with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from warmd.config import ConfigError, Problem, Settings, SleepMode
from warmd.devices import HOST, largest_node
from warmd.engine import (
    Binder,
    EngineError,
    EngineRecipe,
    Reservation,
    SleepSupport,
    Vllm,
    WarmupSpec,
    engine_home,
    stable_path,
)
from warmd.engine.sizing import Estimate, Wanted, estimate, read_checkpoint
from warmd.ladder import MeasuredParts, replica_name
from warmd.launch import clean_environment
from warmd.placing import placement, replica_cards
from warmd.planner import Card, Placement
from warmd.policy import BackOff, Hygiene, Wish
from warmd.reload import Move
from warmd.replica import Fit, Limits, SleepTerms
from warmd.supervisor import SleepPolicy, Terms

UNKNOWN_GPU = "a GPU whose driver doesn't answer"

_KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"

Sizes = Callable[[str], Mapping[str, MeasuredParts]]
"""What earlier starts of a model told, by `Fitter.sizes_key`; waits for the disk."""


def no_sizes(_: str) -> Mapping[str, MeasuredParts]:
    """Know of no start."""
    return {}


class Fitter:
    """Fits replicas to the settings; a replica keeps its slot for as long as the daemon lives."""

    def __init__(
        self,
        report: Callable[[str], None],
        device: str | None,
        slots: Mapping[str, int] | None = None,
        cards: Sequence[Card] = (),
        *,
        sizes: Sizes = no_sizes,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`report` is told, in a sentence, of an engine's log that can't be written.

        `tell` of what is worth a line and no trouble.

        `device` names the kind of GPU that engines run on; None: there is none. `slots`: what
        replicas have already. `cards`: what pools may stand on; none where nobody can tell yet.
        """
        self._cards = tuple(cards)
        self._placed: Placement | None = None
        self.has_gpu = device is not None
        self._device = device or "cpu"
        self._report = report
        self._sizes = sizes
        self._tell = tell or report
        self._slots = dict(slots or {})
        self._inherited = clean_environment(os.environ)

    @property
    def is_gpu_unknown(self) -> bool:
        """Whether there is a GPU that nobody could name yet."""
        return self._device == UNKNOWN_GPU

    @property
    def cards(self) -> tuple[Card, ...]:
        """What pools may stand on; none where nobody can tell yet."""
        return self._cards

    def use(self, device: str, cards: Sequence[Card]) -> None:
        """Fit for this kind of GPU, and place pools on these cards, from now on."""
        self.has_gpu, self._device, self._cards = True, device, tuple(cards)

    def place(self, settings: Settings) -> None:
        """Give the pools of `settings` their cards; raises `ConfigError` with a table."""
        self._placed = placement(settings, self._cards) if self._cards else None

    def ahead(self) -> Fitter:
        """Return a fitter that gives the same fits; what it fits takes no slot of this one's."""
        device = self._device if self.has_gpu else None
        return Fitter(
            self._report, device, self._slots, self._cards, sizes=self._sizes, tell=self._tell
        )

    def moved(self, now: Settings, new: Settings, ahead: Fitter) -> dict[str, Move]:
        """Tell of each model whose engines stand on other GPUs by `ahead` than by this one.

        Pools that name no GPUs may have to make room for others that have changed.
        """
        moves = {}
        for model in now.models.keys() & new.models.keys():
            both = range(min(now.models[model].replicas, new.models[model].replicas))
            if any(self._gpus(now, model, n) != ahead._gpus(new, model, n) for n in both):
                moves[model] = self._gpus_of_pool(now, model), ahead._gpus_of_pool(new, model)
        return moves

    def _gpus(self, settings: Settings, model: str, index: int) -> tuple[str, ...]:
        cards = replica_cards(settings, self._placed, model, index)
        return tuple(card for card in cards if card != HOST)

    def _gpus_of_pool(self, settings: Settings, model: str) -> tuple[str, ...]:
        pool = settings.models[model].pool
        return () if self._placed is None or pool is None else self._placed.pools[pool]

    def terms(self, settings: Settings, model: str) -> Terms:
        """Return what `settings` say of `model`."""
        table = settings.models[model]
        return Terms(
            aliases=table.aliases,
            wish=self._wish(settings, model),
            max_wait=settings.max_wait(model),
            weights=table.weights,
            fits=tuple(self._fit(settings, model, index) for index in range(table.replicas)),
            sleep=self._sleep_policy(settings, model),
            pool=table.pool,
            vram=table.vram or 0,
            pinned=table.pinned,
            adapters=table.warmup.adapters,
            sizes_key=self.sizes_key(settings, model),
        )

    def sizes_key(self, settings: Settings, model: str) -> str:
        """Name what the sizes that a start of `model` tells hold for: its args on these GPUs."""
        table = settings.models[model]
        width = str(table.tensor_parallel)
        return shlex.join((self._device, width, str(table.weights), *table.args))

    def size(self, settings: Settings, model: str) -> Estimate:
        """Say what one engine of `model` takes; waits for the disk. Raises `SizingError`."""
        measured = self._sizes(model).get(self.sizes_key(settings, model))
        table = settings.models[model]
        return estimate(read_checkpoint(table.weights), self._wanted(settings, model), measured)

    def check(self, settings: Settings, models: Collection[str]) -> None:
        """Raise `ConfigError` where engines of `models` surely can't live in their vram.

        Waits for the disk; a model that can't be read is left to the engine.
        """
        file = settings.sources[0] if settings.sources else Path("the config")
        problems = []
        for name in settings.models.keys() & set(models):
            binder = self._binder(settings, name, name, [card.key for card in self._cards])
            try:
                if binder is not None:
                    binder.check()
            except EngineError as error:
                problems.append(Problem(file, None, f"models.{name}.vram", str(error)))
        if problems:
            raise ConfigError(sorted(problems, key=lambda problem: problem.path))

    def _wanted(self, settings: Settings, model: str) -> Wanted:
        table = settings.models[model]
        gib = self._kv_space(settings, model)
        return Wanted(
            args=table.args,
            tensor_parallel=table.tensor_parallel,
            concurrency=table.concurrency,
            kv_cache=int(gib) * 2**30 if gib.isdecimal() else None,
            gpu=self.has_gpu,
        )

    def _kv_space(self, settings: Settings, model: str) -> str:
        """Return what the user sets for vLLM's KV cache on a CPU, in GiB; empty where nothing."""
        space = {**settings.engine.env, **settings.models[model].env}.get(_KV_SPACE)
        return space.get_secret_value() if space and not self.has_gpu else ""

    def _binder(
        self, settings: Settings, model: str, replica: str, cards: Collection[str]
    ) -> Binder | None:
        table = settings.models[model]
        totals = [card.total for card in self._cards if card.key in cards]
        if table.vram is None or not totals:
            return None  # nothing is reserved, or nobody knows where
        card = max(totals) if self.has_gpu else largest_node()
        key = self.sizes_key(settings, model)
        return Binder(
            replica,
            Reservation(table.vram, card, self.has_gpu),
            table.weights,
            self._wanted(settings, model),
            _KV_SPACE if self._kv_space(settings, model) else None,
            told=lambda: self._sizes(model).get(key),
            tell=self._tell,
        )

    def _wish(self, settings: Settings, model: str) -> Wish:
        table = settings.models[model]
        return Wish(
            resting=table.resting,
            replicas=table.replicas,
            idle_after=table.idle.after,
            idle_then=table.idle.then,
            idle_keep=table.idle.keep,
            cannot_sleep=settings.cannot_sleep(model, has_gpu=self.has_gpu),
        )

    def _sleep_support(self, settings: Settings, model: str) -> SleepSupport:
        if settings.cannot_sleep(model, has_gpu=self.has_gpu) is not None:
            return SleepSupport.NONE
        drill = settings.engine.sleep is SleepMode.DRILL
        return SleepSupport.DRILL if drill else SleepSupport.REAL

    def _sleep_policy(self, settings: Settings, model: str) -> SleepPolicy | None:
        if settings.cannot_sleep(model, has_gpu=self.has_gpu) is not None:
            return None
        table = settings.models[model]
        level, width = f"L{table.sleep.level}", str(table.tensor_parallel)
        return SleepPolicy(
            level=table.sleep.level,
            hygiene=Hygiene(table.sleep.cycles, table.sleep.growth),
            rehearse=table.sleep.rehearse,
            key=shlex.join((self._device, level, width, str(table.weights), *table.args)),
        )

    def _fit(self, settings: Settings, model: str, index: int) -> Fit:
        table, engine = settings.models[model], settings.engine
        name = replica_name(model, index)
        support = self._sleep_support(settings, model)
        cards = replica_cards(settings, self._placed, model, index)
        recipe = EngineRecipe(
            python=engine.python,
            model=model,
            weights=stable_path(settings.host.cache_dir, model),
            home=engine_home(settings.host.run_dir, name),
            cache_dir=settings.host.cache_dir,
            slot=self._slots.setdefault(name, len(self._slots)),
            aliases=table.aliases,
            args=table.args,
            engine_env=engine.env,
            model_env=table.env,
            sleep=support,
            gpus=self._gpus(settings, model, index),
            tensor_parallel=table.tensor_parallel,
            vram=table.vram,
            # Where it can't sleep, its level makes no other engine of it.
            sleep_level=1 if support is SleepSupport.NONE else table.sleep.level,
        )
        warmup = table.warmup
        question = WarmupSpec(
            model,
            warmup.prompt,
            warmup.max_tokens,
            warmup.kind,
            warmup.timeout,
            adapters=warmup.adapters,
        )
        make = Vllm(
            name,
            recipe,
            question,
            source=table.weights,
            inherited=self._inherited,
            report=self._report,
            binder=self._binder(settings, model, name, cards),
        )
        limits = Limits(
            start=settings.start_timeout(model),
            drain=engine.drain_timeout,
            stop=engine.stop_timeout,
            hang=engine.hang_after,
            sleep=table.sleep.timeout,
        )
        restart = settings.restart
        back_off = BackOff(restart.give_up_after, restart.max_delay, restart.stable_after)
        frees = support is SleepSupport.REAL
        sleep = SleepTerms(table.sleep.level, table.sleep.slowest, frees)
        return Fit(
            (replace(recipe, gpus=()), table.weights),
            make,
            limits,
            back_off,
            sleep=None if support is SleepSupport.NONE else sleep,
            outlives=settings.host.engines_outlive_daemon,
            cards=frozenset(cards),
            gpus=None if self.is_gpu_unknown else recipe.gpus,
        )
