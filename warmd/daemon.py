"""The composition root: builds every room, hands it what it needs, and takes all down again."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import uvloop

import warmd
from warmd.audit import Audit
from warmd.chronicle import Chronicle
from warmd.config import ConfigError, Problem, Settings
from warmd.control import ControlError, ControlServer, Metrics, MetricsServer
from warmd.devices import host_memory
from warmd.ending import Ending
from warmd.fitting import Fitter
from warmd.folders import Folders, StartUpError
from warmd.gateway import AgentCheck, Gateway, GatewayError, RequestRecord
from warmd.gateway.paths import ENDPOINTS
from warmd.gpu_watch import GpuWatch
from warmd.history import HISTORY_FILE, History, journal_handler, terminal_format
from warmd.in_force import InForce
from warmd.keeping_warm import KeepingWarm
from warmd.launch import DirectLauncher, HostLauncher, Launcher, LaunchError
from warmd.learning import Learner
from warmd.listening import Listening
from warmd.message_ids import MessageId
from warmd.notifying import ServiceManager
from warmd.operations import Operations
from warmd.planner import RamLedger
from warmd.probing import Probes
from warmd.refitting import Refitting
from warmd.replica import EngineRecord
from warmd.residency import residency_of
from warmd.spoken import count
from warmd.staging import Keeper, StagingError
from warmd.status import Status
from warmd.status_line import status_line
from warmd.supervisor import Clock, Held, Supervisor, standings
from warmd.wiring import Build, Front, fitter, gateway_of

log = logging.getLogger("warmd")

EX_UNAVAILABLE = 69
"""sysexits.h: a port or a socket is taken, a folder can't be written to."""

_LAST_RESORT_S = 25.0
"""How long beyond drain and stop an engine may take to go before the daemon goes without it."""

_TOLD_S = 1.0
"""So long after their time clients may take to be told that their answers are cut off."""

_TRIED_AGAIN_S = 3.0
"""systemd starts what ended at once again; what can't come up takes its time."""

_SCANNED_S = 2.0
"""By then a daemon that came up has looked at its models' files, mostly."""

_LINGER_S = 600.0
"""How long what is staged outlives a daemon whose engines outlive it."""

CLOCK = Clock(monotonic=time.monotonic, wall=time.time)


def set_up_log() -> None:
    """Log to the journal with fields where stderr is the journal, else to stderr for people."""
    handler = journal_handler()
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(terminal_format(sys.stderr))
    # No line says which thread or task wrote it: what isn't looked up costs no request anything.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    faulthandler.enable()  # a watchdog's SIGABRT shows where the loop stood
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def run(
    settings: Settings,
    load: Callable[[], Settings],
    absent: Sequence[Problem] = (),
    *,
    systemd: bool = False,
) -> int:
    """Run until SIGTERM or SIGINT; return the exit status. `load` reads the config once more.

    `absent`: what the config names and isn't there yet. `systemd`: engines are its units. Raises
    `ConfigError` where the config's pools don't fit on the GPUs of this host.
    """
    for problem in absent:
        log.warning("%s; the other models are served meanwhile", problem)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Daemon(settings, load, systemd=systemd).run())
    except (StartUpError, GatewayError, ControlError, LaunchError) as error:
        log.critical("%s", error, extra=MessageId.CANT_START.about(reason=error))
        if systemd:
            time.sleep(_TRIED_AGAIN_S)
        return EX_UNAVAILABLE
    log.info("stopped")
    return 0


