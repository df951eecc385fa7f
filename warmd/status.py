"""What the daemon tells about itself: frozen facts that `warmctl status`, metrics and logs read.

Field names here are the stable JSON of `warmctl status --json`: add, never rename.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.ladder import FileKind, Phase, Rung, Stage, VramBy


@dataclass(frozen=True)
class StagingStatus:
    """How much of a model's weights is in RAM, in bytes; `holding`: a process keeps it there."""

    done: int
    total: int
    holding: bool
    busy: bool = False  # they are on their way into RAM


@dataclass(frozen=True)
class StagedStatus:
    """How much of one kind of a model's files is in RAM, in bytes.

    `held`: all of it is resident by measurement, and held; `partial`: it is held and not all is
    there, as `problem` says, or for want of room.
    """

    kind: FileKind
    done: int  # brought in so far
    total: int
    resident: int  # by the last measurement
    held: bool
    busy: bool  # it is on its way into RAM
    partial: bool
    paused: str | None  # why nothing of it is read at the moment
    problem: str | None  # why it isn't there, or not all of it


@dataclass(frozen=True)
class StartStatus:
    """A start that is under way: seconds spent by stage so far, and what it is doing now."""

    stage: Stage
    seconds: dict[str, float]  # by Stage value
    elapsed: float
    expected: float | None  # seconds from decision to ready, from measured starts


@dataclass(frozen=True)
class SleepStatus:
    """What sleep takes of a replica whose engine has slept: seconds, and bytes."""

    cycles: int  # how often this engine has slept
    seconds: float  # to fall asleep, the last time
    host_ram: int | None  # held in the host's RAM since its first sleep; None: not measured
    device_kept: int | None  # kept on the device while it sleeps; None where nobody can tell
    last_wake: dict[str, float] | None  # seconds by part: engine, first_answer, canary


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica. `since` is Unix seconds; `pid` is None where no engine runs."""

    name: str
    rung: Rung
    phase: Phase
    pid: int | None
    since: float
    reason: str  # why it stands where it stands, one sentence
    in_flight: int
    failures: int  # starts or runs that failed in a row
    retry_at: float | None  # Unix seconds of the next try while backing off
    start: StartStatus | None  # while it is coming up
    last_start: dict[str, float] | None  # seconds by Stage value of the last start that got ready
    sleep: SleepStatus | None = None  # once its engine has slept
    rehearses: bool = False  # the sleep that it goes into, or comes out of, is only a rehearsal
    expected: float | None = None  # seconds that its wake takes, from measured ones, while it wakes
    stale: bool = False  # its engine was started with settings that have changed since
    renewed: bool = False  # its settings have changed since it was last ready
    queued: int = 0  # of those in flight, how many wait inside its engine; asked where it scales


@dataclass(frozen=True)
class EntryStatus:
    """A window, open or closed from `since` until `until`; or a cron entry, by its firings.

    Unix seconds, None where that isn't known or never comes. `rules`: it says what holds now.
    """

    words: str  # such as `window mon-fri 09:00-18:00`
    rung: Rung
    replicas: int | None  # None: as many as the model has
    is_open: bool | None  # None: a cron entry
    rules: bool
    since: float | None
    until: float | None


@dataclass(frozen=True)
class SaidStatus:
    """What a calendar says from `at` (Unix seconds) on. `rung` None: nothing, `words` is empty."""

    at: float
    rung: Rung | None
    replicas: int | None
    words: str


@dataclass(frozen=True)
class CalendarStatus:
    """The calendar of a model: its entries, and its next changes."""

    timezone: str
    entries: tuple[EntryStatus, ...]
    changes: tuple[SaidStatus, ...]


@dataclass(frozen=True)
class WarmupCron:
    """A cron entry that asks for a warm-up request or a probe: when it did last, and does next.

    Unix seconds, None where it never did or will. `timezone`: in which its times are read.
    """

    words: str
    timezone: str
    last: float | None
    next: float | None


@dataclass(frozen=True)
class ModelStatus:
    """One model: where it stands (`rung`), where it shall be (`target`) and why (`reason`)."""

    name: str
    aliases: tuple[str, ...]
    rung: Rung
    target: Rung
    reason: str  # why the target is what it is
    held_up_by: str | None  # why the target can't be approached at the moment, None if nothing
    override_until: float | None  # Unix seconds; None where there is no override or no end
    waiting: int  # requests that wait for it
    oldest_wait: float  # seconds
    staging: StagingStatus
    replicas: tuple[ReplicaStatus, ...]
    cannot_sleep: str | None = None  # why its engines can't be put to sleep, None where they can
    pool: str | None = None
    vram: int = 0  # bytes of its pool for each engine, on each of its GPUs
    vram_by: VramBy = VramBy.DECLARED  # who says so
    retired: bool = False  # no longer in the config: it is drained and stopped
    staged: tuple[StagedStatus, ...] = ()  # in the order in which a start needs them
    rank: str = "rests"  # what the target rests on: operator, demand, calendar or rests
    until: float | None = None  # Unix seconds until when that is known to rule, None where it isn't
    calendar: str | None = None  # what it says, until when and what then; None where it has none
    timezone: str | None = None  # in which that is said
    keepalive: str | None = None  # how its engines are kept warm in quiet hours, None: not at all
    replicas_wanted: int = 0  # how many engines shall stand at `target`; `reason` says why


@dataclass(frozen=True)
class CardShare:
    """What one engine or foreign process has of a card, in bytes.

    `bytes`: what counts, for an engine its reservation, or what it holds where that is more.
    """

    who: str
    bytes: int
    held: int
    sleeps: bool = False


@dataclass(frozen=True)
class CardStatus:
    """One GPU, or the host's memory where there is none; sizes in bytes.

    `used` and `free` are None while nobody looks, or nobody can tell: `trouble` says why then.
    """

    key: str  # its UUID
    index: int
    words: str  # such as `GPU 0`
    name: str
    total: int
    headroom: int
    used: int | None
    free: int | None
    reserved: int  # for engines that are up and awake
    taken: int  # what nothing else is started on: all engines, and foreign processes or headroom
    engines: tuple[CardShare, ...]
    foreign: tuple[CardShare, ...]
    trouble: str | None
    mismatches: tuple[str, ...]  # who holds more than was promised, one sentence each
    seen: float | None  # Unix seconds of the last look
    quarantine: str | None = None  # why nothing is started or woken on it, None: it is in service
    remedy: str | None = None  # what to do about that


@dataclass(frozen=True)
class Decision:
    """A replica's change of rung: when (Unix seconds), why, and what it took in seconds."""

    at: float
    replica: str
    from_rung: Rung
    to_rung: Rung
    reason: str
    seconds: float | None


@dataclass(frozen=True)
class Status:
    """The whole daemon at one moment."""

    version: str
    pid: int
    started: float  # Unix seconds
    time: float  # Unix seconds
    models: dict[str, ModelStatus]
    cards: tuple[CardStatus, ...] = ()  # none where no model reserves VRAM
    history_trouble: str | None = None  # why the history can't be written or read, None where fine
    warnings: tuple[str, ...] = ()  # what the config asks for and can't have, in sentences
