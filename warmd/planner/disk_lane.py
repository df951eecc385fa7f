"""The disk lane: one set is staged at a time, for two streams from one disk make both late.

Sets have their turn in the order of need (`file_sets`). Where one doesn't fit, others are let go
for it that are needed later, if that makes room enough; none of a model that is on its way up. So
each step makes what is needed sooner stand and takes from what is needed later alone: with facts
that stay as they are, it ends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from warmd.ladder import FileKind
from warmd.planner.actions import Action, LookAtFiles, PaceFiles, ReleaseFiles, StageFiles
from warmd.planner.facts import Scene
from warmd.planner.file_sets import FileSet, file_sets, is_anyone_served
from warmd.planner.vram import awaits_look
from warmd.spoken import duration, size

_WORTH = 0.01
"""The share of a set below which it isn't worth to hold a part of it."""

_WORTH_MORE = 0.05
"""The share of a set below which it isn't worth to take a part anew for more of it."""


@dataclass
class DiskLane:
    """What to let go and bring in now, and for each set that can't move, why (by key)."""

    actions: list[Action] = field(default_factory=list)
    held_up: dict[str, str] = field(default_factory=dict)


def disk_lane(scene: Scene, rises: Collection[str], held_up: dict[str, str]) -> DiskLane:
    """Plan the disk; note in `held_up`, by model, whose weights can't be staged and why.

    `rises` names the engines that this plan starts. The process that stages would take the CPU
    from an engine's way to exec: it comes once the engine's program runs.
    """
    sets = file_sets(scene)
    lane = DiskLane()
    unneeded = [each for each in sets if each.staging.taken and not each.wanted]
    lane.actions += [ReleaseFiles(each.key, each.why_not) for each in unneeded]
    going = {each.key for each in unneeded}
    _keep_the_floor(scene, sets, going, lane)
    for each in sets:
        if each.staging.busy and each.key not in going:
            urgent = each.is_urgent(served=is_anyone_served(scene))
            if urgent is not each.staging.urgent:
                lane.actions.append(PaceFiles(each.key, urgent))
    _take_turns(scene, sets, going, rises, lane)
    for each in sets:
        if each.kind is FileKind.WEIGHTS and each.key in lane.held_up:
            model, why = each.models[0], lane.held_up[each.key]
            told = held_up.get(model.name)
            if told is not None and told == model.unverified and why not in told:
                held_up[model.name] = f"{told}; {why}"
            held_up.setdefault(model.name, why)
    return lane


def _keep_the_floor(scene: Scene, sets: Sequence[FileSet], going: set[str], lane: DiskLane) -> None:
    """Let the farthest go where less memory is available than `ram.reserve` keeps."""
    short = scene.ram.short - sum(each.staging.taken for each in sets if each.key in going)
    for each in reversed(sets):
        if short <= 0:
            return
        if each.staging.taken and each.key not in going:
            lane.actions.append(ReleaseFiles(each.key, scene.ram.shortage, short=True))
            going.add(each.key)
            short -= each.staging.taken


def _take_turns(
    scene: Scene,
    sets: Sequence[FileSet],
    going: set[str],
    rises: Collection[str],
    lane: DiskLane,
) -> None:
    running = next((each for each in sets if each.staging.busy), None)
    freed = sum(each.staging.taken for each in sets if each.key in going)
    taken = False  # somebody has the turn
    for index, asker in enumerate(sets):
        staging = asker.staging
        if staging.partial:
            lane.held_up[asker.key] = _why_partly(scene, asker)
            if running is None and not taken and _may_grow(scene, asker, freed):
                lane.actions.append(ReleaseFiles(asker.key, "there is room for more of them"))
                taken = True
        if not asker.wanted or asker.is_there or staging.busy or staging.total is None:
            continue
        if staging.retry_at is not None and scene.now < staging.retry_at:
            wait = duration(staging.retry_at - scene.now)
            why = staging.problem or f"{staging.reason}; it is tried again in {wait}"
            lane.held_up[asker.key] = why.removeprefix("; ")
            continue
        if running is not None and not asker.shares_a_model_with(running):
            lane.held_up[asker.key] = f"{_being(running)} being staged from the same disk"
        if taken:
            continue
        later = [each for each in sets[index + 1 :] if each.key not in going]
        turn = _Turn(scene, asker, later, freed, launches=_launches(scene, asker, rises))
        taken = turn.is_called_for(lane) if running is None else turn.takes_over(running, lane)


def _may_grow(scene: Scene, each: FileSet, freed: int) -> bool:
    """Whether a part that is held can become a larger one: what it has is read from RAM then."""
    staging, total = each.staging, each.staging.total or 0
    if staging.limit is None or not each.wanted or each.rises:
        return False
    could = min(total, scene.ram.room(freed + staging.taken))
    return (
        could - staging.taken >= max(1, int(_WORTH_MORE * total)) or staging.taken < could == total
    )


