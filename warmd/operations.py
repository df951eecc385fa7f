"""What the admin API asks: each question and order goes to the room that can answer it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

import warmd
from warmd.aside import aside
from warmd.calendars import zone_of
from warmd.config import host_zone
from warmd.devices import Survey
from warmd.ending import Ending
from warmd.engine import SizingError
from warmd.engine.sizing import Estimate
from warmd.fitting import Fitter
from warmd.foresight import Foresight
from warmd.gpu_watch import GpuWatch
from warmd.history import History, Report, Start
from warmd.in_force import InForce
from warmd.ladder import Rung
from warmd.reckoning import Account, Manner, account
from warmd.residency import Residency, SetInRam
from warmd.status import CalendarStatus, Decision, Status, WarmupCron
from warmd.supervisor import Clock, Supervisor, calendar_status
from warmd.timeline import Agenda
from warmd.warmups import asks_of

_SETTLE_S = 1.0
_FORESEEN_S = 2 * 86400.0


class Operations:
    """The daemon as an operator sees it (`warmd.control.Operations`)."""

    def __init__(
        self,
        supervisor: Supervisor,
        config: InForce,
        *,
        clock: Clock,
        ending: Ending,
        fitter: Fitter,
        history: History,
        residency: Residency,
        started: float,
        watch: GpuWatch,
    ) -> None:
        """`started`: when the daemon was, in Unix seconds."""
        self._supervisor = supervisor
        self._config = config
        self._fitter = fitter
        self._history = history
        self._watch = watch
        self._residency = residency
        self._ending = ending
        self._clock = clock
        self._started = started

    def snapshot(self) -> Status:
        """Return everything that is so at this moment."""
        return Status(
            version=warmd.__version__,
            pid=os.getpid(),
            started=self._started,
            time=self._clock.wall(),
            models=self._supervisor.view.statuses(),
            cards=self._supervisor.view.card_statuses(),
            history_trouble=self._history.trouble,
            warnings=self._fitter.reserved.warnings,
        )

    async def settle(self) -> None:
        """Wait, for a moment at most, until what was just said is written, or refused."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await aside(self._history.settle)

    async def decisions(self, model: str) -> list[Decision]:
        """Return the last changes of rung of `model`; the disk is waited for in a thread."""
        return await asyncio.to_thread(self._history.decisions, model)

    def calendar(self, model: str) -> CalendarStatus | None:
        """Return what the calendar of `model` says, entry by entry; None where it has none."""
        calendar = self._supervisor.models[model].terms.wish.calendar
        return calendar_status(calendar, self._clock.wall())

    def warmup_crons(self, model: str) -> list[WarmupCron]:
        """Return the cron entries that ask `model` for a warm-up request, or that probe it."""
        settings, now = self._config.settings, self._clock.wall()
        if model not in settings.models:
            return []
        zone, asks = zone_of(settings, model), asks_of(settings, model)
        entries = [(f'cron entry "{each.text}"', each) for each in asks.crons]
        if (nightly := asks.nightly) is not None:
            entries.append((f'a probe at "{nightly.text}"', nightly))
        return [
            WarmupCron(words, zone, each.last_until(now), each.next_after(now))
            for words, each in entries
        ]

    async def last_starts(self, model: str) -> list[Start]:
        """Return the last starts of `model`; the disk is waited for in a thread."""
        return await asyncio.to_thread(self._history.last_starts, model)

    async def history(self, model: str | None, since: float) -> Report:
        """Return what happened to `model`, or to all, since `since`; read in a thread."""
        self._history.catch_up()
        return await asyncio.to_thread(self._history.report, model, since)

    async def report(self, models: Collection[str] | None, since: float) -> Account:
        """Return what warmth brought and cost `models`, or all, since `since`; in a thread."""
        self._history.catch_up()
        manners = {name: Manner.of(m.terms.wish) for name, m in self._supervisor.models.items()}
        zone = self._config.settings.host.timezone or host_zone()
        return await asyncio.to_thread(
            lambda: account(
                self._history.past(models, since), manners, zone, since, self._clock.wall()
            )
        )

    async def size(self, model: str) -> Estimate:
        """Return what one engine of `model` takes; its files may be on a mount that hangs."""
        settings = self._config.settings
        if model not in settings.models:
            raise SizingError(f"{model} is being taken away: it has no settings any more")
        return await aside(partial(self._fitter.size, settings, model))

    async def gpus(self) -> Survey:
        """Return what stands on each GPU; the driver is waited for in a thread."""
        return await self._watch.survey()

    async def residency(self) -> list[SetInRam]:
        """Return what of each set of files is in RAM; disks are waited for in threads."""
        return await self._residency.measure()

    async def return_gpu(self, name: str) -> str:
        """Take a GPU back into service, by index or UUID; return a sentence."""
        await self._watch.examine()  # what was so at the last look may be mended
        return self._supervisor.return_gpu(name)

    async def forget_gpu(self, name: str) -> str:
        """Do without a GPU that is gone for good, by index or UUID; return sentences."""
        return "\n".join(await self._config.forget_gpu(name))

    def set_target(
        self, model: str, rung: Rung | None, for_s: float | None, replicas: int | None = None
    ) -> str:
        """Keep `model` on `rung`, or give it back to policy; return a sentence."""
        return self._supervisor.word.set_target(model, rung, for_s, replicas=replicas)

    async def shortfalls(self) -> Collection[str]:
        """Say what won't be ready for its calendar within two days, as things stand now."""
        now = self._clock.wall()
        return (await self._config.agenda(now, now + _FORESEEN_S, None)).timeline.warnings

    def keep_staged(self, model: str, for_s: float | None) -> str:
        """Keep `model` at least staged; return a sentence."""
        return self._supervisor.word.set_target(model, Rung.STAGED, for_s, floor=True)

    def try_files_again(self, model: str) -> None:
        """Look at once at files of `model` that couldn't be staged."""
        self._supervisor.word.try_files_again(model)

    def shutdown(self) -> str:
        """End the daemon and every engine, also where engines outlive it; return a sentence."""
        return self._ending.shutdown()

    async def reload(self) -> list[str]:
        """Read the config again and apply it; return what changes. Raises as `InForce.reload`."""
        return await self._config.reload()

    async def plan(self, config: Path | None) -> Foresight:
        """Say what a reload of `config`, or of the files as they stand now, would do."""
        return await self._config.plan(config)

    async def agenda(self, next_s: float, config: Path | None) -> Agenda:
        """Say what calendars move in the next `next_s` seconds, also under `config`."""
        now = self._clock.wall()
        return await self._config.agenda(now, now + next_s, config)
