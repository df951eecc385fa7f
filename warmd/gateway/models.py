"""What the gateway needs to know and to ask of whoever owns the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from warmd.ladder import Rung

LONG_IDLE_S = 300.0
"""After this long without a request a hot model counts as not in use, as idle-unloaders see it:
the first request then measures what warmth is worth."""


@dataclass(frozen=True)
class ModelCard:
    """A model as `/v1/models` shows it, and as load balancers hear of it."""

    name: str
    aliases: tuple[str, ...]
    rung: Rung
    created: int  # Unix seconds
    ready: int = 0  # replicas that answer a request at once
    wanted: int = 0  # replicas that should be hot now
    refused: str | None = None  # why no request is answered, for operators


@dataclass(frozen=True)
class Ask:
    """What is known of a request that asks for a place. Seconds.

    `waited`: for so long it has been held already; `max_wait`: what its client allows, where that
    is less than its model's; `prefix`: a hash of what its prompt begins with.
    """

    waited: float = 0.0
    max_wait: float | None = None
    prefix: int | None = None


class Directory(Protocol):
    """What exists and how far it is: a part of `Models`."""

    def resolve(self, name: str) -> str | None:
        """Return the model's own name for a name or an alias, None where there is none."""

    def cards(self) -> Sequence[ModelCard]:
        """Every model that exists."""

    def eta_s(self, model: str) -> float | None:
        """Seconds until `model` is ready, as measured; see `Models.eta_s`."""


class Lease(Protocol):
    """One request's place on a ready replica; `release` must be called exactly once."""

    @property
    def replica(self) -> str:
        """The replica's name."""

    @property
    def socket(self) -> str:
        """The path of the engine's unix socket; another engine of the replica may have the same."""

    def lost(self) -> None:
        """Say that the engine broke off: its owner sends nobody else there before it has looked."""

    def answered(self) -> None:
        """Say that the engine gave a right answer."""

    def given_up(self) -> None:
        """Say that the client has left before the engine's first byte: that may have hung."""

    def release(self) -> None:
        """Give the place back."""


class Models(Protocol):
    """The owner of the models, as the gateway sees it."""

    def resolve(self, name: str) -> str | None:
        """Return the model's own name for a name or an alias, None where there is none."""

    def cards(self) -> Sequence[ModelCard]:
        """Every model that exists."""

    def rung(self, model: str) -> Rung:
        """The highest rung that a replica of `model` stands on now."""

    def idle_s(self, model: str) -> float:
        """Seconds since the last request for `model` ended; infinite before the first."""

    def spared(self, model: str) -> Rung | None:
        """The rung that a request for `model` would meet now, were it not for its calendar.

        None where it meets what it would meet anyway.
        """

    def wants_prefix(self, model: str) -> bool:
        """Whether `prefix` makes a difference to who gets a request for `model`."""

    def take(self, model: str, prefix: int | None = None) -> Lease | None:
        """Return a place on a ready replica at once; None where there is none, for `acquire`."""

    async def acquire(self, model: str, ask: Ask) -> Lease:
        """Return a place on a ready replica, waiting for one as long as `ask` and the model allow.

        Raises `NotReadyError` and `QueueFullError` (both `warmd.ladder`). Cancelling the wait gives
        up the claim.
        """

    def outlook(self, model: str, since: float) -> str:
        """Say what `model` is doing, to who waits for it since that moment (monotonic seconds)."""

    def eta_s(self, model: str) -> float | None:
        """Seconds until `model` is ready, as measured: 0 where it is.

        None where that was never measured, or where no time makes it ready.
        """


class RequestRecord(NamedTuple):
    """What is known of a request once it is over. Never its content."""

    model: str
    path: str
    status: int  # 499 where the client left first
    met: Rung  # the model's rung when the request came
    idle_s: float  # how long the model had had no request when this one came
    waited_s: float  # from arrival to a place on a ready replica
    first_byte_s: float | None  # from arrival to the engine's first byte of body
    total_s: float
    spared: Rung | None = None  # what it would have met without the model's calendar
    request_id: str = ""
    replica: str | None = None  # None where it never had a place on one
    key: str | None = None  # the name of the key's holder; None where none is asked for
    bytes_in: int = 0  # of the body
    bytes_out: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it met its model not in use, so that its wait counts as a first delay."""
        return self.met is not Rung.HOT or self.idle_s > LONG_IDLE_S


RequestDone = Callable[[RequestRecord], None]


@dataclass(frozen=True)
class Refusal:
    """A request that the gateway refused before a model was found for it. Never its content."""

    path: str
    status: int
    code: str | None
    key: str | None  # the name of the key's holder, where it showed one
    request_id: str = ""


Refused = Callable[[Refusal], None]
