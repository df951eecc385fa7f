"""Who may have how much of the host's RAM."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import size


@dataclass(frozen=True)
class RamLedger:
    """Bytes of RAM: budgets, what is taken of them, and what the host has free.

    `held` are staged weights, `pinned` is what sleeping engines have taken, and never give back
    while they live (vllm#16663). `available` is what the kernel says can be had without swapping
    (MemAvailable, proc(5)); of that, `reserve` is left to the host, whatever the budgets allow.
    """

    budget: int
    held: int
    available: int
    sleeping_budget: int = 0
    pinned: int = 0
    reserve: int = 0

    def refuses(self, wanted: int) -> str | None:
        """Say why `wanted` more bytes can't be staged; None where they can."""
        if self.held + wanted > self.budget:
            return (
                f"its weights ({size(wanted)}) don't fit in ram.staging: "
                f"{size(self.held)} of {size(self.budget)} are taken"
            )
        if wanted > self._spare:
            return f"its weights ({size(wanted)}) don't fit in RAM: {self._to_spare}"
        return None

    def refuses_sleep(self, wanted: int) -> str | None:
        """Say why an engine can't pin `wanted` more bytes for its sleep; None where it can."""
        if wanted <= 0:
            return None  # it has slept before: what it takes is taken
        if self.pinned + wanted > self.sleeping_budget:
            return (
                f"its sleep would take {size(wanted)}, which don't fit in ram.sleeping: "
                f"{size(self.pinned)} of {size(self.sleeping_budget)} are taken"
            )
        if wanted > self._spare:
            return f"its sleep would take {size(wanted)} of RAM: {self._to_spare}"
        return None

    @property
    def _spare(self) -> int:
        # The kernel counts held page cache as available, but here it is spoken for.
        return max(0, self.available - self.held - self.reserve)

    @property
    def _to_spare(self) -> str:
        kept = f", and ram.reserve keeps {size(self.reserve)}" if self.reserve else ""
        return f"{size(self._spare)} are to spare{kept}"
