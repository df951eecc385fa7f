"""Each request is a line in the journal: whose, for what, how it went. Never what was said."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from warmd.gateway import Refusal, RequestRecord
from warmd.message_ids import MessageId
from warmd.spoken import count

log = logging.getLogger("warmd")

_WINDOW_S = 10.0
_TOLD_MAX = 20
"""How many refused requests are told one by one in a window: no flood of them fills the journal."""


class Audit:
    """Writes the lines. What reached a model is told each time, what was refused within bounds."""

    def __init__(self, clock: Callable[[], float], *, on: bool = True) -> None:
        """`clock`: monotonic seconds. `on`: whether anything is told at all."""
        self._on = on
        self._clock = clock
        self._began = clock() - _WINDOW_S
        self._told = 0
        self._untold: Counter[int] = Counter()  # by status

    def request_done(self, record: RequestRecord) -> None:
        """Tell of a request that named a model which exists."""
        if not self._on or not log.isEnabledFor(logging.INFO):
            return
        model, key = record.model, record.key
        who = "somebody" if key is None else key
        first = record.first_byte_s
        seen = "no byte of an answer" if first is None else f"its first byte after {first:.3f} s"
        # Made here, and not by log.info(): that looks up who called it, for each request.
        line = log.makeRecord(
            *(log.name, logging.INFO, __file__, 0),
            f"{model if record.replica is None else record.replica}: {record.path} of {who}: "
            f"{record.status} after {record.total_s:.3f} s: met it {record.met.value}, waited "
            f"{record.waited_s:.3f} s, {seen}",
            *((), None),
            extra={
                "message_id": MessageId.REQUEST_DONE,
                "warmd": {
                    "model": model,
                    "key": key,
                    "path": record.path,
                    "status": record.status,
                    "request_id": record.request_id or None,
                    "replica": record.replica,
                    "rung": record.met.value,
                    "waited_s": f"{record.waited_s:.6f}",
                    "first_byte_s": None if first is None else f"{first:.6f}",
                    "seconds": f"{record.total_s:.6f}",
                    "bytes_in": record.bytes_in,
                    "bytes_out": record.bytes_out,
                },
            },
        )
        log.handle(line)

    def refused(self, refusal: Refusal) -> None:
        """Tell of a request that was refused before a model was found for it, or count it."""
        if not self._on:
            return
        self.tick()
        now = self._clock()
        if now - self._began >= _WINDOW_S:
            self._began, self._told = now, 0
        if self._told >= _TOLD_MAX:
            self._untold[refusal.status] += 1
            return
        self._told += 1
        why = "" if refusal.code is None else f" ({refusal.code})"
        log.info(
            "%s of %s: refused with %d%s",
            *(refusal.path or "a request", refusal.key or "somebody", refusal.status, why),
            extra=MessageId.REQUEST_REFUSED.about(
                key=refusal.key,
                path=refusal.path or None,
                status=refusal.status,
                request_id=refusal.request_id or None,
                reason=refusal.code,
            ),
        )

    def tick(self) -> None:
        """Say how many were not told, once their window is over; to be called every second."""
        if not self._untold or self._clock() - self._began < _WINDOW_S:
            return
        many = self._untold.total()
        kinds = ", ".join(f"{n} with {status}" for status, n in sorted(self._untold.items()))
        self._untold.clear()
        log.warning(
            "%s more refused within %.0f s than are told one by one: %s",
            *(count(many, "request"), _WINDOW_S, kinds),
            extra=MessageId.REFUSALS_UNTOLD.about(reason=kinds),
        )
