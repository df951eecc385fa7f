"""From a model's tables to its terms: what its replicas are run with."""

from __future__ import annotations

import os
from collections.abc import Callable

from warmd.config import Settings
from warmd.engine import EngineRecipe, Vllm, WarmupSpec, engine_home, stable_path
from warmd.ladder import replica_name
from warmd.launch import clean_environment
from warmd.policy import BackOff, Wish
from warmd.replica import Fit, Limits
from warmd.supervisor import Terms


class Fitter:
    """Fits replicas to the settings; a replica keeps its slot for as long as the daemon lives."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """`report` is told, in a sentence, of an engine's log that can't be written."""
        self._report = report
        self._slots: dict[str, int] = {}
        self._inherited = clean_environment(os.environ)

    def terms(self, settings: Settings, model: str) -> Terms:
        """Return what `settings` say of `model`."""
        table = settings.models[model]
        return Terms(
            aliases=table.aliases,
            wish=Wish(table.resting, table.replicas, table.idle.after),
            max_wait=settings.max_wait(model),
            weights=table.weights,
            fits=tuple(self._fit(settings, model, index) for index in range(table.replicas)),
        )

    def _fit(self, settings: Settings, model: str, index: int) -> Fit:
        table, engine = settings.models[model], settings.engine
        name = replica_name(model, index)
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
        )
        warmup = table.warmup
        question = WarmupSpec(model, warmup.prompt, warmup.max_tokens, warmup.kind, warmup.timeout)
        make = Vllm(
            name,
            recipe,
            question,
            source=table.weights,
            inherited=self._inherited,
            report=self._report,
        )
        limits = Limits(
            start=settings.start_timeout(model),
            drain=engine.drain_timeout,
            stop=engine.stop_timeout,
            hang=engine.hang_after,
        )
        restart = settings.restart
        back_off = BackOff(restart.give_up_after, restart.max_delay, restart.stable_after)
        return Fit((recipe, table.weights), make, limits, back_off)
