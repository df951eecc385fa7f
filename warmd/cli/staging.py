"""How a model's files come into RAM: `warmctl stage --watch`. Pure, from the daemon's JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmd.cli.words import amount, clean, kind_words, span

_WINDOW_S = 5.0
"""Over so long a speed is taken: what is cached already would else make it look endless."""

_PATIENCE_S = 5.0
"""What holds it up for a moment, such as room that is being made, is no reason to give up."""

_UP = ("asleep", "hot")
_HEIGHT = {"cold": 0, "staged": 1, "asleep": 2, "hot": 3}


@dataclass(frozen=True)
class Bar:
    """One kind of files: what is read of it, in bytes; `speed` in bytes a second where it moves."""

    kind: str
    done: int
    total: int
    state: str
    speed: float | None = None
    resident: int | None = None

    @property
    def words(self) -> str:
        """Say it: `1.2 of 16.1 GiB, 2.1 GB/s, 7 s left`."""
        if not self.total:
            return "nothing to stage"
        told = [amount(self.done, self.total)]
        if self.state == "staging" and self.speed:
            told += [f"{self.speed / 1e9:.2f} GB/s", f"{span(self._left(self.speed), 1)} left"]
        if self.resident is not None and self.state != "staging":
            told.append(f"{100 * self.resident // self.total} % resident")
        return ", ".join((*told, *([] if self.state == "staging" else [self.state])))

    def _left(self, speed: float) -> float:
        return (self.total - self.done) / speed


@dataclass(frozen=True)
class Seen:
    """What there is to show, and how it ended: `verdict` is the exit status, None: it goes on."""

    bars: Sequence[Bar]
    note: str = ""
    verdict: int | None = None


class Watch:
    """Looks at one model's status again and again, and knows when there is no more to see."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._stuck_since: float | None = None

    def see(self, status: Mapping[str, Any], name: str, now: float) -> Seen:
        """Take the status of `now` (monotonic seconds) in; `name` is the model's own."""
        model = status["models"].get(name)
        if model is None:
            return Seen((), f"{name} is no longer in the config", 1)
        bars = [self._bar(each, now) for each in model["files"]]
        if model["rung"] in _UP:
            return Seen(bars, f"{name} is {model['rung']}: its engine has loaded its files", 0)
        if _HEIGHT.get(model["target"], 0) < 1:
            return Seen(bars, f"{name} shall be {model['target']}: {clean(model['reason'])}", 1)
        goes_on = any(each["state"] == "staging" for each in model["files"])
        if model["rung"] == "staged" and not goes_on:
            return Seen(bars, f"{name} is staged", 0)
        why = _why_not(model)
        busy = any(
            each["state"] == "staging"
            for other in status["models"].values()
            for each in other["files"]
        )
        if why is None or busy:
            self._stuck_since = None
            return Seen(bars, why or "")
        if self._stuck_since is None:
            self._stuck_since = now
        if now - self._stuck_since < _PATIENCE_S:
            return Seen(bars, why)
        return Seen(bars, f"{name} can't be staged: {why}", 1)

    def _bar(self, each: Mapping[str, Any], now: float) -> Bar:
        kind, done = each["kind"], each["done"]
        seen = self._seen.setdefault(kind, deque())
        if seen and done < seen[-1][1]:
            seen.clear()  # it began anew
        seen.append((now, done))
        while seen[0][0] < now - _WINDOW_S and len(seen) > 2:
            seen.popleft()
        passed = now - seen[0][0]
        speed = (done - seen[0][1]) / passed if passed > 0 else None
        return Bar(kind_words(kind), done, each["total"], each["state"], speed, each["resident"])


def _why_not(model: Mapping[str, Any]) -> str | None:
    troubles = [each["problem"] for each in model["files"] if each["kind"] == "weights"]
    why = next((each for each in troubles if each), None) or model["held_up_by"]
    return None if why is None else clean(why)


def bar_lines(bars: Sequence[Bar]) -> list[str]:
    """Say it in lines, for a pipe."""
    return [f"{bar.kind}: {bar.words}" for bar in bars]
