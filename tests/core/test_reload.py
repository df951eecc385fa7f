"""What a changed config changes: each key, held against what engines are really run with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from warmd.config import GatewaySettings, ModelSettings, Settings
from warmd.config.table import keys_of
from warmd.fitting import Fitter
from warmd.planner import Card
from warmd.reload import (
    MODEL_KEYS,
    SHARED_KEYS,
    Change,
    Effect,
    applicable,
    changes,
    said,
)
from warmd.supervisor import Terms

WINDOW = {"from": "08:00", "to": "18:00", "except": ["free"]}
MODEL: dict[str, Any] = {"weights": "/a", "pool": "p", "vram": "1GiB", "windows": [WINDOW]}


def settings(a: dict[str, Any] | None = None, **tables: Any) -> Settings:
    models = {"a": MODEL | (a or {}), "b": {"weights": "/b", "idle": {"then": "cold"}}}
    whole: dict[str, Any] = {"engine": {"python": "/p", "sleep": "on"}, "models": models}
    whole["pools"] = {"p": {"vram": "9GiB"}, "q": {"vram": "9GiB", "gpus": [1]}}
    whole["calendars"] = {"free": {"dates": ["2026-12-25"]}}
    return Settings.model_validate(whole | tables)


CARDS = tuple(Card(f"GPU-{n}", n, "H200", 140 * 2**30) for n in range(3))


def found(
    new: Settings, *, now: Settings | None = None, gpu: bool = True, cards: Sequence[Card] = ()
) -> list[Change]:
    fitter, now = Fitter(pytest.fail, "H200" if gpu else None, cards=cards), now or settings()
    was = fitter.reserved = fitter.reserve(now)
    return list(changes(now, new, was, fitter.reserve(new), has_gpu=gpu))


def terms(fitter: Fitter, settings: Settings) -> Terms:
    fitter.reserved = fitter.reserve(settings)
    return fitter.terms(settings, "a")


def test_nothing_changed_changes_nothing() -> None:
    assert found(settings()) == []


# Each key with another value than it has in `settings`; a key that is missing here fails below.
OTHER: dict[str, Any] = {
    "weights": "/other",
    "args": ["--x"],
    "env": {"X": "1"},
    "aliases": ["y"],
    "resting": "hot",
    "stage": "tmpfs",
    "verify": "SHA256SUMS",
    "replicas": 2,
    "scale.min": 2,
    "scale.max": 3,
    "scale.waiting_above": 9,
    "scale.for": "9s",
    "scale.cool_down": "9s",
    "idle.after": "9s",
    "idle.then": "staged",
    "idle.keep": "9s",
    "sleep.level": 2,
    "sleep.timeout": "9s",
    "sleep.rehearse": False,
    "sleep.cycles": 9,
    "sleep.growth": "1GiB",
    "sleep.slowest": "9%",
    "pool": "q",
    "vram": "2GiB",
    "tensor_parallel": 2,
    "pinned": True,
    "concurrency": 9,
    "max_wait": "9s",
    "max_waiting": 9,
    "affinity": "prefix",
    "start_timeout": "9s",
    "keepalive.every": "9s",
    "keepalive.prompt": "x",
    "keepalive.max_tokens": 9,
    "probe.at": "0 3 * * *",
    "probe.idle": ["9s"],
    "warmup.prompt": "x",
    "warmup.max_tokens": 9,
    "warmup.kind": "chat",
    "warmup.temperature": 0.5,
    "warmup.top_p": 0.5,
    "warmup.seed": 9,
    "warmup.response_format": "json",
    "warmup.expect": "x",
    "warmup.timeout": "9s",
    "warmup.adapters": ["lora"],
    "engine.python": "/other",
    "engine.env": {"X": "1"},
    "engine.sleep": "off",
    "engine.start_timeout": "9s",
    "engine.drain_timeout": "9s",
    "engine.stop_timeout": "9s",
    "engine.hang_after": "9s",
    "restart.give_up_after": 9,
    "restart.max_delay": "9s",
    "restart.stable_after": "9s",
    "fairness.stay": 9.0,
    "fairness.hold": "9s",
    "fairness.bound": "9s",
    "gpus.headroom": "9GiB",
    "pools": {"p": {"vram": "8GiB"}},
    "gpus.tolerance": "9GiB",
    "timezone": "UTC",
    "windows": [{"from": "09:00", "to": "18:00"}],
    "cron": [{"at": "0 9 * * *", "rung": "hot"}],
    "calendars": {"free": {"dates": ["2026-12-26"]}},
}


def keys(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, kind in keys_of(table).items():  # type: ignore[arg-type]  # every table is a Table
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def shared_keys() -> Iterator[str]:
    for key in ("engine", "restart", "fairness", "gpus"):
        yield from keys(type(getattr(Settings(), key)), f"{key}.")
    yield "pools"
    yield "calendars"


def nested(path: str, value: object) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[return-value]  # a path has at least one key


def with_other(key: str) -> Settings:
    if key not in SHARED_KEYS:
        return settings(nested(key, OTHER[key]))
    name, _, _ = key.partition(".")
    base: dict[str, Any] = {"engine": {"python": "/p", "sleep": "on"}}
    if key == "pools":
        return settings(pools=OTHER[key])
    return settings(**{name: base.get(name, {}) | nested(key, OTHER[key])[name]})


def test_every_key_has_its_effect_written_down() -> None:
    assert set(MODEL_KEYS) == set(keys(ModelSettings))
    assert set(SHARED_KEYS) == set(shared_keys())
    assert set(OTHER) == {*MODEL_KEYS, *SHARED_KEYS}


def live(terms: Terms) -> Terms:
    """The terms without what only a start reads."""
    fits = (replace(f, make=None, limits=replace(f.limits, start=0)) for f in terms.fits)  # type: ignore[arg-type]  # left out
    return replace(terms, fits=tuple(fits))


@pytest.mark.parametrize(("gpu", "cards"), [(True, ()), (True, CARDS), (False, ())])
@pytest.mark.parametrize("key", OTHER)
def test_the_effect_of_a_key_is_what_engines_are_really_run_with(
    key: str, cards: Sequence[Card], *, gpu: bool
) -> None:
    fitter = Fitter(pytest.fail, "H200" if gpu else None, cards=cards)
    now, new = settings(), with_other(key)
    [change] = [each for each in found(new, gpu=gpu, cards=cards) if each.model == "a"]
    effects = {each.effect for each in change.keys}
    was, comes = terms(fitter, now), terms(fitter, new)
    question = [fit.make._question for fit in (was.fits[0], comes.fits[0])]  # type: ignore[attr-defined]  # a Vllm
    at_start = question[0] != question[1] or was.fits[0].limits.start != comes.fits[0].limits.start
    if not was.fits[0].is_kept_under(comes.fits[0]):
        assert effects == {Effect.ENGINE}
    elif at_start:
        also_now = live(was) != live(comes)
        assert effects == {Effect.NAMES if also_now else Effect.ENGINE_START}
    else:
        assert effects == {Effect.VERIFIED if key == "verify" else Effect.NOW}


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("new_mode", ["auto", "on", "off", "drill"])
@pytest.mark.parametrize("mode", ["auto", "on", "off", "drill"])
@pytest.mark.parametrize("then", ["asleep", "cold"])
def test_how_engines_sleep_makes_other_engines_only_where_it_does(
    mode: str, new_mode: str, then: str, *, gpu: bool
) -> None:
    fitter = Fitter(pytest.fail, "H200" if gpu else None)
    now = settings(engine={"python": "/p", "sleep": mode})
    model = {"idle": {"then": then}, "sleep": {"level": 2}}
    new = settings(model, engine={"python": "/p", "sleep": new_mode})
    told = [
        k.effect for each in found(new, now=now, gpu=gpu) if each.model == "a" for k in each.keys
    ]
    was, comes = (terms(fitter, which).fits[0] for which in (now, new))
    assert (Effect.ENGINE in told) is not was.is_kept_under(comes)


def test_an_engine_of_another_level_of_sleep_is_not_taken_over() -> None:
    fitter = Fitter(pytest.fail, "H200")
    tables: tuple[dict[str, Any], ...] = ({}, {"sleep": {"level": 2}}, {"sleep": {"slowest": "1%"}})
    one, other, same = (terms(fitter, settings(t)).fits[0].make.fingerprint() for t in tables)
    assert one != other
    assert one == same


def test_what_a_sleep_took_holds_for_engines_of_one_make() -> None:
    fitter = Fitter(pytest.fail, "H200")
    keys = set()
    others: tuple[dict[str, Any], ...] = ({}, {"args": ["--x"]}, {"tensor_parallel": 2})
    for table in (*others, {"sleep": {"level": 2}}, {"max_wait": "9s"}):
        sleep = terms(fitter, settings(table)).sleep
        assert sleep is not None
        keys.add(sleep.key)
    assert len(keys) == 4, "how long a request may wait is no matter"


def test_a_reload_says_what_follows_key_by_key() -> None:
    new = settings({"args": ["--x"], "resting": "hot", "start_timeout": "9s"})
    [change] = found(new)
    assert change.sentence == (
        "a: args has changed: an engine that runs is drained and made anew; resting has changed: "
        "that holds from now on; start_timeout has changed: that holds from the engine's next "
        "start on"
    )


def test_models_come_and_go() -> None:
    models = {"b": settings().models["b"], "c": ModelSettings.model_validate({"weights": "/c"})}
    new = settings().model_copy(update={"models": models})
    assert [change.sentence for change in found(new)] == [
        "a is gone from the config: it is drained and stopped",
        "c is new",
    ]


def test_another_python_is_another_engine_for_all() -> None:
    assert len(found(settings(engine={"python": "/other", "sleep": "on"}))) == 2


def test_a_pool_and_its_rules_concern_its_own_models_alone() -> None:
    pools = {"p": {"vram": "8GiB"}, "q": {"vram": "9GiB", "gpus": [1]}}
    for new in (settings(fairness={"bound": "9s"}), settings(pools=pools)):
        assert [change.model for change in found(new)] == ["a"]


def test_no_secret_is_ever_shown() -> None:
    now, new = settings({"env": {"T": "old-one"}}), settings({"env": {"T": "new-one", "U": "u-u"}})
    [change] = found(new, now=now)
    assert [(k.key, k.old, k.new) for k in change.keys] == [
        ("env.T", '"********"', '"********"'),
        ("env.U", None, '"********"'),
    ]


def test_what_is_read_once_waits_for_the_next_start() -> None:
    new = settings(gateway=GatewaySettings.model_validate({"max_wait": "5s"}))
    kept, later = applicable(settings(), new)
    assert kept.gateway == settings().gateway
    assert [(k.key, k.old, k.new) for k in later] == [("gateway.max_wait", '"3m"', '"5s"')]
    assert said(later) == "gateway.max_wait has changed: that holds from warmd's next start on"


def test_what_the_holder_of_a_key_may_do_holds_at_once() -> None:
    limited = {"max_wait": "5s", "keys": {"al ice": {"in_flight": 2}}}
    new = settings(gateway=GatewaySettings.model_validate(limited))
    kept, told = applicable(settings(), new)
    assert kept.gateway.keys == new.gateway.keys
    assert kept.gateway.max_wait == settings().gateway.max_wait
    assert said(told) == (
        'gateway.keys."al ice" has changed: that holds from now on; '
        "gateway.max_wait has changed: that holds from warmd's next start on"
    )
