"""From the config's pools and models to what is reserved on this host's GPUs, or why it can't be.

Where there is no NVIDIA GPU the host's memory is the one device, with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmd.config import (
    OWN_GPUS,
    ConfigError,
    ModelSettings,
    Problem,
    Settings,
    dotted,
    memory_flag,
    quoted_key,
)
from warmd.devices import HOST, Gpu, host_memory
from warmd.engine import EngineFlags, SizingError
from warmd.ladder import Rung, VramBy
from warmd.planner import (
    Card,
    Figure,
    Holding,
    MisfitError,
    OwnPool,
    Placement,
    PoolWish,
    Reservations,
    Tenant,
    crowded,
    place,
)
from warmd.spoken import count

ROSTER_FILE = "gpus.json"
"""In `host.state_dir`: the GPUs of the host as they were last seen when well."""


@dataclass(frozen=True)
class Sized:
    """What was found of the models with `vram = "auto"`: figures, or why there is none yet.

    Where nobody knows the GPUs, figures also of models that state nothing, and run with these.
    """

    figures: Mapping[str, Figure] = field(default_factory=dict)
    unsized: Mapping[str, str] = field(default_factory=dict)


def cards_of(gpus: Sequence[Gpu]) -> tuple[Card, ...]:
    """Return this host's devices: its GPUs, or its memory where there is none."""
    if gpus:
        return tuple(Card(gpu.uuid, gpu.index, gpu.name, gpu.total, gpu.slice) for gpu in gpus)
    return (Card(HOST, 0, "host memory", host_memory().total),)


def reserve(settings: Settings, cards: Sequence[Card], sized: Sized) -> Reservations:
    """Say for each pool and model of `settings` what is reserved where, on these `cards`.

    Without cards nobody knows the GPUs yet: then only sizes are told. Raises `ConfigError`.
    """
    return _Reserving(settings, cards, sized).reserved()


