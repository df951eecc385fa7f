"""How the rooms see each other: what they are built with, and what they know from earlier lives."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from warmd.aside import aside
from warmd.config import GatewaySettings, Settings, bygone, doubts_about_access, overbooked
from warmd.devices import NO_GPU, Footprint, GpuError, GpuTrouble, footprint, host_memory
from warmd.engine import EngineError, point_at, stable_path
from warmd.fitting import UNKNOWN_GPU, Fitter, Sizes
from warmd.gateway import (
    Certificate,
    Gateway,
    GatewayLimits,
    Keys,
    ModelCard,
    Models,
    Refused,
    RequestDone,
)
from warmd.gpu_watch import GpuWatch
from warmd.history import HISTORY_FILE, History, KeptOpening, Rises, read_rises, read_sizes
from warmd.ladder import FileKind, Phase, Rung, replica_name
from warmd.launch import Launcher
from warmd.learning import Learner
from warmd.parties import party_of_new
from warmd.placing import ROSTER_FILE, cards_of
from warmd.planner import Card, Reservations
from warmd.policy import Fairness, Override
from warmd.policy.lead import Figures, leads_of
from warmd.policy.opening import Attendance, Opening
from warmd.replica import Fit, Replica
from warmd.roster import cards_now, note
from warmd.staged import StagedFiles
from warmd.staging import (
    FileSet,
    Keeper,
    Left,
    Proofs,
    Request,
    StagingError,
    cache_files,
    expected_digests,
    known_program,
    knows_format,
    model_folder,
    weight_files,
)
from warmd.supervisor import (
    CardRules,
    Clock,
    FileTerms,
    Known,
    Managed,
    Rules,
    Scan,
    Supervisor,
    spared,
)
from warmd.timeline import WEEK_S, foretell

_DRIVER_S = 10.0

Report = Callable[[str], None]
"""Who is told of something in a sentence."""


class Build:
    """Makes replicas and keepers of weights that tell the supervisor of their changes."""

    supervisor: Supervisor
    watch: GpuWatch
    learner: Learner

    def __init__(
        self, launcher: Launcher, clock: Clock, keeper: Keeper, settings: Settings, proofs: Proofs
    ) -> None:
        """Of `settings` those tables hold that are read once."""
        self._launcher = launcher
        self._clock = clock
        self._keeper = keeper
        self._proofs = proofs
        self._state_dir = settings.host.state_dir
        self._cache_dir = settings.host.cache_dir
        self._rate = settings.staging.rate

    def replica(self, model: str, index: int, fit: Fit) -> Replica:
        """Make the `index`-th replica of `model`."""
        return Replica(
            replica_name(model, index),
            model,
            fit=fit,
            launcher=self._launcher,
            measure=_footprint,
            gives_back=self.watch.gives_back,
            clock=self._clock.monotonic,
            listener=self.supervisor,
        )

    def staged(self, terms: FileTerms) -> StagedFiles:
        """Make the keeper of a set of files."""
        return StagedFiles(
            terms.key,
            terms.kind,
            self.scan(terms),
            self._keeper,
            clock=self._clock.monotonic,
            listener=self.supervisor.shelf,
            in_thread=aside,
            rate=self._rate,
            proofs=self._proofs,
            aim=partial(self._aim, terms.owner) if terms.kind is FileKind.WEIGHTS else None,
        )

    def _aim(self, model: str, request: Request, copy: bool) -> None:
        source = request.folder if copy else request.root
        try:
            point_at(stable_path(self._cache_dir, model), source or request.files[0].parent)
        except EngineError as error:
            raise StagingError(str(error)) from error

    def scan(self, terms: FileTerms) -> Scan:
        """Return what finds the files of a set."""
        match terms.kind:
            case FileKind.PROGRAM:
                return lambda: _files(known_program(self._state_dir, terms.source))
            case FileKind.WEIGHTS:
                return partial(_weights, terms)
            case FileKind.CACHES:
                return lambda: _files(cache_files(self._state_dir, terms.owner))

    def left(self) -> Mapping[str, Left]:
        """Return what an earlier daemon left held of sets that nobody has asked for since."""
        return self._keeper.left

    def came_up(self, replica: Replica) -> None:
        """Hear that an engine has been started and is ready: there is something to be learnt."""
        pid, made = replica.state.pid, replica.fit.make.compiled_in
        files = {each.kind: each for each in self.supervisor.models[replica.model].terms.files}
        apart = (self._cache_dir, files[FileKind.WEIGHTS].source)
        if pid is not None:
            python = files[FileKind.PROGRAM].source
            self.learner.came_up(replica.model, pid, python, compiled_in=made, apart=apart)


def _weights(terms: FileTerms) -> Request:
    root = model_folder(terms.source)
    found = weight_files(terms.source, terms.load_format)
    sums = {} if terms.verify is None else expected_digests(terms.verify, root, found.files)
    return Request(found.files, found.total, None, terms.place, terms.folder, root, sums)


def _files(found: FileSet | None) -> Request:
    return Request((), 0) if found is None else Request(found.files, found.total)


def gateway_of(
    table: Callable[[], GatewaySettings],
    models: Models,
    on_done: RequestDone,
    on_refused: Refused,
    warn: Callable[[str], None],
) -> Gateway:
    """Build the gateway as `table` says now; what holders of keys may do is asked each time."""
    now = table()
    keys = None if now.api_keys is None else Keys(now.api_keys, warn)
    pair = now.tls.files()
    return Gateway(
        models,
        GatewayLimits(
            now.max_body,
            now.header_timeout,
            now.body_timeout,
            connect_timeout=now.connect_timeout,
            first_byte_timeout=now.first_byte_timeout,
            silence_timeout=now.silence_timeout,
            say_after=now.say_after,
            say_every=now.say_every,
        ),
        on_done,
        keys,
        limits_of_keys=lambda: table().keys,
        on_refused=on_refused,
        tls=None if pair is None else Certificate(*pair, warn).context,
    )


class Front:
    """The supervisor as the gateway sees it."""

    def __init__(self, supervisor: Supervisor, created: int, clock: Clock) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._created = created
        self.resolve = supervisor.resolve
        self.rung = supervisor.rung_met
        self.idle_s = supervisor.idle_s
        self.wants_prefix = supervisor.wants_prefix
        self.take = supervisor.take
        self.acquire = supervisor.acquire
        self.outlook = supervisor.outlook
        self.eta_s = supervisor.eta_s

    def spared(self, model: str) -> Rung | None:
        """The rung that a request would meet now without the model's calendar; None: the same."""
        return spared(self._supervisor.models[model], self._clock.monotonic())

    def cards(self) -> list[ModelCard]:
        """Every model that exists."""
        models = self._supervisor.models.values()
        return [self._card(each) for each in models if not each.retired]

    def _card(self, model: Managed) -> ModelCard:
        refused = model.why_no_hold(self._clock.wall()) or _given_up(model)
        target = model.target
        ready = 0 if refused else sum(r.state.phase is Phase.READY for r in model.replicas)
        wanted = target.replicas - target.extra if target.rung is Rung.HOT else 0
        name, aliases = model.name, model.terms.aliases
        return ModelCard(name, aliases, model.rung, self._created, ready, wanted, refused)


