"""GPUs, the pools that want a part of them, and the models that are the tenants of pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from warmd.ladder import HOST


@dataclass(frozen=True)
class Card:
    """One GPU, or the host's memory where there is none. `total` in bytes.

    `is_missing`: it was here once, and the driver doesn't list it.
    """

    key: str  # what it is known by, whatever its place on the bus: its UUID
    index: int  # by which the config names it; while a GPU is missing the driver may have another
    name: str
    total: int
    slice: int | None = None  # its number, where it is a slice of a GPU in MIG mode
    address: str | None = None  # the whole GPU's on the PCI bus
    is_missing: bool = field(default=False, compare=False)

    @property
    def place(self) -> tuple[int, int]:
        """Its place on the bus, to sort by."""
        return self.index, self.slice or 0

    @property
    def label(self) -> str:
        """What messages call it: `GPU 0`, or `GPU 0:1` for a slice."""
        return f"GPU {self.index}" if self.slice is None else f"GPU {self.index}:{self.slice}"

    @property
    def is_host(self) -> bool:
        """Whether it is no GPU."""
        return self.key == HOST

    @staticmethod
    def unknown(index: int) -> str:
        """Return the key of a GPU that has never told its UUID; nothing can be bound to it."""
        return f"unknown {index}"

    @property
    def is_unknown(self) -> bool:
        """Whether it is such a one."""
        return self.key == self.unknown(self.index)

    @property
    def words(self) -> str:
        """Name it in a sentence."""
        return "the host's memory" if self.is_host else self.label

    def is_named(self, name: str) -> bool:
        """Whether it is meant by its number (a GPU's means its slices too), or by its UUID."""
        return name in (str(self.index), self.label.removeprefix("GPU "), self.key)


@dataclass(frozen=True)
class Tenant:
    """A model of a pool: each engine takes `vram` bytes on each of `cards` GPUs.

    `replicas` must have room together; up to `most` its load may ask for where there is more room.
    `pinned`: nobody's wait puts it aside; `rests_hot`: it is hot also while nobody asks for it.
    """

    name: str
    vram: int
    cards: int = 1
    replicas: int = 1
    pinned: bool = False
    rests_hot: bool = False
    most: int = 0  # no less than `replicas` counts for more

    @property
    def own_pool(self) -> str:
        """Name the pool that is its own; no name of a pool in the config has a space."""
        return f"{self.name} (its own)"


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

    @property
    def words(self) -> str:
        """Name it in a sentence."""
        return f"pool {self.name}"

    def at_most(self) -> PoolWish:
        """Return the same with room for all that the load of its models may ask for."""
        return self

    def shapes(self, _cards: int) -> Iterator[tuple[int, int]]:
        """Yield what it may be, the best first: the VRAM on each GPU, and how many GPUs."""
        yield self.vram, self.width


@dataclass(frozen=True)
class OwnPool(PoolWish):
    """The pool of one model alone: as large as its engines, on as many GPUs as there are for it.

    `generous`: also for as many as its load may ask for, as far as there is room for these.
    """

    generous: bool = False

    @staticmethod
    def of(tenant: Tenant) -> OwnPool:
        """Return the pool of `tenant`."""
        return OwnPool(tenant.own_pool, tenant.vram, None, (tenant,))

    @property
    def words(self) -> str:
        """Name it in a sentence."""
        return f"{self.tenants[0].name}, a pool of its own"

    def at_most(self) -> OwnPool:
        """Return the same for as many engines as its load may ask for."""
        return replace(self, generous=True)

    def shapes(self, cards: int) -> Iterator[tuple[int, int]]:
        """Yield engines side by side first, then on top of each other."""
        [tenant] = self.tenants
        most = max(tenant.replicas, tenant.most) if self.generous else tenant.replicas
        for engines in range(most, tenant.replicas - 1, -1):
            for beside in range(max(1, min(engines, cards // tenant.cards)), 0, -1):
                yield -(-engines // beside) * tenant.vram, beside * tenant.cards
