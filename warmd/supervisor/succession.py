"""From one life of the daemon to the next: what the earlier one knew, and the engines it left."""

from __future__ import annotations

from collections.abc import Mapping

from warmd.replica import EngineRecord
from warmd.supervisor.events import Clock
from warmd.supervisor.model import Managed
from warmd.supervisor.ports import Known
from warmd.supervisor.teller import REMEMBERED


class Succession:
    """Takes over for the supervisor's models, as a daemon comes up or a model is new."""

    def __init__(self, clock: Clock, models: Mapping[str, Managed]) -> None:
        self._clock = clock
        self._models = models

    def restore(self, name: str, known: Known) -> None:
        """Take over what an earlier life of the daemon knew of a model."""
        model = self._models[name]
        model.override = known.override
        model.starts = list(known.starts)[-REMEMBERED:]
        model.starts_from = {rung: [*each] for rung, each in known.starts_from.items()}
        model.wakes = list(known.wakes)[-REMEMBERED:]
        model.figures = dict(known.figures)
        model.attendance = known.attendance
        if known.last_request is not None:
            ago = max(0.0, self._clock.wall() - known.last_request)
            model.last_request = self._clock.monotonic() - ago

    def left_behind(self) -> tuple[dict[str, EngineRecord], dict[str, str]]:
        """Return, by replica, what of an earlier daemon may be taken over, and why the rest can't.

        Only what the earlier daemon noted is looked at: the engines aren't asked yet.
        """
        found, doubts = {}, {}
        for replica in (r for m in self._models.values() for r in m.replicas):
            record = EngineRecord.found(replica.fit.make.noted())
            if record is None or not record.phase.is_up:
                continue  # its engine had ended before the earlier daemon did
            doubt = record.doubt(replica.fit)
            if doubt is None:
                found[replica.name] = record
            else:
                doubts[replica.name] = doubt
        return found, doubts

    def take_over(self, replica: str, record: EngineRecord) -> None:
        """Check the engine that an earlier daemon left running, and go on with it."""
        replicas = {r.name: r for m in self._models.values() for r in m.replicas}
        replicas[replica].begin_takeover(record)