def _given_up(model: Managed) -> str | None:
    """Say why nobody is answered where every start has failed too often; see `WaitingRoom`."""
    failed = [each.state for each in model.replicas if each.state.phase is Phase.FAILED]
    if not failed or len(failed) < len(model.replicas):
        return None
    why = failed[0].trouble or failed[0].reason
    return f"its starts keep failing and it needs an operator: {why}"


async def fitter(
    settings: Settings, sizes: Sizes, report: Report, tell: Report, *, own_user: bool = False
) -> Fitter:
    """Make the fitter for the GPUs of this host, and reserve on them what `settings` say.

    `own_user`: engines run as a user of their own. What GPUs there are is what the driver says
    within a moment. Raises as `Fitter.reserve` does.
    """
    roster = settings.host.state_dir / ROSTER_FILE
    try:
        async with asyncio.timeout(_DRIVER_S):
            made = await aside(
                lambda: fitter_of_host(report, sizes, tell, roster, own_user=own_user)
            )
    except TimeoutError:
        made = Fitter(report, UNKNOWN_GPU, sizes=sizes, tell=tell, own_user=own_user)
    note(roster, made.cards, report)
    made.reserved = await aside(partial(made.reserve, settings))
    for sentence in made.reserved.sentences():
        tell(sentence)
    return made


def fitter_of_host(
    report: Report, sizes: Sizes, tell: Report, roster: Path, *, own_user: bool = False
) -> Fitter:
    """Make the fitter for the GPUs of this host; waits for the driver. `roster`: the noted ones.

    A driver that is there and doesn't work at the moment is that of a GPU all the same: an upgrade
    of it breaks NVML for everybody and engines that run for nobody.
    """
    device: str | None = UNKNOWN_GPU
    cards: tuple[Card, ...] = ()
    try:
        cards = cards_now(roster, report)
        device = names_of(cards)
    except GpuError as error:
        # Of an installed driver that isn't loaded yet, GPUs may come at any moment: pools that
        # name them must not fail at boot for want of GPUs, nor be placed in the host's memory.
        if error.trouble is GpuTrouble.NO_LIBRARY:
            device, cards = None, cards_of(())
        elif error.trouble in NO_GPU:
            device = None
    return Fitter(report, device, cards=cards, sizes=sizes, tell=tell, own_user=own_user)


