"""From a model's tables to its terms: what its replicas are run with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from warmd.calendars import calendar_of
from warmd.config import AUTO, CPU_KV_SPACE, ScaleSettings, Settings, SleepMode, quoted_key
from warmd.devices import largest_node
from warmd.engine import (
    Binder,
    EngineError,
    EngineFlags,
    EngineHome,
    EngineRecipe,
    Reservation,
    SizingError,
    SleepSupport,
    UnprovenError,
    Vllm,
    engine_home,
    read_note,
    stable_path,
)
from warmd.engine.sizing import Estimate, Wanted, check_length, estimate, read_checkpoint
from warmd.ladder import FileKind, MeasuredParts, Place, VramBy, replica_name, set_key
from warmd.launch import clean_environment
from warmd.placing import Sized, config_error, reserve
from warmd.planner import Card, Figure, Reservations
from warmd.policy import BackOff, Hygiene, Scale, Wish
from warmd.replica import EngineRecord, Fit, Limits, SleepTerms
from warmd.staging import Proofs, StagingError, model_folder, published_copy, weight_files
from warmd.supervisor import FileTerms, SleepPolicy, Terms
from warmd.warmups import warmup_of

_ALLOWS_LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"

UNKNOWN_GPU = "a GPU whose driver doesn't answer"

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
        proofs: Proofs | None = None,
        own_user: bool = False,
    ) -> None:
        """`report` is told, in a sentence, of an engine's log that can't be written.

        `sizes` tells of earlier starts; `tell` is told of what is worth a line and no trouble.

        `own_user`: engines run as a user of their own.

        `device` names the kind of GPU that engines run on; None: there is none. `slots`: what
        replicas have already. `cards`: what pools may stand on; none where nobody can tell yet.
        What is `reserved`, which cards it must do `without`, and where engines are meanwhile
        (`stands`), is set by whoever makes it hold.
        """
        self._cards = tuple(cards)
        self.reserved = Reservations()
        self.without: frozenset[str] = frozenset()
        self.stands: Mapping[str, frozenset[str]] = {}
        self.has_gpu = device is not None
        self._device = device or "cpu"
        self._report = report
        self._sizes = sizes
        self.proofs = Proofs() if proofs is None else proofs
        self._tell = tell or report
        self._slots = dict(slots or {})
        self._own_user = own_user
        self._inherited = clean_environment(os.environ, own_user=own_user)

    @property
    def is_gpu_unknown(self) -> bool:
        """Whether there is a GPU that nobody could name yet."""
        return self._device == UNKNOWN_GPU

    @property
    def cards(self) -> tuple[Card, ...]:
        """What pools may stand on; none where nobody can tell yet."""
        return self._cards

    def use(self, device: str, cards: Sequence[Card]) -> None:
        """Fit for this kind of GPU, and reserve on these cards, from now on."""
        self.has_gpu, self._device, self._cards = True, device, tuple(cards)

    def found_again(self, keys: Collection[str]) -> None:
        """Hear that GPUs which were missing are back: at the next look at the config any pool's."""
        self._cards = tuple(
            replace(card, is_missing=card.is_missing and card.key not in keys)
            for card in self._cards
        )

    def reserve(self, settings: Settings) -> Reservations:
        """Say what `settings` reserve where; waits for the disk. Raises `ConfigError`.

        It holds once it is `reserved`.
        """
        found: dict[str, Figure] = {}
        absent, wrong = {}, {}
        for name, table in settings.models.items():
            had = self._figures_of_engines(settings, name)
            if table.vram is None and not self._cards and had:
                found[name] = had[0]  # what is left there nobody can tell while the driver is away
            if table.vram != AUTO:
                continue
            if not _is_there(table.weights):
                if had:
                    found[name] = had[0]
                else:
                    absent[name] = _unsized(name, table.weights)
                continue
            try:
                found[name] = self._figure(settings, name, had)
            except SizingError as error:
                wrong[f"models.{quoted_key(name)}.vram"] = f'"auto" can\'t be told: {error}'
        if wrong:
            raise config_error(settings, wrong)
        return reserve(settings, self._cards, Sized(found, absent))

    def _figure(self, settings: Settings, model: str, had: Iterable[Figure]) -> Figure:
        """Return what one engine takes; the same as it `had` where that rests on the same.

        A better figure is no reason to end an engine. Raises `SizingError`.
        """
        table = settings.models[model]
        checkpoint, wanted = read_checkpoint(table.weights), self._wanted(settings, model)
        bare = estimate(checkpoint, wanted)
        sums = (str(table.weights), str(table.concurrency), str(bare.on_each_gpu))
        basis = shlex.join((*sums, str(table.tensor_parallel), *table.args))
        for figure in had:
            if figure.basis == basis:
                return figure
        measured = self._sizes(model).get(self.sizes_key(settings, model))
        best = bare if measured is None else estimate(checkpoint, wanted, measured)
        if best.vram is None:
            raise SizingError(best.unknown or "a part of it is unknown: set `vram`")
        by = VramBy.ESTIMATED if best.version is None else VramBy.MEASURED
        return Figure(best.vram, by, basis)

    def _figures_of_engines(self, settings: Settings, model: str) -> list[Figure]:
        """Return what engines of `model` may run with: of this daemon, else of an earlier one."""
        holding = self.reserved.models.get(model)
        noted = [None if holding is None else holding.figure]
        for index in range(settings.models[model].most_replicas):
            if settings.host.engines_outlive_daemon:
                home = self._home(settings, replica_name(model, index))
                record = EngineRecord.found(read_note(home.note))
                if record is not None and record.may_go_on:
                    noted.append(record.figure)
        return [figure for each in noted if (figure := Figure.found(each)) is not None]

    def ahead(self) -> Fitter:
        """Return a fitter that gives the same fits; what it fits takes no slot of this one's."""
        device = self._device if self.has_gpu else None
        ahead = Fitter(
            self._report,
            device,
            self._slots,
            self._cards,
            sizes=self._sizes,
            tell=self._tell,
            proofs=self.proofs,
            own_user=self._own_user,
        )
        ahead.reserved, ahead.without, ahead.stands = self.reserved, self.without, self.stands
        return ahead

    def terms(self, settings: Settings, model: str) -> Terms:
        """Return what `settings` say of `model`."""
        table, holding = settings.models[model], self.reserved.models.get(model)
        return Terms(
            aliases=table.aliases,
            wish=self._wish(settings, model),
            max_wait=settings.max_wait(model),
            max_waiting=settings.max_waiting(model),
            by_prefix=table.by_prefix,
            files=self._files(settings, model),
            fits=tuple(self._fit(settings, model, index) for index in range(table.most_replicas)),
            sleep=self._sleep_policy(settings, model),
            pool=None if holding is None else holding.pool,
            vram=0 if holding is None else holding.vram,
            vram_by=VramBy.DECLARED if holding is None else holding.by,
            unsized=self._unknown(model) or self.reserved.unsized.get(model),
            pinned=table.pinned,
            adapters=table.warmup.adapters,
            sizes_key=self.sizes_key(settings, model),
        )

    def _files(self, settings: Settings, model: str) -> tuple[FileTerms, ...]:
        table, python = settings.models[model], settings.engine.python
        folder = settings.stage_folder / model if table.stage is Place.TMPFS else None
        weights = FileTerms(
            FileKind.WEIGHTS,
            model,
            table.weights,
            table.stage,
            folder,
            table.verify,
            EngineFlags.of(table.args).load_format,
        )
        return (
            FileTerms(FileKind.PROGRAM, str(python), python),
            weights,
            FileTerms(FileKind.CACHES, model, settings.host.cache_dir),
        )

    def _where(self, settings: Settings, model: str) -> Callable[[Path], Path] | None:
        """Return what says where an engine of `model` reads its weights; None: where they are."""
        table, folder = settings.models[model], settings.stage_folder / model
        if table.verify is None and table.stage is not Place.TMPFS:
            return None
        key, in_tmpfs = set_key(FileKind.WEIGHTS, model), table.stage is Place.TMPFS
        loads = EngineFlags.of(table.args).load_format

        def where(source: Path) -> Path:
            if table.verify is not None:
                try:
                    doubt = self.proofs.doubt(key, weight_files(source, loads).files)
                except StagingError as error:
                    raise EngineError(str(error)) from error
                if doubt is not None:
                    raise UnprovenError(doubt)
            return (published_copy(folder, source) if in_tmpfs else None) or source

        return where

    def _unknown(self, model: str) -> str | None:
        """Say why no engine is started yet: it would take any GPU, and as much as vLLM likes."""
        if not self.is_gpu_unknown:
            return None
        return (
            f"{model} can't be started: nobody can tell yet what GPUs there are, for the NVIDIA "
            "driver doesn't work: look at nvidia-smi and the kernel's log"
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

    def check(self, settings: Settings, reserved: Reservations, models: Collection[str]) -> None:
        """Raise `ConfigError` where engines of `models` surely can't live in what is `reserved`.

        Nor with the length of request that their args ask for. Waits for the disk; a model that
        can't be read is left to the engine.
        """
        problems = {}
        for name in settings.models.keys() & set(models):
            binder = self._binder(settings, reserved, name, 0, name)
            try:
                if binder is not None:
                    binder.check()
            except EngineError as error:
                problems[f"models.{quoted_key(name)}.vram"] = str(error)
            try:
                self._check_length(settings, name)
            except SizingError as error:
                problems[f"models.{quoted_key(name)}.args"] = str(error)
        if problems:
            raise config_error(settings, dict(sorted(problems.items())))

    @staticmethod
    def _check_length(settings: Settings, model: str) -> None:
        table = settings.models[model]
        config = None
        if not any(_ALLOWS_LONGER in env for env in (settings.engine.env, table.env)):
            with suppress(SizingError):  # vLLM will say what is wrong with it
                config = read_checkpoint(table.weights, headers=False).config
        check_length(table.args, config)

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
        space = {**settings.engine.env, **settings.models[model].env}.get(CPU_KV_SPACE)
        return space.get_secret_value() if space and not self.has_gpu else ""

    def _binder(
        self, settings: Settings, reserved: Reservations, model: str, index: int, replica: str
    ) -> Binder | None:
        table, holding = settings.models[model], reserved.models.get(model)
        cards = reserved.cards_of(model, index, self.without, self.stands)
        totals = [card.total for card in self._cards if card.key in cards]
        if holding is None or not totals:
            return None  # nothing is reserved, or nobody knows where
        card = max(totals) if self.has_gpu else largest_node()
        key = self.sizes_key(settings, model)
        return Binder(
            replica,
            Reservation(holding.vram, card, self.has_gpu),
            table.weights,
            self._wanted(settings, model),
            CPU_KV_SPACE if self._kv_space(settings, model) else None,
            told=lambda: self._sizes(model).get(key),
            tell=self._tell,
        )

    def _wish(self, settings: Settings, model: str) -> Wish:
        table = settings.models[model]
        return Wish(
            resting=table.resting,
            replicas=table.least_replicas,
            idle_after=table.idle.after,
            idle_then=table.idle.then,
            idle_keep=table.idle.keep,
            cannot_sleep=settings.cannot_sleep(model, has_gpu=self.has_gpu),
            calendar=calendar_of(settings, model),
            scale=_scale(table.scale) if table.scales else None,
            most=table.most_replicas,
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

    def _home(self, settings: Settings, replica: str) -> EngineHome:
        return engine_home(settings.host.run_dir, replica, is_shared=self._own_user)

    def _fit(self, settings: Settings, model: str, index: int) -> Fit:
        table, engine = settings.models[model], settings.engine
        name = replica_name(model, index)
        support = self._sleep_support(settings, model)
        holding = self.reserved.models.get(model)
        recipe = EngineRecipe(
            python=engine.python,
            model=model,
            weights=stable_path(settings.host.cache_dir, model),
            home=self._home(settings, name),
            cache_dir=settings.host.cache_dir,
            slot=self._slots.setdefault(name, len(self._slots)),
            aliases=table.aliases,
            args=table.args,
            engine_env=engine.env,
            model_env=table.env,
            sleep=support,
            gpus=self.reserved.gpus_of(model, index, self.without, self.stands),
            tensor_parallel=table.tensor_parallel,
            vram=None if holding is None else holding.vram,
            # Where it can't sleep, its level makes no other engine of it.
            sleep_level=1 if support is SleepSupport.NONE else table.sleep.level,
        )
        make = Vllm(
            name,
            recipe,
            warmup_of(settings, model),
            source=table.weights,
            inherited=self._inherited,
            report=self._report,
            binder=self._binder(settings, self.reserved, model, index, name),
            where=self._where(settings, model),
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
            cards=frozenset(self.reserved.cards_of(model, index, self.without, self.stands)),
            gpus=None if self.is_gpu_unknown else recipe.gpus,
            roams=frozenset(self.reserved.ground_of(model, index)),
            figure=None if holding is None else holding.figure,
            asks_queue=_asks_queue(table.scale) if table.scales else None,
        )


def _scale(table: ScaleSettings) -> Scale:
    return Scale(table.max, table.waiting_above, table.after, table.cool_down)


def _asks_queue(table: ScaleSettings) -> float:
    """How often an engine is asked: several times before its queue may count as too long."""
    return min(2.0, max(0.2, table.after / 4))


def _is_there(weights: Path) -> bool:
    try:
        return (model_folder(weights) / "config.json").exists()
    except StagingError:
        return False


def _unsized(model: str, weights: Path) -> str:
    return (
        f"{model} can't be started: its vram is \"auto\", and its files weren't at {weights} when "
        "the config was read; put them there or mount the disk, then `warmctl reload`"
    )
