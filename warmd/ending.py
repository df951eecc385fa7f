"""When the daemon ends, and whether its engines end with it."""

from __future__ import annotations

import asyncio
import signal


class Ending:
    """The daemon's end, asked for by a signal or an operator; the first of them is the reason."""

    def __init__(self, *, engines_too: bool) -> None:
        """Heed SIGTERM and SIGINT from now on; made on the event loop that is to end."""
        loop = asyncio.get_running_loop()
        self.engines_too = engines_too
        self.begun = self.for_good = False
        self.asked: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask, f"{number.name} came")
        # Until there is something to reload: its default would end a daemon that only starts.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def _ask(self, reason: str) -> None:
        if not self.asked.done():
            self.asked.set_result(reason)

    def shutdown(self) -> str:
        """End the daemon and every engine, also where engines outlive it; return a sentence."""
        if self.begun and not self.engines_too:
            return "warmd is ending already and leaves its engines; start it, and ask again"
        self.engines_too = True
        self._ask("an operator asked for it")
        return "warmd drains and stops every engine, and ends"