class Daemon:
    """One life of the daemon."""

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], *, systemd: bool = False
    ) -> None:
        """`load` reads the config once more; it raises `ConfigError`."""
        self._first = settings.by_systemd() if systemd else settings
        self._systemd = systemd
        self._outlives = self._first.host.engines_outlive_daemon
        self._load = (lambda: load().by_systemd()) if systemd else load
        self._fitter: Fitter
        self._config: InForce
        self._started = CLOCK.wall()
        self._manager = ServiceManager()
        self._listening: Listening
        self._told_status = ""
        self._told_status_at = -math.inf
        self._metrics = Metrics(self._snapshot, ENDPOINTS)
        self._ending: Ending
        self._operations: Operations
        self._supervisor: Supervisor
        self._watch: GpuWatch
        self._refitting: Refitting
        self._history: History
        self._chronicle: Chronicle
        self._audit = Audit(CLOCK.monotonic, on=self._first.gateway.audits)
        self._keeping: KeepingWarm
        self._probes: Probes

    async def run(self) -> None:
        """Run until told to stop. Raises the rooms' own errors where one can't be opened."""
        settings = self._first
        outlive = self._outlives
        self._ending = Ending(engines_too=not outlive)
        stop = self._ending.asked
        # First: it can tell a stop from a restart, also of a daemon that only comes up.
        launcher = self._launcher(settings.host.run_dir, outlive=outlive)
        self._listening = Listening(self._manager, os.environ, _tell)
        async with AsyncExitStack() as house:
            house.enter_context(Folders(settings))
            history = History(
                settings.host.state_dir / HISTORY_FILE, _warn, keep=settings.history.keep
            )
            house.callback(history.close)
            self._history = history
            self._fitter = await fitter(
                settings, history.sizes, _warn, _tell, own_user=self._systemd
            )
            self._config = InForce(settings, self._load, self._fitter, self._manager.reloading)
            house.push_async_callback(launcher.close)
            keeper = await self._stage_keeper(house)
            self._supervisor = self._furnish(house, launcher, history, keeper)
            found = self._left_behind() if outlive else {}
            await launcher.open()
            for leftover in await launcher.sweep(found):
                log.warning(
                    "killed process %d of %s, which an earlier warmd had left behind",
                    *(leftover.pid, leftover.name),
                    extra=MessageId.LEFTOVER_KILLED.about(replica=leftover.name),
                )
            await self._open_to_operators(house)
            front = Front(self._supervisor, int(self._started), CLOCK)
            gateway = gateway_of(
                lambda: self._config.settings.gateway,
                front,
                self._request_done,
                self._audit.refused,
                _warn,
            )
            house.push_async_callback(gateway.close)
            addresses = [(a.host, a.port) for a in settings.gateway.listen]
            ready = await self._listening.tcp("gateway", addresses)
            bound = await gateway.start(addresses, ready)
            self._listening.keep("gateway", gateway.sockets)
            balancers = await self._tell_balancers(house, front)

            # Not before: a daemon that fails to come up must not take engines down with it.
            for name, record in found.items():
                self._supervisor.succession.take_over(name, record)
            scheme = "https" if settings.gateway.tls.certificate else "http"
            fronts = ", ".join(f"{scheme}://{_bracketed(host)}:{port}" for host, port in bound)
            models = count(len(settings.models), "model")
            log.info(
                "warmd %s serves %s on %s",
                *(warmd.__version__, models, fronts),
                extra=MessageId.SERVES.about(),
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_soon)
            self._manager.tell("READY=1")
            house.push_async_callback(self._keeping.close)
            house.push_async_callback(self._probes.close)
            watches = (self._watch.run(), self._refitting.await_gpu(), self._tell_late())
            for watch in watches:
                task = asyncio.create_task(watch, name="watch")
                house.callback(task.cancel)
            loop = asyncio.create_task(self._supervisor.run(self._after_tick), name="supervisor")
            ends: list[asyncio.Future[Any]] = [loop, stop]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            reason = stop.result() if stop.done() else "the supervisor failed"
            balancers.stopping = True
            await self._shut_down(gateway, loop, reason)
            if not stop.done():
                loop.result()  # raises: it is our bug, and its traceback belongs in the journal

    def _launcher(self, run_dir: Path, *, outlive: bool) -> HostLauncher:
        if not self._systemd:
            return DirectLauncher(run_dir, outlive=outlive)
        # Not above: what speaks D-Bus takes memory that no other daemon needs.
        from warmd.launch.systemd import SystemdLauncher  # noqa: PLC0415

        launcher = SystemdLauncher(run_dir, _warn)
        self._ending.own_job = launcher.own_job
        return launcher

    async def _stage_keeper(self, house: AsyncExitStack) -> Keeper:
        """Return the stage keeper; one that an earlier daemon left goes on holding."""
        host = self._config.settings.host
        keeper = Keeper(
            host.run_dir,
            linger_s=_LINGER_S if self._outlives else 0.0,
            tmpfs=self._config.settings.stage_folder,
            by_unit=self._systemd,
            report=_warn,
        )
        house.push_async_callback(lambda: keeper.close(leave=not self._ending.engines_too))
        try:
            await keeper.open()
        except StagingError as error:
            _warn(str(error))
        return keeper

    async def _open_to_operators(self, house: AsyncExitStack) -> None:
        settings = self._first
        control = ControlServer(
            settings.control_socket,
            settings.control.group,
            self._operations,
            self._metrics.expose,
            _warn,
            probing=self._probes,
        )
        house.push_async_callback(lambda: control.close(leave=self._leaves_sockets))
        ready = self._listening.unix("control", settings.control_socket)
        self._listening.keep("control", [await control.start(ready)])
        scrapes = MetricsServer(settings.metrics.listen, self._metrics.expose)
        house.push_async_callback(scrapes.close)
        addresses = [(a.host, a.port) for a in settings.metrics.listen]
        ready = await self._listening.tcp("metrics", addresses)
        self._listening.keep("metrics", await scrapes.start(ready))

    @property
    def _leaves_sockets(self) -> bool:
        """Whether the next daemon is to find them listening."""
        return self._manager.listens and not self._ending.for_good

    async def _shut_down(self, gateway: Gateway, loop: asyncio.Task[None], reason: str) -> None:
        self._ending.begun = self._refitting.stopped = self._config.stopped = True
        leave = not self._ending.engines_too
        settings = self._config.settings
        engine = settings.engine
        drain = settings.gateway.drain if leave else engine.drain_timeout
        patience = drain + engine.stop_timeout + _LAST_RESORT_S
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={patience * 1e6:.0f}")
        what = "engines go on without it" if leave else "engines are drained first"
        log.info("stopping: %s; %s", reason, what, extra=MessageId.STOPPING.about(reason=reason))
        self._manager.tell(f"STATUS=stopping: {reason}; {what}")
        if self._ending.for_good:
            self._listening.end()
        await gateway.stop_accepting()
        if leave:
            # Engines serve to the last answer; whoever still waits for one is refused at once.
            self._supervisor.begin_closing(reason)
            if not await gateway.drain(drain):
                gateway.cut_off()
                await gateway.drain(_TOLD_S)
        # Else replicas drain themselves.
        try:
            async with asyncio.timeout(patience):
                await self._supervisor.close(reason, leave=_TOLD_S if leave else None)
        except TimeoutError:
            log.error("engines or holders of files outlive their end; they are left to the kernel")
        await gateway.drain(drain)
        loop.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await loop

    # What the rooms are made of

    def _left_behind(self) -> dict[str, EngineRecord]:
        """Return what an earlier daemon left and can be taken over; say why all else can't."""
        found, doubts = self._supervisor.succession.left_behind()
        for name, doubt in doubts.items():
            log.warning(
                "%s: the engine that an earlier warmd left is stopped: %s",
                *(name, doubt),
                extra=MessageId.NOT_TAKEN_OVER.about(replica=name, reason=doubt),
            )
        return found

    def _furnish(
        self, house: AsyncExitStack, launcher: Launcher, history: History, keeper: Keeper
    ) -> Supervisor:
        settings = self._config.settings
        total = host_memory().total
        budget, sleeping = settings.ram.staging.of(total), settings.ram.sleeping.of(total)
        reserve = settings.ram.reserve.of(total)

        def ram(held: Held, pinned: int) -> RamLedger:
            available = host_memory().available
            return RamLedger(budget, held.taken, available, sleeping, pinned, reserve, held.gone)

        residency, starts = residency_of(lambda: self._supervisor.models, history)
        chronicle = self._chronicle = Chronicle(history, self._metrics, CLOCK, starts)
        build = Build(launcher, CLOCK, keeper, settings, self._fitter.proofs)
        supervisor = build.supervisor = Supervisor(CLOCK, chronicle, ram, build)
        learnt = supervisor.shelf.learnt
        build.learner = Learner(settings.host.state_dir, _warn, learnt)
        house.push_async_callback(build.learner.close)
        build.watch = self._watch = GpuWatch(supervisor, CLOCK.monotonic)
        config = self._config
        self._refitting = Refitting(
            supervisor, self._fitter, lambda: config.settings, config.changing
        )
        config.begin(supervisor, history, _warn)
        self._keeping = KeepingWarm(
            supervisor, lambda: config.settings, chronicle, history.synthetic, clock=CLOCK
        )
        self._probes = Probes(
            supervisor, lambda: config.settings, history.synthetic, clock=CLOCK, tell=_tell
        )
        self._probes.recall()
        self._operations = Operations(
            supervisor,
            config,
            clock=CLOCK,
            ending=self._ending,
            fitter=self._fitter,
            history=history,
            residency=residency,
            started=self._started,
            watch=self._watch,
        )
        return supervisor

    async def _tell_balancers(self, house: AsyncExitStack, front: Front) -> AgentCheck:
        told = AgentCheck(front)
        house.callback(told.close)
        addresses = self._first.gateway.agent_check
        ready = await self._listening.tcp("agent-check", [(a.host, a.port) for a in addresses])
        self._listening.keep("agent-check", await told.start(addresses, ready))
        return told

    def _snapshot(self) -> Status:
        return self._operations.snapshot()

    def _request_done(self, record: RequestRecord) -> None:
        self._chronicle.request_done(record)
        self._keeping.heard(record)
        self._audit.request_done(record)

    # What it does by itself

    async def _tell_late(self) -> None:
        """Say what can't be ready in time, once files have been looked at."""
        await asyncio.sleep(_SCANNED_S)
        for sentence in await self._config.late(CLOCK.wall()):
            log.warning("%s", sentence, extra=MessageId.LATE.about(reason=sentence))

    def _reload_soon(self) -> None:
        # Kept, or nobody would hold the task; it ends by itself.
        self._reload_task = asyncio.create_task(self._reload_on_signal(), name="reload")

    async def _reload_on_signal(self) -> None:
        try:
            await self._config.reload()
        except ConfigError as error:
            log.error(
                "the config can't be used and the running one stays in force: %s",
                error,
                extra=MessageId.CONFIG_REFUSED.about(reason=error),
            )
        except ValueError as refused:
            log.warning("%s", refused, extra=MessageId.CONFIG_REFUSED.about(reason=refused))

    # What systemd is told

    def _after_tick(self) -> None:
        """Feed the watchdog: only a loop that completes its ticks is alive (sd_notify(3))."""
        self._chronicle.stands(standings(self._supervisor.models.values()))
        self._history.tick()
        self._audit.tick()
        self._refitting.around_quarantine()
        self._keeping.tick()
        self._probes.tick()
        self._manager.tell("WATCHDOG=1", *self._status_news())

    def _status_news(self) -> list[str]:
        """What `systemctl status` is to show, where that has changed; at most once a second."""
        now = CLOCK.monotonic()
        if not self._manager.listens or self._ending.begun or now < self._told_status_at + 1.0:
            return []
        self._told_status_at = now
        view = self._supervisor.view
        told, self._told_status = (
            self._told_status,
            status_line(view.statuses(), view.card_statuses()),
        )
        return [f"STATUS={self._told_status}"] if told != self._told_status else []


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tell(sentence: str) -> None:
    log.info("%s", sentence)


def _warn(sentence: str) -> None:
    log.warning("%s", sentence)
