"""Reading a request's body whole, within bounds."""

from __future__ import annotations

from warmd.gateway.errors import RefusedError
from warmd.gateway.naming import Body


class BodyBudget:
    """The sum of all bodies that are held at one time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes; raises `RefusedError` with 503 where they are too many."""
        if self.held + size > self._limit:
            raise RefusedError(
                503,
                f"The gateway holds {self.held:,} bytes of waiting requests and takes no more "
                "until some are passed on: try again in a second.",
                code="gateway_full",
                retry_after_s=1,
            )
        self.held += size


class HeldBody:
    """One request's body of at most `limit` bytes, counted in the budget until it is dropped."""

    __slots__ = ("_budget", "_counted", "_limit", "data")

    def __init__(self, budget: BodyBudget, limit: int) -> None:
        self._budget = budget
        self._limit = limit
        self._counted = 0
        self.data: Body = b""

    def add(self, chunk: bytes) -> None:
        """Take in more of the body; raises `RefusedError`."""
        if self._counted + len(chunk) > self._limit:
            raise too_large(self._limit)
        self._budget.take(len(chunk))
        self._counted += len(chunk)
        if not self.data:
            self.data = chunk  # mostly it comes in one piece, which is not copied
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += chunk

    def drop(self) -> None:
        """Let go of the body; doing it again does nothing."""
        self._budget.held -= self._counted
        self._counted = 0
        self.data = b""


def too_large(max_body: int) -> RefusedError:
    """Refuse a body, mostly before a byte of it is read."""
    return RefusedError(413, f"The body is larger than {max_body:,} bytes.", code="body_too_large")