class _Reserving:
    """One config on its way to what it reserves."""

    def __init__(self, settings: Settings, cards: Sequence[Card], sized: Sized) -> None:
        self._settings = settings
        self._cards = cards
        self._sized = sized
        self._in_pools: dict[str, list[Tenant]] = {name: [] for name in settings.pools}
        self._own: list[Tenant] = []
        self._rest: list[Tenant] = []

    def reserved(self) -> Reservations:
        for name, table in self._settings.models.items():
            if name not in self._sized.unsized:
                self._sort(name, table)
        wishes = [*self._pools(), *map(OwnPool.of, self._own)]
        # Without cards every engine may stand on the same one.
        pools = {wish.name: next(wish.shapes(1))[0] for wish in wishes}
        placed = None
        if self._cards:
            try:
                named = [replace(wish, cards=self._named(wish.name)) for wish in wishes]
                headroom = self._settings.gpus.headroom
                placed = _place(self._cards, named, headroom, self._rest)
            except MisfitError as misfit:
                text = "\n".join([str(misfit), *self._missing_and_remedy()])
                raise config_error(self._settings, {misfit.key: text}) from None
            pools = {**placed.vram}
        tenants = {**self._in_pools}
        tenants |= {tenant.own_pool: [tenant] for tenant in self._own}
        if placed is not None:
            tenants |= {
                tenant.own_pool: [replace(tenant, vram=placed.left[tenant.name])]
                for tenant in self._rest
            }
        holdings = {
            tenant.name: self._holding(pool, tenant, placed)
            for pool, each in tenants.items()
            for tenant in each
        }
        lines = placed.lines if placed is not None and pools else ()
        shared = [replace(wish, cards=self._spoken_of(wish.name)) for wish in self._pools()]
        return Reservations(
            pools,
            {} if placed is None else placed.pools,
            holdings,
            self._sized.unsized,
            lines,
            (*crowded(shared), *self._out_of_reach(tenants, placed)),
            tuple(self._missing()),
        )

    def _out_of_reach(
        self, tenants: Mapping[str, Sequence[Tenant]], placed: Placement | None
    ) -> Iterator[str]:
        """Say which models may ask for more replicas than their pool has room for."""
        if placed is None:
            return
        for pool, each in tenants.items():
            for tenant in (t for t in each if t.most > t.replicas):
                room = placed.room_for(pool, tenant)
                if room < tenant.most:
                    yield (
                        f"{tenant.name} may scale to {count(tenant.most, 'replica')}, and its pool "
                        f"has room for {room}: give it more `vram` or `gpus`, or lower `scale.max`"
                    )

    def _sort(self, name: str, table: ModelSettings) -> None:
        found = self._sized.figures.get(name)
        if not table.is_reserved_for:
            if self._cards and self._cards[0].is_host:
                return  # vLLM's own default on a CPU is a share of RAM that many engines may have
            if not self._cards and found is None:
                return
        vram = table.vram if isinstance(table.vram, int) else found.vram if found else 0
        tenant = Tenant(
            name,
            vram,
            self._width(name, table),
            table.firm_replicas,
            most=table.most_replicas,
            pinned=table.pinned,
            rests_hot=table.resting is Rung.HOT,
        )
        if table.pool is not None:
            self._in_pools[table.pool].append(tenant)
        elif table.vram is not None or not self._cards:
            self._own.append(tenant)
        else:
            self._check_rest(name, table)
            self._rest.append(tenant)

    def _check_rest(self, name: str, table: ModelSettings) -> None:
        """Refuse what speaks against a reservation that the config's own check doesn't know of."""
        found = {}
        where = self._settings.visible_devices(name)
        if where is not None:
            found[dotted(where)] = f"contradicts what warmd reserves for {name}: {OWN_GPUS}"
        for index, arg in enumerate(table.args):
            if (flag := memory_flag(arg)) is not None:
                found[f"models.{quoted_key(name)}.args[{index}]"] = (
                    f"contradicts what warmd reserves for {name}, from which {flag} follows at "
                    "each start: take the flag away, and set `vram` to what its engines shall have"
                )
        if found:
            raise config_error(self._settings, found)

    def _width(self, name: str, table: ModelSettings) -> int:
        """How many GPUs an engine uses at once."""
        flags = EngineFlags.of(table.args)
        try:
            ways = flags.number("--tensor-parallel-size", table.tensor_parallel)
            stages = flags.number("--pipeline-parallel-size", 1)
            return ways * stages * flags.number("--data-parallel-size", 1)
        except SizingError as error:
            raise config_error(
                self._settings, {f"models.{quoted_key(name)}.args": str(error)}
            ) from None

    def _pools(self) -> Iterator[PoolWish]:
        for name, pool in self._settings.pools.items():
            yield PoolWish(name, pool.vram, None, tuple(self._in_pools[name]))

    def _spoken_of(self, pool: str) -> tuple[str, ...] | None:
        """Return the GPUs that a pool names, also where they aren't known yet."""
        gpus = self._settings.pools[pool].gpus
        return None if gpus is None else tuple(map(str, gpus))

    def _named(self, pool: str) -> tuple[str, ...] | None:
        """Find the cards that a pool names, by index or by (the beginning of) their UUID."""
        table = self._settings.pools.get(pool)
        if table is None or table.gpus is None:
            return None
        found = []
        for name in table.gpus:
            if isinstance(name, int):
                those = [c for c in self._cards if c.index == name and c.slice is None]
            else:
                those = [card for card in self._cards if card.key.startswith(name)]
            if len(those) != 1:
                labels = [
                    (card.label.removeprefix("GPU "), card.key + ", missing" * card.is_missing)
                    for card in self._cards
                ]
                there = ", ".join(f"{label} ({key})" for label, key in labels)
                how = "names several GPUs at once" if those else "is no GPU of this host"
                if any(card.index == name for card in self._cards):
                    how = "is in MIG mode, and a slice is named by its UUID"
                raise MisfitError(f"{name!r} {how}; there are {there}", f"pools.{pool}.gpus")
            found.append(those[0].key)
        return tuple(found)

    def _missing(self) -> Iterator[str]:
        """Say which GPUs the driver doesn't list, who names them, and what to do."""
        for card in self._cards:
            if card.is_missing:
                names = ", ".join(f"pools.{name}.gpus" for name in naming(self._settings, card))
                waits = f", which {names} names: nothing is started on it" if names else ""
                number = card.label.removeprefix("GPU ")
                yield (
                    f"the driver doesn't list {card.label} ({card.key}, {card.name}), which was "
                    f"here{waits}; all others keep their numbers until it is back, or until "
                    f"`warmctl gpu forget {number}` where it was taken out for good"
                )

    def _missing_and_remedy(self) -> Iterator[str]:
        """Say it beside an error: what is wrong may be right by the driver's own numbers."""
        if missing := list(self._missing()):
            yield from missing
            file = self._settings.host.state_dir / ROSTER_FILE
            yield f"or, while warmd doesn't run, remove {file}: then the driver's numbers hold"

    def _holding(self, pool: str, tenant: Tenant, placed: Placement | None) -> Holding:
        engines: tuple[tuple[str, ...], ...] = ()
        if placed is not None:
            engines = tuple(
                placed.cards_of(pool, tenant, n) for n in range(max(tenant.replicas, tenant.most))
            )
        figure = self._sized.figures.get(tenant.name)
        declared = self._settings.models[tenant.name].vram
        by = VramBy.LEFT if declared is None else figure.by if figure else VramBy.DECLARED
        return Holding(
            pool=pool,
            vram=tenant.vram,
            by=by,
            engines=engines,
            where=self._where({key for cards in engines for key in cards}),
            basis=figure.basis if figure else "",
            extra=max(0, len(engines) - tenant.replicas),
        )

    def _where(self, keys: set[str]) -> str:
        cards = [card for card in self._cards if card.key in keys]
        if len(cards) < 2 or cards[0].is_host:
            return "".join(card.words for card in cards)
        return "GPUs " + ", ".join(card.label.removeprefix("GPU ") for card in cards)


