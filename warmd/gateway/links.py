"""The connections to engines, of which some are kept for the next request."""

from __future__ import annotations

import asyncio

from warmd.gateway.link import EngineLink

# vLLM's server closes idle connections after 5 s; a request on a closing one would have to be sent
# again.
_KEPT_S = 4.0
_SWEEP_S = 1.0
_KEPT_MOST = 256  # for one engine


class Links:
    """Connections by the path of the engine's unix socket."""

    def __init__(self) -> None:
        self._free: dict[str, list[EngineLink]] = {}
        self._all: set[EngineLink] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self, path: str) -> EngineLink | None:
        """Return a connection that is open and free, the one used last; None where there is none.

        Who takes it asks it before the event loop goes on.
        """
        free = self._free.get(path)
        while free:
            link = free.pop()
            if link.is_open:
                return link
        return None

    async def connect(self, path: str, within_s: float) -> EngineLink:
        """Open a new one. Raises `OSError`, and `TimeoutError` after `within_s`."""
        self._loop = loop = asyncio.get_running_loop()

        def on_free(link: EngineLink) -> None:
            self._settle(path, link)

        async with asyncio.timeout(within_s):
            _, link = await loop.create_unix_connection(lambda: EngineLink(on_free), path)
        self._all.add(link)
        return link

    def close(self) -> None:
        """Close all of them, and keep none from now on."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._free.clear()
        for link in tuple(self._all):
            link.drop()

    def _settle(self, path: str, link: EngineLink) -> None:
        """Keep a connection that has become free, or forget one that has closed."""
        if not link.is_open:
            self._all.discard(link)
            return
        assert self._loop is not None  # noqa: S101  # it made the connection
        free = self._free.setdefault(path, [])
        if len(free) >= _KEPT_MOST:
            link.drop()
            return
        link.free_since = self._loop.time()
        free.append(link)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Close those that weren't used for a while: the oldest stand first."""
        self._sweeping = None
        assert self._loop is not None  # noqa: S101  # it runs this
        oldest = self._loop.time() - _KEPT_S
        for path, free in tuple(self._free.items()):
            stale = [link for link in free if link.free_since <= oldest]
            free[:] = [link for link in free if link.free_since > oldest]
            for link in stale:
                link.drop()
            if not free:
                del self._free[path]
        if self._free:
            self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)
