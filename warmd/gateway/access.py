"""What a client may do by the key that it shows; the only one who counts requests by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from warmd.config import KeySettings
from warmd.gateway.errors import RefusedError
from warmd.gateway.keys import Keys
from warmd.spoken import count

_RETRY_AFTER_S = 1

Limits = Callable[[], Mapping[str, KeySettings]]
"""What holders of keys may do at this moment, by name; who isn't there may do everything."""


class Place:
    """One request among those of a key. To release it once more changes nothing."""

    __slots__ = ("_counts", "_holder")

    def __init__(self, counts: dict[str, int], holder: str | None) -> None:
        self._counts = counts
        self._holder = holder

    def release(self) -> None:
        """Give the place back."""
        if self._holder is None:
            return
        left = self._counts[self._holder] - 1
        if left:
            self._counts[self._holder] = left
        else:
            del self._counts[self._holder]
        self._holder = None


class Access:
    """Without `keys` nobody is asked for one, and everybody may do everything.

    Addresses that a proxy tells of (X-Forwarded-For and the like) are neither believed nor made.
    """

    def __init__(self, keys: Keys | None = None, limits: Limits = dict) -> None:
        self._keys = keys
        self._limits = limits
        # Also of holders without a limit: a reload may bring one while their requests run.
        self._in_flight: dict[str, int] = {}

    def holder(self, authorization: str, api_key: str) -> str | None:
        """Return whose key the two headers show, None where none is asked for.

        Raises `RefusedError` (401). "" stands for a header that isn't there.
        """
        if self._keys is None:
            return None
        holder = self._keys.whose(authorization, api_key)
        if holder is None:
            raise RefusedError(
                401,
                "This needs a valid API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                code="invalid_api_key",
            )
        return holder

    def may_use(self, holder: str | None, model: str) -> bool:
        """Whether `model`, by its own name, exists for the holder of a key."""
        if holder is None:
            return True
        limits = self._limits().get(holder)
        return limits is None or limits.models is None or model in limits.models

    def enter(self, holder: str | None) -> Place:
        """Count one more request of `holder`, until its place is released.

        Raises `RefusedError` (429) where it has as many as it may have.
        """
        if holder is None:
            return Place(self._in_flight, None)
        now = self._in_flight.get(holder, 0)
        limits = self._limits().get(holder)
        if limits is not None and limits.in_flight is not None and now >= limits.in_flight:
            raise RefusedError(
                429,
                f"This key may have {count(limits.in_flight, 'request')} in flight at a time, and "
                "it has: send this one again when one of them is over.",
                code="rate_limit_exceeded",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._in_flight[holder] = now + 1
        return Place(self._in_flight, holder)
