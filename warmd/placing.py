"""From the config's pools to places on this host's GPUs, or why they can't be placed.

Where there is no NVIDIA GPU the host's memory is the one device, with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmd.config import ConfigError, Problem, Settings
from warmd.devices import HOST, Gpu, host_memory
from warmd.planner import Card, MisfitError, Placement, PoolWish, Tenant, place


def cards_of(gpus: Sequence[Gpu]) -> tuple[Card, ...]:
    """Return this host's devices: its GPUs, or its memory where there is none."""
    if gpus:
        return tuple(Card(gpu.uuid, gpu.index, gpu.name, gpu.total, gpu.slice) for gpu in gpus)
    return (Card(HOST, 0, "host memory", host_memory().total),)


def placement(settings: Settings, cards: Sequence[Card]) -> Placement:
    """Place every pool of `settings` on `cards`; raises `ConfigError` with a table."""
    try:
        return _placed(settings, cards)
    except MisfitError as misfit:
        file = settings.sources[0] if settings.sources else Path("the config")
        raise ConfigError([Problem(file, None, "pools", str(misfit))]) from None


def _placed(settings: Settings, cards: Sequence[Card]) -> Placement:
    wishes = [
        PoolWish(
            name,
            pool.vram,
            None if pool.gpus is None else tuple(_named(name, pool.gpus, cards)),
            tuple(_tenants(settings, name)),
        )
        for name, pool in settings.pools.items()
    ]
    return place(cards, wishes, settings.gpus.headroom)


def _tenants(settings: Settings, pool: str) -> Iterator[Tenant]:
    for name, table in settings.models.items():
        if table.pool == pool:
            yield Tenant(name, table.vram or 0, table.tensor_parallel, table.replicas)


def _named(pool: str, names: Sequence[int | str], cards: Sequence[Card]) -> Iterator[str]:
    """Find the cards that a pool names, by index or by (the beginning of) their UUID."""
    by_index: Mapping[int, Card] = {card.index: card for card in cards if card.slice is None}
    for name in names:
        if isinstance(name, int):
            found = [by_index[name]] if name in by_index else []
        else:
            found = [card for card in cards if card.key.startswith(name)]
        if len(found) != 1:
            there = ", ".join(f"{card.label.removeprefix('GPU ')} ({card.key})" for card in cards)
            how = "names several GPUs at once" if found else "is no GPU of this host"
            if any(card.index == name for card in cards):
                how = "is in MIG mode, and a slice is named by its UUID"
            raise MisfitError(f"pools.{pool}.gpus: {name!r} {how}; there are {there}")
        yield found[0].key


def replica_cards(
    settings: Settings, placed: Placement | None, model: str, index: int
) -> tuple[str, ...]:
    """Return the keys of the cards that the `index`-th engine of `model` uses; none: any."""
    table = settings.models[model]
    if placed is None or table.pool is None:
        return ()
    tenant = Tenant(model, table.vram or 0, table.tensor_parallel, table.replicas)
    return placed.cards_of(table.pool, tenant, index)
