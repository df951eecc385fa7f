"""What a changed config changes: pure, from the settings in force and the ones just read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from warmd.config import Settings
from warmd.ladder import Rung

AT_THE_NEXT_START = ("host", "gateway", "control", "metrics", "history", "ram")
"""Tables that are read once: listeners and folders stay as they are while the daemon lives."""


@dataclass(frozen=True)
class Change:
    """What becomes of one model; `gone`: it is served no longer."""

    model: str
    sentence: str
    gone: bool = False


def applicable(now: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Return `new` with the tables that wait for a restart as they are `now`, and say which."""
    changed = [name for name in AT_THE_NEXT_START if getattr(now, name) != getattr(new, name)]
    kept = new.model_copy(update={name: getattr(now, name) for name in AT_THE_NEXT_START})
    return kept, [f"[{name}] has changed: that holds from the next start on" for name in changed]


def changes(now: Settings, new: Settings) -> Iterator[Change]:
    """Tell for each model what becomes of it; nothing for one that stays as it is."""
    for name in now.models.keys() - new.models.keys():
        yield Change(name, f"{name} is gone from the config: it is drained and stopped", gone=True)
    engine_changed = _engine(now) != _engine(new)
    rules_changed = (now.fairness, now.pools) != (new.fairness, new.pools)
    limits_changed = rules_changed or (now.engine, now.restart) != (new.engine, new.restart)
    for name, table in new.models.items():
        if name not in now.models:
            yield Change(name, f"{name} is new")
        elif engine_changed or _engine_of(now, name) != _engine_of(new, name):
            sentence = f"{name} has other engine settings: its engine is drained and made anew"
            yield Change(name, sentence)
        elif table != now.models[name] or limits_changed:
            yield Change(
                name,
                f"{name} has other settings: they hold from now on, or its next start",
            )


def _engine(settings: Settings) -> object:
    return settings.engine.interpreter, settings.engine.env, settings.engine.sleep


def _engine_of(settings: Settings, name: str) -> object:
    table = settings.models[name]
    may_sleep = Rung.ASLEEP in (table.resting, table.idle.then)
    return table.weights, table.args, table.env, table.aliases, may_sleep
