"""What becomes of one request, as far as it has come: what its record will say."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.gateway.models import Models, RequestRecord
from warmd.gateway.paths import Endpoint
from warmd.gateway.request import Request
from warmd.ladder import Rung


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for, beside its body."""

    model: str
    endpoint: Endpoint
    prefix: int | None = None
    max_wait: float | None = None
    streams: bool = False  # the answer is to come as server-sent events


class Visit:
    """The facts of one request. Times are seconds since it came."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "first_byte_s",
        "idle_s",
        "met",
        "replica",
        "spared",
        "waited_s",
    )

    def __init__(self, models: Models, model: str, bytes_in: int) -> None:
        self.met: Rung = models.rung(model)
        self.idle_s = models.idle_s(model)
        self.spared = models.spared(model)
        self.bytes_in = bytes_in
        self.bytes_out = 0
        self.replica: str | None = None
        self.waited_s: float | None = None
        self.first_byte_s: float | None = None

    def record(
        self, request: Request, wanted: Wanted, status: int, total_s: float
    ) -> RequestRecord:
        """Say what is to be kept of it."""
        return RequestRecord(
            model=wanted.model,
            path=wanted.endpoint.path,
            status=status,
            met=self.met,
            idle_s=self.idle_s,
            waited_s=total_s if self.waited_s is None else self.waited_s,
            first_byte_s=self.first_byte_s,
            total_s=total_s,
            spared=self.spared,
            request_id=request.identity,
            replica=self.replica,
            key=request.holder,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )
