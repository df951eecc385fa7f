"""Operators' words on models, kept across restarts."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.history.writer import Writer
from warmd.ladder import Rung

# A newer warmd may have written words that this one does not know.
_RUNGS = frozenset(rung.value for rung in Rung)


@dataclass(frozen=True)
class StoredOverride:
    """An operator's word on a model. `until` and `set_at` are Unix seconds; no `until`: no end.

    `floor`: the model may stand higher; `replicas` None: as many as its policy wants.
    """

    rung: Rung
    until: float | None
    set_at: float
    floor: bool = False
    replicas: int | None = None


class Overrides:
    """Writes and reads them; `set` returns at once, `read` waits for the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def set(
        self,
        model: str,
        rung: Rung | None,
        until: float | None,
        at: float,
        *,
        floor: bool = False,
        replicas: int | None = None,
    ) -> None:
        """Keep an operator's word on `model` across restarts; `rung` None takes it back."""
        if rung is None:
            self._writer.save("DELETE FROM overrides WHERE model = ?", (model,), override_of=model)
            return
        self._writer.save(
            "INSERT OR REPLACE INTO overrides (model, rung, until, set_at, floor, replicas) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (model, rung.value, until, at, floor, replicas),
            override_of=model,
        )

    def read(self) -> dict[str, StoredOverride]:
        """Every stored override, those that have ended included."""
        columns = "model, rung, until, set_at, floor, replicas"
        rows = self._writer.read(f"SELECT {columns} FROM overrides")  # noqa: S608  # names of ours
        return {
            model: StoredOverride(Rung(rung), until, set_at, bool(floor), replicas)
            for model, rung, until, set_at, floor, replicas in rows
            if rung in _RUNGS
        }