def check_on_host(
    settings: Settings, now: float, report: Report
) -> tuple[Reservations, Sequence[str]]:
    """Say what `settings` reserve on this host, as `warmd run` would; waits for the disk.

    Beside that, where `[ram]` gives away more than there is, weights that aren't there, windows
    that are over, and what can't be ready in time within a week from `now` (Unix seconds).
    `report` is told of GPUs that are others than those which were noted. Raises `ConfigError`:
    where pools don't fit, or engines in their vram.
    """
    known = read_sizes(settings.host.state_dir / HISTORY_FILE)
    fitter = fitter_of_host(
        report, lambda model: known.get(model, {}), _hush, settings.host.state_dir / ROSTER_FILE
    )
    reserved = fitter.reserve(settings)
    fitter.check(settings, reserved, settings.models)
    fitter.reserved = reserved
    total = host_memory().total
    return reserved, (
        *overbooked(settings, total),
        *doubts_about_access(settings, now),
        *bygone(settings, now),
        *_without_weights(settings, fitter),
        *_late(settings, fitter, now),
    )


def _without_weights(settings: Settings, fitter: Fitter) -> Iterator[str]:
    """Say which models have no weights that an engine could load, as far as that is known."""
    for name, model in settings.models.items():
        for each in fitter.terms(settings, name).files:
            if each.kind is FileKind.WEIGHTS and knows_format(each.load_format):
                try:
                    weight_files(model.weights, each.load_format)
                except StagingError as error:
                    yield f"{name} can't start: {error}"


def _late(settings: Settings, fitter: Fitter, now: float) -> Sequence[str]:
    known = read_rises(settings.host.state_dir / HISTORY_FILE)
    budget = settings.ram.staging.of(host_memory().total)
    parties = []
    for name in settings.models:
        terms, rises = fitter.terms(settings, name), known.get(name, Rises())
        weights = _bytes_of_weights(terms.files)
        figures = Figures(rises.starts, rises.wakes, files=weights, stages=(weights or 0) <= budget)
        parties.append(party_of_new(name, terms, leads_of(figures)))
    gpus = {card.key: card.words for card in fitter.cards}
    return foretell(parties, fitter.reserved.pools, gpus, now, now + WEEK_S).warnings


def _bytes_of_weights(files: Iterable[FileTerms]) -> int | None:
    for each in files:
        if each.kind is FileKind.WEIGHTS:
            with suppress(StagingError):
                return weight_files(each.source).total
    return None


def _hush(_: str) -> None:
    """Hear what is told of engines where none is run."""


def names_of(cards: Sequence[Card]) -> str:
    """Name the kinds of these GPUs; of one that was never seen well nobody knows it."""
    return ", ".join(sorted({card.name for card in cards if not card.is_unknown}))


def rules(settings: Settings, reserved: Reservations) -> Rules:
    """Return what `settings` say of all models together."""
    table = settings.fairness
    return Rules(reserved.pools, Fairness(table.stay, table.hold, table.bound))


def card_rules(settings: Settings, fitter: Fitter) -> CardRules:
    """Return which cards are watched, and what `settings` say of them."""
    return CardRules(fitter.cards, settings.gpus.headroom, settings.gpus.tolerance)


def known_of(
    history: History, models: Iterable[str], report: Callable[[str], None] | None = None
) -> dict[str, Known]:
    """Read what is known of each model from earlier lives; waits for the disk.

    `report` is told, in a sentence, where that can't be read.
    """
    overrides = history.overrides.read()
    if report is not None and history.trouble is not None:
        report(
            "what operators had set could not be read, nor what starts took: models follow their "
            f"config alone; {history.trouble}"
        )
    asked = history.last_requests()
    known = {}
    for name in models:
        stored = overrides.get(name)
        known[name] = Known(
            override=None
            if stored is None
            else Override(stored.rung, stored.until, stored.floor, stored.replicas),
            starts=[times.total for times in reversed(history.recent_starts(name))],
            wakes=history.sleeps.recent_wakes(name)[::-1],
            figures=history.sleeps.figures(name),
            last_request=asked.get(name),
            starts_from=history.starts_by_rung(name),
            attendance=_attendance(history.openings.last(name), history.openings.calendar(name)),
        )
    return known


def _attendance(kept: Sequence[KeptOpening], calendar: tuple[str, float] | None) -> Attendance:
    """Return what earlier lives have judged: what opened after that, nobody has."""
    late = next((each for each in reversed(kept) if each.late is None), None)
    mark, since = calendar or ("", -math.inf)
    return Attendance(
        tuple(each.at for each in kept),
        None if late is None else Opening(late.at, late.until, late.name, late.replicas),
        since=max([since, *(each.at for each in kept)]),
        mark=mark,
    )


async def _footprint(pid: int) -> Footprint | None:
    return await aside(lambda: footprint(pid))
