"""What the config says of a model, as the supervisor is told it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from warmd.ladder import FileKind, Place, VramBy, set_key
from warmd.policy import Hygiene, Wish
from warmd.replica import Fit


@dataclass(frozen=True)
class SleepPolicy:
    """How a model sleeps. `key` names what its figures hold for, but for the engine's version."""

    level: int
    hygiene: Hygiene
    rehearse: bool
    key: str


@dataclass(frozen=True)
class FileTerms:
    """A set of files that a model needs in RAM; other terms make another set of it.

    `owner`: a model, or for program files the environment; `source`: where the files are.
    """

    kind: FileKind
    owner: str
    source: Path
    place: Place = Place.PAGE_CACHE
    folder: Path | None = None  # where a tmpfs shows it
    verify: str | None = None  # what says which digests they have
    load_format: str = "auto"  # of weights, in vLLM's words: it says which files are read

    @property
    def key(self) -> str:
        """The set's name, which no other set has."""
        return set_key(self.kind, self.owner)


@dataclass(frozen=True)
class Terms:
    """What the config says of a model. `max_wait` in seconds; one fit for each replica.

    `max_waiting`: so many requests may wait for it at once; `by_prefix`: those whose prompts begin
    alike go to the same replica, if they can.

    `vram`: bytes of its pool for each engine, on each of its GPUs; `unsized`: why that can't be
    told and no engine can be started; `adapters`: names that clients may ask for as well; `files`:
    what is held in RAM of it, its weights among them, in the order in which a start needs them.
    """

    aliases: tuple[str, ...]
    wish: Wish
    max_wait: float
    max_waiting: int
    files: tuple[FileTerms, ...]
    fits: tuple[Fit, ...]
    sleep: SleepPolicy | None = None
    pool: str | None = None
    vram: int = 0
    vram_by: VramBy = VramBy.DECLARED
    unsized: str | None = None
    pinned: bool = False
    adapters: tuple[str, ...] = ()
    by_prefix: bool = False
    sizes_key: str = ""  # names what the sizes that a start tells hold for
