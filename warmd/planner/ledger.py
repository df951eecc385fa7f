"""Who may have how much of the host's RAM."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import size


@dataclass(frozen=True)
class RamLedger:
    """Bytes of RAM for staged weights: the budget, what is held of it, and what the host has free.

    `available` is what the kernel says can be had without swapping (MemAvailable, proc(5)).
    """

    budget: int
    held: int
    available: int

    def refuses(self, wanted: int) -> str | None:
        """Say why `wanted` more bytes can't be staged; None where they can."""
        if self.held + wanted > self.budget:
            return (
                f"its weights ({size(wanted)}) don't fit in ram.staging: "
                f"{size(self.held)} of {size(self.budget)} are taken"
            )
        # The kernel counts held page cache as available, but here it is spoken for.
        spare = max(0, self.available - self.held)
        if wanted > spare:
            return f"its weights ({size(wanted)}) don't fit in RAM: {size(spare)} are to spare"
        return None
