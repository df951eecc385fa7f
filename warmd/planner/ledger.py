"""Who may have how much of the host's RAM."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import size


@dataclass(frozen=True)
class RamLedger:
    """Bytes of RAM: budgets, what is taken of them, and what the host has free.

    `held` are staged files, `pinned` is what sleeping engines have taken, and never give back
    while they live (vllm#16663). `available` is what the kernel says can be had without swapping
    (MemAvailable, proc(5)); of that, `reserve` is left to the host, whatever the budgets allow.
    `gone`: what of `held` the kernel doesn't count as available, for it is locked or in a tmpfs.
    """

    budget: int
    held: int
    available: int
    sleeping_budget: int = 0
    pinned: int = 0
    reserve: int = 0
    gone: int = 0

    def refuses(self, wanted: int, what: str = "its weights") -> str | None:
        """Say why `wanted` more bytes of `what` can't be staged; None where they can."""
        if self.held + wanted > self.budget:
            lacks = self.held + wanted - self.budget  # rounded sizes may look as though all fits
            return (
                f"{what} ({size(wanted)}) don't fit in ram.staging: "
                f"{size(self.held)} of {size(self.budget)} are taken, which is {size(lacks)} too "
                "much; raise ram.staging"
            )
        if wanted > self._spare:
            return f"{what} ({size(wanted)}) don't fit in RAM: {self._to_spare}"
        return None

    def room(self, freed: int = 0) -> int:
        """Return how many bytes more could be staged once `freed` of those held are let go."""
        budget, memory = self.budget - self.held, self._beyond
        return max(0, min(budget + freed, memory + freed))

    @property
    def short(self) -> int:
        """The bytes by which less is available than `reserve` keeps for the host."""
        return max(0, -self._beyond)

    @property
    def shortage(self) -> str:
        """Say that less is available than there should be."""
        ours = self.held - self.gone
        held = f", of which {size(ours)} are staged files" if ours else ""
        return (
            f"memory is short: {size(self.available)} are available{held}, and ram.reserve keeps "
            f"{size(self.reserve)}"
        )

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
        return max(0, self._beyond)

    @property
    def _beyond(self) -> int:
        # The kernel counts held page cache as available, but here it is spoken for.
        return self.available - (self.held - self.gone) - self.reserve

    @property
    def _to_spare(self) -> str:
        kept = f", and ram.reserve keeps {size(self.reserve)}" if self.reserve else ""
        return f"{size(self._spare)} are to spare{kept}"
