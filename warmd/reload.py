"""What a changed config changes: pure, from the settings in force and the ones just read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from warmd.config import Difference, Settings, SleepMode, differences, quoted, quoted_key
from warmd.ladder import VramBy
from warmd.planner import Reservations

AT_THE_NEXT_START = ("host", "gateway", "control", "metrics", "history", "ram", "staging")
"""Tables that are read once: listeners and folders stay as they are while the daemon lives."""


class Effect(StrEnum):
    """What follows from a key that has changed."""

    ENGINE = "engine"
    NOW = "now"
    NAMES = "names"
    VERIFIED = "verified"
    ENGINE_START = "engine-start"
    DAEMON_START = "daemon-start"

    @property
    def words(self) -> str:
        """The end of the sentence that begins with the key."""
        return _WORDS[self]


_WORDS = {
    Effect.ENGINE: "an engine that runs is drained and made anew",
    Effect.NOW: "that holds from now on",
    Effect.NAMES: "the names hold from now on, their first requests from the engine's next start",
    Effect.VERIFIED: (
        "no weights are loaded from now on before they are verified: an engine that starts is "
        "called off, one that runs goes on"
    ),
    Effect.ENGINE_START: "that holds from the engine's next start on",
    Effect.DAEMON_START: "that holds from warmd's next start on",
}

MODEL_KEYS: Mapping[str, Effect] = {
    "weights": Effect.ENGINE,
    "args": Effect.ENGINE,
    "env": Effect.ENGINE,
    "aliases": Effect.ENGINE,
    "resting": Effect.NOW,
    "stage": Effect.NOW,
    "verify": Effect.VERIFIED,
    "replicas": Effect.NOW,
    "scale.min": Effect.NOW,
    "scale.max": Effect.NOW,
    "scale.waiting_above": Effect.NOW,
    "scale.for": Effect.NOW,
    "scale.cool_down": Effect.NOW,
    "idle.after": Effect.NOW,
    "idle.then": Effect.NOW,
    "idle.keep": Effect.NOW,
    "sleep.level": Effect.NOW,
    "sleep.timeout": Effect.NOW,
    "sleep.rehearse": Effect.NOW,
    "sleep.cycles": Effect.NOW,
    "sleep.growth": Effect.NOW,
    "sleep.slowest": Effect.NOW,
    "pool": Effect.NOW,
    "vram": Effect.ENGINE,
    "tensor_parallel": Effect.ENGINE,
    "pinned": Effect.NOW,
    "concurrency": Effect.NOW,
    "max_wait": Effect.NOW,
    "max_waiting": Effect.NOW,
    "affinity": Effect.NOW,
    "start_timeout": Effect.ENGINE_START,
    "timezone": Effect.NOW,
    "windows": Effect.NOW,
    "cron": Effect.NOW,
    "keepalive.every": Effect.NOW,
    "keepalive.prompt": Effect.NOW,
    "keepalive.max_tokens": Effect.NOW,
    "probe.at": Effect.NOW,
    "probe.idle": Effect.NOW,
    "warmup.prompt": Effect.ENGINE_START,
    "warmup.max_tokens": Effect.ENGINE_START,
    "warmup.kind": Effect.ENGINE_START,
    "warmup.temperature": Effect.ENGINE_START,
    "warmup.top_p": Effect.ENGINE_START,
    "warmup.seed": Effect.ENGINE_START,
    "warmup.response_format": Effect.ENGINE_START,
    "warmup.expect": Effect.ENGINE_START,
    "warmup.timeout": Effect.ENGINE_START,
    "warmup.adapters": Effect.NAMES,
}
"""Each key of a model. Those of `_MAKE_SLEEPERS` may make another engine of it all the same."""

SHARED_KEYS: Mapping[str, Effect] = {
    "engine.python": Effect.ENGINE,
    "engine.env": Effect.ENGINE,
    "engine.sleep": Effect.ENGINE,  # of those models alone that it puts to sleep, or no longer
    "engine.start_timeout": Effect.ENGINE_START,
    "engine.drain_timeout": Effect.NOW,
    "engine.stop_timeout": Effect.NOW,
    "engine.hang_after": Effect.NOW,
    "restart.give_up_after": Effect.NOW,
    "restart.max_delay": Effect.NOW,
    "restart.stable_after": Effect.NOW,
    "fairness.stay": Effect.NOW,
    "fairness.hold": Effect.NOW,
    "fairness.bound": Effect.NOW,
    "gpus.headroom": Effect.NOW,
    "gpus.tolerance": Effect.NOW,
    "pools": Effect.NOW,
    "calendars": Effect.NOW,
}
"""Each key that holds for several models."""

_MAKE_SLEEPERS = ("resting", "idle.then", "windows", "cron", "engine.sleep")
"""An engine that can be put to sleep is started in another way than one that can't."""


