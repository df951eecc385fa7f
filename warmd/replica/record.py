"""What is written down of an engine, so that a later daemon can take it over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from warmd.engine.canary import CanaryAnswer
from warmd.ladder import Phase
from warmd.replica.ports import Fit
from warmd.replica.state import Nap, ReplicaState

_VOUCHED = (Phase.READY, Phase.DRAINING, Phase.ASLEEP)
"""In the midst of a start, a sleep or a wake nobody can say what an engine is."""


@dataclass(frozen=True)
class EngineRecord:
    """One engine as it was last known. `identity` is the launcher's, see `RunningEngine`."""

    fingerprint: str
    identity: str
    phase: Phase
    version: str | None
    canary: CanaryAnswer | None = None
    cycles: int = 0
    first_nap: Nap | None = None
    last_nap: Nap | None = None
    gpus: tuple[str, ...] = ()  # to which it is bound, where they were known
    figure: Mapping[str, object] | None = None  # how its VRAM was reckoned, see `Fit`

    @classmethod
    def of(cls, state: ReplicaState, identity: str, version: str | None, fit: Fit) -> EngineRecord:
        """Return the record of an engine in `state`."""
        return cls(
            fingerprint=fit.make.fingerprint(),
            identity=identity,
            phase=state.phase,
            version=version,
            canary=state.canary,
            cycles=state.cycles,
            first_nap=state.first_nap,
            last_nap=state.last_nap,
            gpus=fit.gpus or (),
            figure=fit.figure,
        )

    @classmethod
    def found(cls, noted: Mapping[str, Any] | None) -> EngineRecord | None:
        """Read what was written down; None where that is nothing, or not ours to understand."""
        if noted is None:
            return None
        try:
            known = dict(noted)
            known["phase"] = Phase(known["phase"])
            known["gpus"] = tuple(known["gpus"])
            for key, kind in (
                ("canary", CanaryAnswer),
                ("first_nap", Nap),
                ("last_nap", Nap),
            ):
                known[key] = None if known[key] is None else kind(**known[key])
            return cls(**known)
        except (TypeError, ValueError, KeyError):
            return None

    def as_json(self) -> dict[str, object]:
        """Return what `found` reads."""
        return asdict(self)

    @property
    def sleeps(self) -> bool:
        """Whether the engine was asleep."""
        return self.phase is Phase.ASLEEP

    @property
    def may_go_on(self) -> bool:
        """Whether what the engine did last is a phase that it can be taken over in."""
        return self.phase in _VOUCHED

    def doubt(self, fit: Fit) -> str | None:
        """Say why the engine can't be vouched for before it is even asked; None where it can."""
        if not self.may_go_on:
            return f"it was {self.phase} when the earlier warmd ended"
        if self.fingerprint != fit.make.fingerprint():
            return "its settings have changed since it was started"
        if self.gpus and not fit.keeps(self.gpus):
            return f"it runs on {', '.join(self.gpus)}, where its pool isn't any more"
        return None
