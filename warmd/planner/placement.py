"""Which pool reserves what on which GPU: decided when the config is loaded, and the same each time.

A pool reserves the same VRAM on each of its GPUs. Pools that name their GPUs are placed first; the
others go where they fit best, the largest first. Last come the models that say nothing of what they
take: each has a pool of its own of all that is left on the emptiest GPUs. What doesn't fit is told
as a table of who wants what, and what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from warmd.planner.pools import Card, OwnPool, PoolWish, Tenant
from warmd.spoken import count, size

_WHOLE = 0.92
"""Of a GPU's memory, what a model may take that has it whole: vLLM's own default.

Nobody has asked for more, and desktops and monitors that hold a little don't stand in the way.
"""


@dataclass(frozen=True)
class Placement:
    """Where each pool stands, by the keys of its cards in their order, and its VRAM on each.

    `vram` are bytes; `left` is what a model that said nothing of its size may take, by model;
    `lines` say all of it, GPU by GPU.
    """

    pools: Mapping[str, tuple[str, ...]]
    vram: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def cards_of(self, pool: str, tenant: Tenant, replica: int) -> tuple[str, ...]:
        """Return the cards of the n-th engine of a model: engines are spread over the pool."""
        cards = self.pools[pool]
        first = replica * tenant.cards
        return tuple(sorted(cards[(first + n) % len(cards)] for n in range(tenant.cards)))

    def room_for(self, pool: str, tenant: Tenant) -> int:
        """Return how many engines of a model have room together where its pool stands."""
        on, room = dict.fromkeys(self.pools[pool], 0), 0
        while room < max(tenant.replicas, tenant.most):
            for key in self.cards_of(pool, tenant, room):
                on[key] += tenant.vram
            if max(on.values()) > self.vram[pool]:
                break
            room += 1
        return room


class MisfitError(Exception):
    """The pools don't fit on the GPUs, or the models in their pools. The text is a table.

    `key`: what of the config it is about.
    """

    def __init__(self, text: str, key: str = "pools") -> None:
        super().__init__(text)
        self.key = key


def place(
    cards: Sequence[Card],
    pools: Sequence[PoolWish],
    headroom: int,
    rest: Sequence[Tenant] = (),
) -> Placement:
    """Place every pool; `headroom` bytes stay free on every card. Raises `MisfitError`.

    `rest`: models that say nothing of what they take. A card that is missing is the place of those
    who name it, and of others only where they fit nowhere else: they wait there until it is back.
    """
    if any(card.is_missing for card in cards):
        with suppress(MisfitError):
            return _place(cards, pools, headroom, rest, [c.key for c in cards if not c.is_missing])
    return _place(cards, pools, headroom, rest, [card.key for card in cards])


def _place(
    cards: Sequence[Card],
    pools: Sequence[PoolWish],
    headroom: int,
    rest: Sequence[Tenant],
    free: Sequence[str],
) -> Placement:
    """Place every pool; those that name no card on the `free` ones alone."""
    ground = _Ground(cards, headroom, free)
    if pools or rest:
        _check_headroom(cards, headroom)
    for pool in pools:
        _check_tenants(pool)
        _check_pinned(pool)
    for pool in pools:
        if pool.cards is not None:
            ground.take(pool, pool.vram, pool.cards)
    ground.check()
    by_key = {card.key: card for card in cards}
    for pool in pools:
        _check_slices(pool, [by_key[key] for key in pool.cards or ()])
    for pool in sorted((p for p in pools if p.cards is None), key=lambda p: (-p.vram, p.name)):
        ground.fit(pool)
    left = ground.share_out(sorted(rest, key=lambda tenant: (-tenant.cards, tenant.name)))
    return Placement(ground.placed, ground.vram, left, tuple(ground.lines()))


class _Ground:
    """The cards while pools are placed on them."""

    def __init__(self, cards: Sequence[Card], headroom: int, free: Sequence[str]) -> None:
        self._cards = {card.key: card for card in cards}
        self._for_any = free
        self._headroom = headroom
        self._free = {card.key: card.total - headroom for card in cards}
        self._words: dict[str, str] = {}
        self.placed: dict[str, tuple[str, ...]] = {}
        self.vram: dict[str, int] = {}

    def take(self, pool: PoolWish, vram: int, cards: Sequence[str]) -> None:
        """Reserve `vram` on each of `cards`, also where that isn't there."""
        self._words[pool.name] = pool.words
        self.placed[pool.name] = tuple(cards)
        self.vram[pool.name] = vram
        for key in cards:
            self._free[key] -= vram

    def check(self) -> None:
        """Raise `MisfitError` where a card has promised more than it has."""
        reserved = {key for keys in self.placed.values() for key in keys}
        key = min(reserved, key=lambda key: (self._free[key], key), default="")
        if key and self._free[key] < 0:
            where = f"{self._cards[key].words}: {size(-self._free[key])} are missing"
            what = f"the pools don't fit on {where}; lower a `vram`, or let other `gpus` be used"
            raise MisfitError(self._table(what))

    def fit(self, pool: PoolWish) -> None:
        """Reserve where it fits best: where the least is left. Raises `MisfitError`."""
        able = self._able(pool.width, self._for_any)
        for vram, width in pool.shapes(len(able)):
            fitting = [key for key in able if self._free[key] >= vram]
            fitting.sort(key=lambda key: (self._free[key], self._cards[key].place))
            if len(fitting) >= width:
                self.take(pool, vram, self._in_order(fitting[:width]))
                return
        free = sorted((self._free[key] for key in able), reverse=True)
        # Told is the shape that lacks the least.
        shapes = [shape for shape in pool.shapes(len(able)) if shape[1] <= len(free)]
        vram, width = min(shapes, key=lambda s: s[0] - free[s[1] - 1], default=(vram, width))
        what = f"{pool.words} wants {size(vram)} on {count(width, 'GPU')}"
        if len(free) < width:
            raise MisfitError(self._table(f"{what}, and there {_are(len(free))} {len(free)}"))
        lacks = f"{size(vram - free[width - 1])}; give it less `vram`, or make room on a GPU"
        raise MisfitError(self._table(f"{what}, and the best place lacks {lacks}"))

    def share_out(self, models: Sequence[Tenant]) -> dict[str, int]:
        """Give each of `models` what is left on the emptiest cards, one model to a card.

        Returns what each engine may take on each card. Raises `MisfitError`.
        """
        untaken, left = list(self._for_any), {}
        to_come = sum(model.cards for model in models)
        if to_come > len(untaken):
            raise MisfitError(self._table(_crowded(models, len(untaken))))
        for model in models:
            to_come -= model.cards
            able = self._able(model.cards, untaken)
            able.sort(key=lambda key: (-self._free[key], self._cards[key].place))
            if model.cards > len(able):
                raise MisfitError(self._table(_crowded([model], len(able))))
            # Who comes last may have what nobody else is to have.
            wanted = model.replicas if to_come else max(model.replicas, model.most)
            beside = max(1, min(wanted, (len(able) - to_come) // model.cards))
            chosen = self._in_order(able[: beside * model.cards])
            untaken = [key for key in untaken if key not in chosen]
            most = (min(self._free[key], int(_WHOLE * self._cards[key].total)) for key in chosen)
            on_each = min(most)
            left[model.name] = on_each // -(-model.replicas // beside)
            if left[model.name] <= 0:
                what = f"nothing is left for {model.name}: state its `vram`, and make room for it"
                raise MisfitError(self._table(what))
            self.take(OwnPool.of(model), on_each, chosen)
        return left

    def _able(self, width: int, keys: Iterable[str]) -> list[str]:
        """Return the cards that an engine on so many may use: CUDA gives it one slice only."""
        return [key for key in keys if width == 1 or self._cards[key].slice is None]

    def _in_order(self, keys: Sequence[str]) -> list[str]:
        return sorted(keys, key=lambda key: self._cards[key].place)

    def _table(self, what: str) -> str:
        return "\n".join([f"{what}:", *self.lines()])

    def lines(self) -> Iterator[str]:
        """Say of each card who has what of it, and what is left or missing."""
        for key, card in self._cards.items():
            device = card.name if card.is_host else f"{card.words} {card.name}"
            missing = ", which the driver doesn't list" if card.is_missing else ""
            yield f"  {device}{missing}: {size(card.total)}"
            for pool, cards in self.placed.items():
                if key in cards:
                    yield f"    {self._words[pool]}: {size(self.vram[pool])}"
            yield f"    headroom: {size(self._headroom)}"
            left = self._free[key]
            yield f"    missing: {size(-left)}" if left < 0 else f"    left: {size(left)}"


def _crowded(models: Sequence[Tenant], cards: int) -> str:
    there = f"there {_are(cards)} {count(cards, 'GPU')}"
    *others, last = [model.name for model in models]
    if not others:
        return f"{last} runs on {count(models[0].cards, 'GPU')} at once, and {there}"
    return (
        f"{', '.join(others)} and {last} say nothing of their VRAM, so each wants all that is left "
        f"of a GPU to itself, and {there}: state `vram` for them, or put them into one pool"
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _check_headroom(cards: Sequence[Card], headroom: int) -> None:
    largest = max(cards, key=lambda card: card.total, default=None)
    if largest is not None and largest.total <= headroom:
        what = f"is {size(headroom)}, and {largest.words} has {size(largest.total)}"
        raise MisfitError(f"{what}: nothing is left for models; lower it", "gpus.headroom")


def _check_tenants(pool: PoolWish) -> None:
    if isinstance(pool, OwnPool):
        return  # made to measure
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
            missing = size(most * tenant.vram - pool.vram)
            head = (
                f"{tenant.name} has {count(tenant.replicas, 'engine')}, so {most} of "
                f"{size(tenant.vram)} share a GPU of pool {pool.name}: {missing} are missing; give "
                "the pool more `vram` or more `gpus`, or the model fewer `replicas`:"
            )
            has = f"  pool {pool.name}: {size(pool.vram)} on each GPU"
            raise MisfitError(f"{head}\n{has}\n    {tenant.name}: {_wants(tenant)}")


def _check_pinned(pool: PoolWish) -> None:
    """Nobody makes room for the other: so all of them must be able to be hot together."""
    pinned = [tenant for tenant in pool.tenants if tenant.pinned]
    missing = _most(pool, pinned) - pool.vram
    if missing > 0:
        wants = [f"    {tenant.name}: {_wants(tenant)}" for tenant in pinned]
        what = f"the pinned models of pool {pool.name} don't fit in it together: {size(missing)}"
        head = [f"{what} are missing:", f"  pool {pool.name}: {size(pool.vram)} on each GPU"]
        raise MisfitError("\n".join([*head, *wants]))


def crowded(pools: Sequence[PoolWish]) -> Iterator[str]:
    """Say which models of a pool want to be hot at the same time and can't be."""
    for pool in (each for each in pools if not isinstance(each, OwnPool)):
        resting = [tenant for tenant in pool.tenants if tenant.rests_hot]
        wanted = _most(pool, resting)
        if wanted > pool.vram:
            listed = ", ".join(f"{tenant.name} ({_wants(tenant)})" for tenant in resting)
            yield (
                f"the models of pool {pool.name} that rest hot don't fit in it together, "
                f"{size(wanted - pool.vram)} are missing: {listed}; only some of them can be hot "
                "at a time: give the pool more, or let some rest lower"
            )
        always = [tenant for tenant in resting if tenant.pinned]
        names = ", ".join(tenant.name for tenant in always)
        for tenant in (each for each in pool.tenants if not each.pinned):
            if _most(pool, [*always, tenant]) > pool.vram:
                yield (
                    f"{tenant.name} ({_wants(tenant)}) can't be hot beside what is pinned and "
                    f"rests hot in pool {pool.name} ({names}): there is no room for both"
                )


def _most(pool: PoolWish, tenants: Sequence[Tenant]) -> int:
    """Return the bytes that `tenants` take together on the GPU of `pool` where they take most."""
    width = pool.width if pool.cards is None else len(pool.cards)
    on = [0] * width
    for tenant in tenants:
        for n in range(tenant.replicas * tenant.cards):  # as `Placement.cards_of` spreads them
            on[n % width] += tenant.vram
    return max(on)


def _wants(tenant: Tenant) -> str:
    each = f" for each of {tenant.replicas} engines" if tenant.replicas > 1 else ""
    return f"{size(tenant.vram)}{each}"


def _check_slices(pool: PoolWish, cards: Sequence[Card]) -> None:
    sliced = next((card for card in cards if card.slice is not None), None)
    wide = next((tenant for tenant in pool.tenants if tenant.cards > 1), None)
    if sliced is not None and wide is not None:
        raise MisfitError(
            f"{wide.name} runs on {count(wide.cards, 'GPU')} at once, and {sliced.label} of pool "
            f"{pool.name} is a MIG slice: CUDA lets a process use one slice only"
        )