def _launches(scene: Scene, asker: FileSet, rises: Collection[str]) -> bool:
    """Whether an engine is on its way to exec that the asker's turn must not slow down."""
    launches = any(r.launches or r.name in rises for m in asker.models for r in m.replicas)
    return launches or any(awaits_look(scene, model) for model in asker.models)


@dataclass(frozen=True)
class _Turn:
    """A set that is to be brought in, and the sets that are needed `later` and hold.

    `freed`: bytes of what is let go already; `launches`: who launches keeps its turn, and waits.
    """

    scene: Scene
    asker: FileSet
    later: Sequence[FileSet]
    freed: int
    launches: bool

    def is_called_for(self, lane: DiskLane) -> bool:
        """Stage it, or make room for it; return whether it has the turn, and others wait."""
        asker, room = self.asker, self.scene.ram.room(self.asker.staging.left)
        fits = self._limit(self.freed)
        aside = () if fits is not None else self._who_makes_room(self.freed, self.later)
        if aside is None:
            lane.held_up[asker.key] = self._refusal
            return False
        problem = asker.staging.problem
        if problem is not None and (aside or self._bytes > room) and not self._is_giant:
            # What is sound isn't let go for what may fail again.
            lane.actions.append(LookAtFiles(asker.key))
            again = f"warmctl set {asker.models[0].name} auto"
            lane.held_up[asker.key] = f"{problem}; once that is mended, it is given room: {again}"
            return False
        if self.launches:
            return True
        if aside or (self.freed and self._bytes > room):
            why = f"it makes room for {asker.words}, needed sooner"
            lane.actions += [ReleaseFiles(each.key, why) for each in aside]
            lane.held_up[asker.key] = "room is made for it"
            return True
        limit = fits if self._is_giant else None
        urgent = asker.is_urgent(served=is_anyone_served(self.scene))
        lane.actions.append(StageFiles(asker.key, asker.why, limit, urgent))
        return True

    def takes_over(self, running: FileSet, lane: DiskLane) -> bool:
        """Call off what only rests, for who is on its way up; return True: the disk is taken."""
        if running not in self.later or running.rises or not self.asker.rises or self.launches:
            return True
        if self.asker.staging.problem is not None:
            return True  # it may fail again
        freed = self.freed + running.staging.taken
        others = [each for each in self.later if each is not running]
        if self._limit(freed) is not None or self._who_makes_room(freed, others) is not None:
            lane.actions.append(
                ReleaseFiles(running.key, f"its turn goes to {self.asker.words}, needed sooner")
            )
        return True

    @property
    def _bytes(self) -> int:
        return self.asker.staging.total or 0

    @property
    def _is_giant(self) -> bool:
        return self._bytes > self.scene.ram.budget

    def _limit(self, freed: int) -> int | None:
        """Return how many bytes can come in once `freed` are free; None where too few."""
        room = self.scene.ram.room(freed + self.asker.staging.left)
        least = max(1, int(_WORTH * self._bytes)) if self._is_giant else self._bytes
        return min(room, self._bytes) if room >= least else None

    def _who_makes_room(self, freed: int, later: Sequence[FileSet]) -> Sequence[FileSet] | None:
        """Return what is to be let go, the farthest first; None: that would be in vain."""
        if self._is_giant:
            return None  # what is held as a whole is worth more than a part
        aside: list[FileSet] = []
        for each in reversed(later):
            if self._limit(freed) is not None:
                break
            if each.staging.taken and not each.rises:
                aside.append(each)
                freed += each.staging.taken
        if self._limit(freed) is None:
            return None
        for each in reversed(aside):  # what the others make room enough without may stay
            if self._limit(freed - each.staging.taken) is not None:
                aside.remove(each)
                freed -= each.staging.taken
        return aside

    @property
    def _refusal(self) -> str:
        if self._is_giant:
            return _partly(self.scene, self.asker)
        return self.scene.ram.refuses(self._bytes, self.asker.its) or "room is made for it"


def _being(running: FileSet) -> str:
    if running.kind is FileKind.WEIGHTS:
        return f"{running.models[0].name} is"
    return f"{running.words} are"


def _why_partly(scene: Scene, each: FileSet) -> str:
    """Say why a part of a set is held: there is no room for more, or its files are in trouble."""
    problem = each.staging.problem
    if each.staging.limit is None or (each.staging.total or 0) <= scene.ram.budget:
        return problem or f"not all of {each.its} are in RAM"
    return _partly(scene, each) + (f"; {problem}" if problem else "")


def _partly(scene: Scene, each: FileSet) -> str:
    if not scene.ram.budget:
        return "ram.staging is 0, so no files are staged"
    part = f"{size(each.staging.taken)} of them are held" if each.staging.partial else "no room"
    return (
        f"{each.its} ({size(each.staging.total or 0)}) are larger than ram.staging "
        f"({size(scene.ram.budget)}): {part}; raise ram.staging"
    )
