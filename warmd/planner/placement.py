"""Which pool reserves what on which GPU: decided when the config is loaded, and the same each time.

A pool reserves the same VRAM on each of its GPUs. Pools that name their GPUs are placed first; the
others go where they fit best, the largest first. What doesn't fit is told as a table of who wants
what, and what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from warmd.spoken import count, size


@dataclass(frozen=True)
class Card:
    """One GPU, or the host's memory where there is none. `total` in bytes."""

    key: str  # what it is known by, whatever its place on the bus: its UUID
    index: int
    name: str
    total: int
    slice: int | None = None  # its number, where it is a slice of a GPU in MIG mode

    @property
    def place(self) -> tuple[int, int]:
        """Its place on the bus, to sort by."""
        return self.index, self.slice or 0

    @property
    def label(self) -> str:
        """What messages call it: `GPU 0`, or `GPU 0:1` for a slice."""
        return f"GPU {self.index}" if self.slice is None else f"GPU {self.index}:{self.slice}"


@dataclass(frozen=True)
class Tenant:
    """A model of a pool: each engine takes `vram` bytes on each of `cards` GPUs."""

    name: str
    vram: int
    cards: int = 1
    replicas: int = 1


@dataclass(frozen=True)
class PoolWish:
    """What a pool wants: `vram` bytes on each GPU; `cards` by key, None where any will do."""

    name: str
    vram: int
    cards: tuple[str, ...] | None
    tenants: tuple[Tenant, ...] = ()

    @property
    def width(self) -> int:
        """How many GPUs a pool needs that names none: as many as its widest engine."""
        return max((tenant.cards for tenant in self.tenants), default=1)


@dataclass(frozen=True)
class Placement:
    """Where each pool stands, by the keys of its cards, in their order."""

    pools: Mapping[str, tuple[str, ...]]

    def cards_of(self, pool: str, tenant: Tenant, replica: int) -> tuple[str, ...]:
        """Return the cards of the n-th engine of a model: engines are spread over the pool."""
        cards = self.pools[pool]
        first = replica * tenant.cards
        return tuple(sorted(cards[(first + n) % len(cards)] for n in range(tenant.cards)))


class MisfitError(Exception):
    """The pools don't fit on the GPUs, or the models in their pools. The text is a table."""


def place(cards: Sequence[Card], pools: Sequence[PoolWish], headroom: int) -> Placement:
    """Place every pool; `headroom` bytes stay free on every card. Raises `MisfitError`."""
    for pool in pools:
        _check_tenants(pool)
    free = {card.key: card.total - headroom for card in cards}
    placed: dict[str, tuple[str, ...]] = {}
    for pool in pools:
        if pool.cards is not None:
            placed[pool.name] = pool.cards
            for key in pool.cards:
                free[key] -= pool.vram
    reserved = {key for keys in placed.values() for key in keys}
    short = {key: -left for key, left in free.items() if left < 0 and key in reserved}
    if short:
        raise MisfitError(_table(cards, pools, placed, headroom, short))
    by_key = {card.key: card for card in cards}
    for pool in pools:
        _check_slices(pool, [by_key[key] for key in placed.get(pool.name, ())])
    for pool in sorted((p for p in pools if p.cards is None), key=lambda p: (-p.vram, p.name)):
        able = [key for key in free if pool.width == 1 or by_key[key].slice is None]
        fitting = sorted(
            (key for key in able if free[key] >= pool.vram),
            key=lambda key: (free[key], by_key[key].place),
        )
        chosen = fitting[: pool.width]
        if len(chosen) < pool.width:
            what = _nowhere(pool, sorted((free[key] for key in able), reverse=True))
            raise MisfitError("\n".join([what, *_lines(cards, pools, placed, headroom)]))
        chosen.sort(key=lambda key: by_key[key].place)
        placed[pool.name] = tuple(chosen)
        for key in chosen:
            free[key] -= pool.vram
    return Placement(placed)


def _check_tenants(pool: PoolWish) -> None:
    width = pool.width if pool.cards is None else len(pool.cards)
    for tenant in pool.tenants:
        if tenant.cards > width:
            raise MisfitError(
                f"{tenant.name} runs on {count(tenant.cards, 'GPU')} at once, and pool "
                f"{pool.name} has {width}"
            )
        if tenant.vram > pool.vram:
            raise MisfitError(
                f"{tenant.name} wants {size(tenant.vram)} on each GPU, and pool {pool.name} has "
                f"{size(pool.vram)}: {size(tenant.vram - pool.vram)} are missing"
            )
        # All engines of one model must be able to be hot together, spread over the pool's GPUs.
        most = -(-tenant.replicas * tenant.cards // width)
        if most * tenant.vram > pool.vram:
            raise MisfitError(
                f"{tenant.name} has {count(tenant.replicas, 'engine')}, so {most} of "
                f"{size(tenant.vram)} share a GPU of pool {pool.name}, which has "
                f"{size(pool.vram)} there"
            )


def _check_slices(pool: PoolWish, cards: Sequence[Card]) -> None:
    sliced = next((card for card in cards if card.slice is not None), None)
    wide = next((tenant for tenant in pool.tenants if tenant.cards > 1), None)
    if sliced is not None and wide is not None:
        raise MisfitError(
            f"{wide.name} runs on {count(wide.cards, 'GPU')} at once, and {sliced.label} of pool "
            f"{pool.name} is a MIG slice: CUDA lets a process use one slice only"
        )


def _nowhere(pool: PoolWish, free: Sequence[int]) -> str:
    """Say what a pool without a place lacks; `free` in bytes, the most first."""
    what = f"pool {pool.name} wants {size(pool.vram)} on {count(pool.width, 'GPU')}"
    if len(free) < pool.width:
        return f"{what}, and there are {len(free)}:"
    return f"{what}, and the best place lacks {size(pool.vram - free[pool.width - 1])}:"


def _table(
    cards: Sequence[Card],
    pools: Sequence[PoolWish],
    placed: Mapping[str, tuple[str, ...]],
    headroom: int,
    short: Mapping[str, int],
) -> str:
    worst = max(short, key=lambda key: short[key])
    card = next(card for card in cards if card.key == worst)
    table = "\n".join(_lines(cards, pools, placed, headroom))
    return f"the pools don't fit on {card.label}: {size(short[worst])} are missing:\n{table}"


def _lines(
    cards: Sequence[Card],
    pools: Sequence[PoolWish],
    placed: Mapping[str, tuple[str, ...]],
    headroom: int,
) -> Iterator[str]:
    for card in cards:
        here = [pool for pool in pools if card.key in placed.get(pool.name, ())]
        left = card.total - headroom - sum(pool.vram for pool in here)
        yield f"  {card.label} {card.name}: {size(card.total)}"
        for pool in here:
            yield f"    pool {pool.name}: {size(pool.vram)}"
        yield f"    headroom: {size(headroom)}"
        yield f"    missing: {size(-left)}" if left < 0 else f"    left: {size(left)}"
