"""The connection to D-Bus: calls of systemd, and its signals; opened again where it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dbus_fast import BusType, DBusFastError, Message, MessageType
from dbus_fast.aio import MessageBus

from warmd.launch.launcher import LaunchError

SYSTEMD = "org.freedesktop.systemd1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"

_ANSWER_S = 25.0
"""What D-Bus's own library waits; a call on a connection that breaks may never be answered."""

_AWAY_S = 5.0
"""How long systemd may be away: `systemctl daemon-reexec` leaves the bus and comes back."""

_AWAY_PAUSE_S = 0.05
_AWAY = frozenset(f"{_BUS}.Error.{why}" for why in ("NoReply", "NameHasNoOwner", "ServiceUnknown"))

Signal = Callable[[str, str, Sequence[Any]], None]
"""Takes the object's path, the signal's name and its arguments."""


class RefusedError(Exception):
    """Whoever was called has refused: D-Bus's name for `why`, and what it `said`."""

    def __init__(self, why: str, said: str) -> None:
        super().__init__(f"{said} ({why})")
        self.why = why
        self.said = said


class Bus:
    """One connection to the system's bus."""

    def __init__(self, on_signal: Signal, on_opened: Callable[[], None]) -> None:
        """`on_opened` hears that signals come from now on, and may have been lost before."""
        self._on_signal = on_signal
        self._on_opened = on_opened
        self._bus: MessageBus | None = None
        self._opening = asyncio.Lock()
        self._rules: dict[str, None] = {}
        self._closed = False
        self._had_one = False

    async def _open(self) -> None:
        async with self._opening:
            if self._bus is not None and self._bus.connected:
                return
            if self._closed:
                raise LaunchError("systemd can't be asked: the connection to D-Bus is closed")
            try:
                async with asyncio.timeout(_ANSWER_S):
                    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
            except (OSError, ValueError, TypeError, DBusFastError) as error:
                if self._had_one:
                    raise _BrokenError(f"D-Bus can't be reached: {_why(error)}") from None
                raise LaunchError(
                    f"the system's D-Bus can't be reached: {_why(error)}; engines run as units "
                    "of systemd here, which needs it: see `systemctl status dbus`, or run warmd "
                    "without --systemd"
                ) from None
            bus.add_message_handler(self._hear)
            self._bus = bus
            try:
                for rule in self._rules:
                    await self._ask(_match("AddMatch", rule))
                # Without it systemd sends no signals; it forgets us when the connection ends.
                await self._ask(Message(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "Subscribe"))
            except BaseException:
                bus.disconnect()
                self._bus = None
                raise
        self._had_one = True
        self._on_opened()

    async def watch(self, rule: str) -> None:
        """Have the signals sent that fit `rule`; raises as `call` does."""
        await self._call(_match("AddMatch", rule))
        self._rules[rule] = None  # from now on whenever the connection is opened again

    async def unwatch(self, rule: str) -> None:
        """Have them sent no longer."""
        if self._rules.pop(rule, "") is None:
            with suppress(LaunchError, RefusedError):
                await self._call(_match("RemoveMatch", rule))

    async def has(self, name: str) -> bool:
        """Whether somebody has this name on the bus, or would be started for it."""
        for asked in ("ListNames", "ListActivatableNames"):
            if name in (await self._call(Message(_BUS, _BUS_PATH, _BUS, asked)))[0]:
                return True
        return False

    async def call(
        self,
        member: str,
        signature: str = "",
        body: Sequence[object] = (),
        *,
        path: str = SYSTEMD_PATH,
        interface: str = f"{SYSTEMD}.Manager",
    ) -> Sequence[Any]:
        """Return what systemd answers. Raises `RefusedError`; `LaunchError` where nothing comes.

        Where the connection breaks or systemd is away for a moment it is asked once more: what is
        called here may be called twice.
        """
        asked = Message(SYSTEMD, path, interface, member, signature=signature, body=list(body))
        return await self._call(asked)

    async def _call(self, asked: Message) -> Sequence[Any]:
        give_up_at = asyncio.get_running_loop().time() + _AWAY_S
        while True:
            try:
                await self._open()
                return await self._ask(asked)
            except _BrokenError as broken:
                why = str(broken)
            except RefusedError as refused:
                if refused.why not in _AWAY:
                    raise
                why = str(refused)
            if asyncio.get_running_loop().time() >= give_up_at:
                raise LaunchError(
                    f"systemd doesn't answer over D-Bus: {why}; engines run as units of systemd "
                    "here: is it this machine's init? see `systemctl status dbus`, or run warmd "
                    "without --systemd"
                )
            asked.serial = 0  # a new question, also where the connection is the old one
            await asyncio.sleep(_AWAY_PAUSE_S)

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        bus, self._bus = self._bus, None
        if bus is not None and bus.connected:
            bus.disconnect()
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(_AWAY_S):
                    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    async def _ask(self, message: Message) -> Sequence[Any]:
        bus = self._bus
        if bus is None or not bus.connected:
            raise _BrokenError("the connection to D-Bus is broken")
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer: Message | None = await bus.call(message)
        except TimeoutError:
            raise _BrokenError(f"no answer for {_ANSWER_S:g} s") from None
        except (OSError, EOFError) as error:
            raise _BrokenError(_why(error)) from None
        if answer is None:
            raise _BrokenError("the connection to D-Bus was closed")
        if answer.message_type is MessageType.ERROR:
            said = answer.body[0] if answer.body else "no reason is told"
            raise RefusedError(answer.error_name or "", str(said))
        return answer.body

    def _hear(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.path and message.member:
            self._on_signal(message.path, message.member, message.body)


def _match(member: str, rule: str) -> Message:
    return Message(_BUS, _BUS_PATH, _BUS, member, signature="s", body=[rule])


class _BrokenError(Exception):
    """The connection broke before an answer came."""


def _why(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return said or type(error).__name__
