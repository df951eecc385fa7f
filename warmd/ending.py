"""When the daemon ends, and whether its engines end with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

OwnJob = Callable[[], Awaitable[str | None]]
"""Says what systemd is about with the daemon's own unit: `stop`, `restart`, or None: nothing."""

_ANSWER_S = 1.0
"""So long systemd may take to say why it ends the daemon."""


class Ending:
    """The daemon's end, asked for by a signal or an operator; the first of them is the reason."""

    def __init__(
        self, *, engines_too: bool, own_job: OwnJob | None = None, answer_s: float = _ANSWER_S
    ) -> None:
        """Heed SIGTERM and SIGINT from now on; made on the event loop that is to end.

        `own_job`: who knows why a signal comes; where systemd stops the unit, the engines end too.
        """
        loop = asyncio.get_running_loop()
        self.engines_too = engines_too
        self.begun = False
        self.for_good = False
        """Whether nobody is known to start the daemon again."""
        self.asked: asyncio.Future[str] = loop.create_future()
        self.own_job = own_job
        self._answer_s = answer_s
        self._asking: asyncio.Task[None] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.heed, number)
        # Until there is something to reload: its default would end a daemon that only starts.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def heed(self, number: signal.Signals) -> None:
        """Take a signal: end the daemon, once it is known whether its engines end with it."""
        if self.own_job is None:
            self._ask(f"{number.name} came")
        elif self._asking is None:
            asking = self._ask_why(self.own_job, f"{number.name} came")
            self._asking = asyncio.create_task(asking, name="own job")

    async def _ask_why(self, own_job: OwnJob, reason: str) -> None:
        """Ask systemd; what stays unknown leaves the engines: they can be stopped later too."""
        try:
            async with asyncio.timeout(self._answer_s):
                job = await own_job()
        except TimeoutError:
            doubt = f"systemd didn't say within {self._answer_s:g} s whether it stops or restarts"
            return self._ask(f"{reason}, and {doubt} warmd")
        except Exception as error:  # noqa: BLE001  # whatever it is, the daemon must end
            return self._ask(f"{reason}, and why can't be known: {error}")
        match job:
            case "stop":
                self.engines_too = self.for_good = True
                reason = "systemd stops warmd"
            case "restart":
                reason = "systemd restarts warmd"
            case _:
                pass
        return self._ask(reason)

    def _ask(self, reason: str) -> None:
        if not self.asked.done():
            self.asked.set_result(reason)

    def shutdown(self) -> str:
        """End the daemon and every engine, also where engines outlive it; return a sentence."""
        if self.begun and not self.engines_too:
            return "warmd is ending already and leaves its engines; start it, and ask again"
        self.engines_too = self.for_good = True
        self._ask("an operator asked for it")
        return "warmd drains and stops every engine, and ends"
