"""A request for a model that exists: a place on a ready replica, a second try, the record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from warmd.gateway.body import HeldBody
from warmd.gateway.errors import RefusedError
from warmd.gateway.headers import request_headers
from warmd.gateway.models import Ask, Lease, Models, RequestDone, RequestRecord
from warmd.gateway.paths import Endpoint
from warmd.gateway.relay import EngineLostError, ask, pass_on
from warmd.ladder import NotReadyError, QueueFullError, Rung

_ATTEMPTS = 2
_CLIENT_LEFT = 499


@dataclass
class _Visit:
    """What becomes of a request, as far as it has come."""

    model: str
    path: str
    met: Rung
    idle_s: float
    arrived: float
    spared: Rung | None
    key: str | None
    bytes_in: int
    replica: str | None = None
    status: int = 500  # until something else is known
    waited_s: float | None = None
    first_byte_s: float | None = None

    def record(self, now: float) -> RequestRecord:
        total = now - self.arrived
        return RequestRecord(
            model=self.model,
            path=self.path,
            status=self.status,
            met=self.met,
            idle_s=self.idle_s,
            waited_s=total if self.waited_s is None else self.waited_s,
            first_byte_s=self.first_byte_s,
            total_s=total,
            spared=self.spared,
            replica=self.replica,
            key=self.key,
            bytes_in=self.bytes_in,
        )


class Forwarder:
    """Passes requests on to the engines of `models`."""

    def __init__(
        self,
        models: Models,
        on_done: RequestDone,
        clock: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self._models = models
        self._on_done = on_done
        self._clock = clock
        self._stopping = stopping
        self._under_way: set[asyncio.Task[object]] = set()
        self._cut_off: RefusedError | None = None

    def cut_off(self, why: RefusedError) -> None:
        """End all that is under way, and tell each client `why`, also in the midst of a stream."""
        self._cut_off = why
        for task in self._under_way:
            task.cancel()

    async def forward(
        self,
        request: web.BaseRequest,
        endpoint: Endpoint,
        model: str,
        body: HeldBody,
        arrived: float,
        *,
        holder: str | None = None,
    ) -> web.StreamResponse:
        """Answer `request` from an engine of `model`, to the last byte.

        Raises `RefusedError`, and `ConnectionError` where the client has gone.
        """
        visit = _Visit(
            model=model,
            path=endpoint.path,
            met=self._models.rung(model),
            idle_s=self._models.idle_s(model),
            arrived=arrived,
            spared=self._models.spared(model),
            key=holder,
            bytes_in=len(body.data),
        )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a request is answered in one
        self._under_way.add(task)
        try:
            for _ in range(_ATTEMPTS):
                lease = await self._acquire(visit)
                try:
                    return await self._relay(request, endpoint, body, lease, visit)
                except EngineLostError:
                    lease.lost()
                    continue
                except (asyncio.CancelledError, ConnectionError):
                    if visit.first_byte_s is None and self._cut_off is None:
                        lease.given_up()
                    raise
                finally:
                    lease.release()
            raise RefusedError(
                502,
                f"Two engines of {model} broke off before their first byte: "
                "try again; if it stays so, the daemon's log says why they end.",
                code="engine_lost",
            )
        except RefusedError as refused:
            visit.status = refused.status
            raise
        except asyncio.CancelledError:
            visit.status = 503 if self._stopping() else _CLIENT_LEFT
            if (why := self._is_cut_off()) is not None:
                raise why from None
            raise
        except ConnectionError:
            visit.status = 503 if self._stopping() else _CLIENT_LEFT
            raise
        finally:
            self._under_way.discard(task)
            self._on_done(visit.record(self._clock()))

    def _is_cut_off(self) -> RefusedError | None:
        """Why what was cancelled just now is cut off; None where its client has left."""
        task = asyncio.current_task()
        if self._cut_off is not None and task is not None and task.uncancel() == 0:
            return self._cut_off
        return None

    async def _acquire(self, visit: _Visit) -> Lease:
        try:
            lease = self._models.take(visit.model) or await self._models.acquire(
                visit.model, Ask(self._clock() - visit.arrived)
            )
        except QueueFullError as error:
            raise RefusedError(
                429, error.reason, code="queue_full", retry_after_s=error.retry_after_s
            ) from None
        except NotReadyError as error:
            raise RefusedError(
                503, error.reason, code="model_not_ready", retry_after_s=error.retry_after_s
            ) from None
        visit.waited_s = self._clock() - visit.arrived
        visit.replica = lease.replica
        return lease

    async def _relay(
        self,
        request: web.BaseRequest,
        endpoint: Endpoint,
        body: HeldBody,
        lease: Lease,
        visit: _Visit,
    ) -> web.StreamResponse:
        headers = request_headers(request.headers)
        answer = await ask(lease.session, endpoint.path, headers, body.data)
        try:
            if answer.first:
                visit.first_byte_s = self._clock() - visit.arrived
            body.drop()  # no second try from here on
            response, broke = await pass_on(
                request,
                answer,
                endpoint,
                visit.model,
                last=self._stopping(),
                cut_off=self._is_cut_off,
            )
            visit.status = response.status if broke is None else broke.status
            if visit.status < 400:
                lease.answered()
            return response
        finally:
            answer.response.close()