def naming(settings: Settings, card: Card) -> Iterator[str]:
    """Name the pools that name `card`, by its number or by its UUID."""
    for name, pool in settings.pools.items():
        if any(
            (card.index == gpu and card.slice is None)
            if isinstance(gpu, int)
            else card.key.startswith(gpu)
            for gpu in pool.gpus or ()
        ):
            yield name


def renumbered(settings: Settings, was: Sequence[Card], now: Sequence[Card]) -> Iterator[str]:
    """Say which GPUs have another number than they had, and which pools mean others by theirs."""
    before = {card.key: card for card in was}
    for card in now:
        old = before.get(card.key, card)
        if old.label != card.label:
            yield f"{old.label} ({card.key}) is {card.label} now, as the driver has it"
    for name, pool in settings.pools.items():
        for number in (each for each in pool.gpus or () if isinstance(each, int)):
            [meant, means] = [
                next((c.key for c in cards if c.index == number and c.slice is None), "no GPU")
                for cards in (was, now)
            ]
            if meant != means:
                yield f"pools.{name}.gpus means {means} by {number} now, and meant {meant}"


def _place(
    cards: Sequence[Card], pools: Sequence[PoolWish], headroom: int, rest: Sequence[Tenant]
) -> Placement:
    """Place with room for what load alone may ask for, else without. Raises `MisfitError`."""
    try:
        return place(cards, [pool.at_most() for pool in pools], headroom, rest)
    except MisfitError:
        return place(cards, pools, headroom, rest)


def config_error(settings: Settings, found: Mapping[str, str]) -> ConfigError:
    """Return the error for what is wrong, by key."""
    return ConfigError([Problem(*settings.place_of(key), key, what) for key, what in found.items()])
