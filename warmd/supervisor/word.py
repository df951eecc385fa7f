"""An operator's word on a model: what it comes to, how long it holds, or why it can't be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from warmd.ladder import Rung
from warmd.planner import Scene
from warmd.policy import Override
from warmd.spoken import count, duration
from warmd.supervisor.events import Clock, Events
from warmd.supervisor.held_up import held_up
from warmd.supervisor.model import Managed


class Word:
    """Hears what operators say of models, and sets their overrides."""

    def __init__(
        self,
        clock: Clock,
        models: Mapping[str, Managed],
        events: Events,
        scene: Callable[[], Scene],
        look: Callable[[Managed], None],
    ) -> None:
        """`models` are those of the supervisor; `scene` returns what a plan would be made of now.

        `look` looks at once at what a model shall be.
        """
        self._clock = clock
        self._models = models
        self._events = events
        self._scene = scene
        self._look = look

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
        model = self._models[name]
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
        model = self._models[name]
        for staged in model.sets.values():
            staged.forgive()
        self._look(model)

    def expire(self, model: Managed, wall: float) -> None:
        """Give `model` back to its policy where what was set is over at `wall` (Unix seconds)."""
        if model.override is not None and not model.override.holds_at(wall):
            self._set_override(model, None, "the time that an operator set is over")

    def _set_override(self, model: Managed, override: Override | None, reason: str) -> None:
        was = model.override
        if was != override:
            if was is not None and was.refuses and not any(r.goes_on for r in model.replicas):
                model.aside = was.rung
            if override is not None and override.refuses:
                model.promised = None
            if override is not None and override.rung is Rung.HOT:
                model.aside = None
            model.override = override
            self._events.override_changed(model.name, override, reason)


def word_on(
    model: Managed,
    rung: Rung | None,
    for_s: float | None,
    wall: float,
    *,
    floor: bool = False,
    replicas: int | None = None,
) -> tuple[Override | None, str]:
    """Return what holds from `wall` on (Unix seconds), for `for_s` seconds, and say it.

    Raises `ValueError` for a model that can't sleep, or that has no place for so many replicas.
    """
    name, most = model.name, len(model.terms.fits)
    if rung is Rung.ASLEEP and model.terms.wish.cannot_sleep is not None:
        raise ValueError(f"{name} can't be put to sleep: {model.terms.wish.cannot_sleep}")
    if replicas is not None and replicas > most:
        raise ValueError(
            f"{name} can't have {count(replicas, 'replica')}: its config has a place for {most}; "
            "raise its `replicas`, or `scale.max`, then `warmctl reload`"
        )
    if rung is None:
        ever = "already" if model.override is None else "again"
        return None, f"{name} follows its own policy {ever}"
    override = Override(rung, None if for_s is None else wall + for_s, floor, replicas)
    how_long = "until it is set otherwise" if for_s is None else f"for {duration(for_s)}"
    many = "" if replicas is None else f"with {count(replicas, 'replica')} "
    return override, f"{name} is to be {'at least ' if floor else ''}{rung} {many}{how_long}"
