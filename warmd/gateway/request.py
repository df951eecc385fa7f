"""One request of a client, from its head on."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.gateway.access import Place
from warmd.gateway.body import HeldBody
from warmd.gateway.errors import RefusedError
from warmd.gateway.head import RequestHead
from warmd.gateway.paths import Target


@dataclass(slots=True)
class Request:
    """`head` is None where what came was none, and then it is refused."""

    head: RequestHead | None
    arrived: float  # monotonic seconds
    body: HeldBody
    identity: str = ""  # its own word for itself, or ours; empty where it is none
    holder: str | None = None  # of the key that it shows
    place: Place | None = None  # among the requests of that holder
    target: Target | None = None  # None where it is refused
    refused: RefusedError | None = None
    is_whole: bool = False  # its body has come to its end
    is_told_to_continue: bool = False

    def let_go(self) -> None:
        """Give back what it holds; doing it again does nothing."""
        self.body.drop()
        if self.place is not None:
            self.place.release()

    @property
    def path(self) -> str:
        """What it asked for, in its own words."""
        return "" if self.head is None else self.head.target

    @property
    def is_1_0(self) -> bool:
        """Whether its client speaks HTTP/1.0, and so knows no chunks."""
        return self.head is not None and self.head.is_1_0

    @property
    def keeps_alive(self) -> bool:
        """Whether its client may send another one on the same connection."""
        return self.head is not None and self.head.keeps_alive and self.is_whole
