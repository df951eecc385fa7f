"""All requests that are on their way to an engine, or back."""

from __future__ import annotations

from collections.abc import Callable

from warmd.gateway.client import ClientConnection
from warmd.gateway.errors import RefusedError
from warmd.gateway.exchange import Exchange
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.links import Links
from warmd.gateway.models import Models, RequestDone, RequestRecord
from warmd.gateway.request import Request
from warmd.gateway.visit import Wanted


class Forwarder:
    """Passes requests on to the engines of `models`."""

    def __init__(
        self,
        models: Models,
        limits: GatewayLimits,
        on_done: RequestDone,
        clock: Callable[[], float],
    ) -> None:
        self.models = models
        self.limits = limits
        self.links = Links()
        self.clock = clock
        self.stopping = False
        self._on_done = on_done
        self._under_way: set[Exchange] = set()

    def forward(self, request: Request, wanted: Wanted, client: ClientConnection) -> Exchange:
        """Have `request` answered by an engine of the model."""
        exchange = Exchange(self, request, wanted, client)
        self._under_way.add(exchange)
        try:
            exchange.begin()
        except BaseException:
            exchange.fail()
            raise
        return exchange

    def is_over(self, exchange: Exchange, record: RequestRecord) -> None:
        """Hear that a request has come to its end."""
        self._under_way.discard(exchange)
        self._on_done(record)

    def cut_off(self, why: RefusedError) -> None:
        """End all that is under way, and tell each client `why`, also in the midst of a stream."""
        for exchange in tuple(self._under_way):
            exchange.cut_off(why)

    def close(self) -> None:
        """Close the connections to engines."""
        self.links.close()