@dataclass(frozen=True)
class KeyChange:
    """A key that has changed: what it was and is (see `Difference`), and what follows."""

    key: str
    old: str | None
    new: str | None
    effect: Effect


@dataclass(frozen=True)
class Change:
    """What becomes of one model; `gone`: it is served no longer."""

    model: str
    sentence: str
    gone: bool = False
    keys: tuple[KeyChange, ...] = ()


def applicable(now: Settings, new: Settings) -> tuple[Settings, list[KeyChange]]:
    """Return `new` with the tables that wait for a restart as they are `now`, and their changes.

    What the holders of API keys may do is a part of them, and holds at once.
    """
    later = [
        KeyChange(each.key, each.old, each.new, _of_a_table(each.key))
        for name in AT_THE_NEXT_START
        for each in differences(getattr(now, name), getattr(new, name), f"{name}.")
    ]
    tables: dict[str, object] = {name: getattr(now, name) for name in AT_THE_NEXT_START}
    tables["gateway"] = now.gateway.model_copy(update={"keys": new.gateway.keys})
    return new.model_copy(update=tables), later


def _of_a_table(key: str) -> Effect:
    return Effect.NOW if key.startswith("gateway.keys.") else Effect.DAEMON_START


def said(keys: Iterable[KeyChange]) -> str:
    """Say in one sentence what follows from changed keys, the weightiest first."""
    listed = list(keys)
    clauses = []
    for effect in Effect:
        names = list(dict.fromkeys(each.key for each in listed if each.effect is effect))
        if names:
            have = "has" if len(names) == 1 else "have"
            clauses.append(f"{', '.join(names)} {have} changed: {effect.words}")
    return "; ".join(clauses)


def changes(
    now: Settings,
    new: Settings,
    was: Reservations,
    comes: Reservations,
    *,
    has_gpu: bool,
) -> Iterator[Change]:
    """Tell for each model what becomes of it; nothing for one that stays as it is.

    `was` and `comes` are what the two reserve: another model's key may move a model's GPUs.
    """
    for name in now.models:
        if name not in new.models:
            sentence = f"{name} is gone from the config: it is drained and stopped"
            yield Change(name, sentence, gone=True)
    shared = list(_shared(now, new))
    for name in new.models:
        if name not in now.models:
            yield Change(name, f"{name} is new")
            continue
        keys = tuple(_keys(now, new, name, shared, has_gpu=has_gpu))
        both = min(now.models[name].most_replicas, new.models[name].most_replicas)
        keys = tuple(_with_reservation(keys, was, comes, name, both))
        if keys:
            yield Change(name, f"{name}: {said(keys)}", keys=keys)


def _shared(now: Settings, new: Settings) -> Iterator[Difference]:
    tables = {key.partition(".")[0] for key in SHARED_KEYS}
    # Compared as whole settings: pools are a table of tables.
    for each in differences(now, new):
        if each.key.partition(".")[0] in tables:
            yield each


def _keys(
    now: Settings, new: Settings, name: str, shared: Iterable[Difference], *, has_gpu: bool
) -> Iterator[KeyChange]:
    was, will_be = _sleep(now, name, has_gpu=has_gpu), _sleep(new, name, has_gpu=has_gpu)
    for each in differences(now.models[name], new.models[name]):
        effect = _effect(each.key, MODEL_KEYS)
        support = each.key in _MAKE_SLEEPERS and was[0] is not will_be[0]
        if support or (each.key == "sleep.level" and was[1] != will_be[1]):
            effect = Effect.ENGINE
        yield KeyChange(each.key, each.old, each.new, effect)
    for each in shared:
        if each.key == "engine.sleep":
            if was[0] is not will_be[0]:
                yield KeyChange(each.key, each.old, each.new, Effect.ENGINE)
        elif _concerns(each.key, now, new, name):
            yield KeyChange(each.key, each.old, each.new, _effect(each.key, SHARED_KEYS))


def _with_reservation(
    keys: Iterable[KeyChange], was: Reservations, comes: Reservations, name: str, replicas: int
) -> Iterator[KeyChange]:
    """Tell of what is reserved as well, where no key of the model says it.

    An engine on other GPUs is another one, also where only others' keys have moved it.
    """
    moved = any(_moves(was.gpus_of(name, n), name, n, comes) for n in range(replicas))
    said_so = False
    for each in keys:
        places = moved and _places(each.key)
        said_so = said_so or places or each.effect is Effect.ENGINE
        yield replace(each, effect=Effect.ENGINE) if places else each
    had, has = was.models.get(name), comes.models.get(name)
    stated = had and has and had.by is has.by is VramBy.DECLARED
    old, new = (None if each is None else quoted(each.words) for each in (had, has))
    anew = moved or (had and had.vram) != (has and has.vram)
    if (anew and not said_so) or (old != new and not stated):
        yield KeyChange("reservation", old, new, Effect.ENGINE if anew else Effect.NOW)


def _moves(here: tuple[str, ...], model: str, index: int, comes: Reservations) -> bool:
    """Whether an engine that runs `here` can't go on: it may on any GPUs of its pool."""
    if here == comes.gpus_of(model, index):
        return False
    return not here or not set(here) <= set(comes.ground_of(model, index))


def _places(key: str) -> bool:
    return key in ("pool", "vram", "gpus.headroom") or key.startswith("pools.")


def _effect(key: str, table: Mapping[str, Effect]) -> Effect:
    """Look a key up; a table of free names, such as `env`, stands for all that is in it."""
    while key not in table:
        key = key.rpartition(".")[0]
    return table[key]


def _concerns(key: str, now: Settings, new: Settings, name: str) -> bool:
    """Whether a shared key says anything about the model `name`."""
    was, table = now.models[name], new.models[name]
    if key.startswith("pools."):
        pools = (f"pools.{quoted_key(pool)}" for pool in (was.pool, table.pool) if pool)
        return any(key == pool or key.startswith(f"{pool}.") for pool in pools)
    if key.startswith("calendars."):
        named = {day for each in (*was.windows, *table.windows) for day in each.dates + each.skip}
        calendars = (f"calendars.{quoted_key(day)}" for day in named)
        return any(key == each or key.startswith(f"{each}.") for each in calendars)
    if key.startswith("gpus."):
        return table.is_reserved_for
    if key.startswith("fairness."):
        return table.pool is not None
    return key != "engine.start_timeout" or table.start_timeout is None


def _sleep(settings: Settings, name: str, *, has_gpu: bool) -> tuple[SleepMode | None, int]:
    """Return how engines of a model sleep, None for those that can't, and how deeply."""
    if settings.cannot_sleep(name, has_gpu=has_gpu) is not None:
        return None, 1
    drill = settings.engine.sleep is SleepMode.DRILL
    return SleepMode.DRILL if drill else SleepMode.ON, settings.models[name].sleep.level
