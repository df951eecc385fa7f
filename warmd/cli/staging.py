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

_BUSY = "staging"
_UP = ("asleep", "hot")
_HEIGHT = {"cold": 0, "staged": 1, "asleep": 2, "hot": 3}


@dataclass(frozen=True)
class Bar:
    """One kind of files: what is read of it, in bytes; `speed` in bytes a second where it moves."""

    kind: str
    done: int
    total: int
    state: str = ""
    speed: float | None = None
    resident: int = 0

    @property
    def words(self) -> str:
        """Say it: `1.2 of 16.1 GiB, 2.1 GB/s, 7 s left`."""
        if not self.total:
            return "nothing to stage"
        told = [amount(self.done, self.total)]
        if self.state == _BUSY:
            if self.speed:
                left = (self.total - self.done) / self.speed
                told += [f"{self.speed / 1e9:.2f} GB/s", f"{span(left, 1)} left"]
        elif self.state:
            told += [f"{100 * self.resident // self.total} % resident", self.state]
        return ", ".join(told)


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
        bars = [self._bar(each, now) for each in model["staged"]]
        if model["rung"] in _UP:
            return Seen(bars, f"{name} is {model['rung']}: its engine has loaded its files", 0)
        if _HEIGHT.get(model["target"], 0) < 1:
            return Seen(bars, f"{name} shall be {model['target']}: {clean(model['reason'])}", 1)
        if model["rung"] == "staged" and not _is_busy(model):
            return Seen(bars, f"{name} is staged", 0)
        why = _why_not(model)
        if why is None or any(_is_busy(each) for each in status["models"].values()):
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
        return Bar(kind_words(kind), done, each["total"], _state(each), speed, each["resident"])


def _state(each: Mapping[str, Any]) -> str:
    if each["busy"]:
        return f"paused: {clean(each['paused'])}" if each["paused"] else _BUSY
    return "held" if each["held"] else "a part is held" if each["partial"] else ""


def _is_busy(model: Mapping[str, Any]) -> bool:
    return any(each["busy"] for each in model["staged"])


def _why_not(model: Mapping[str, Any]) -> str | None:
    troubles = [each["problem"] for each in model["staged"] if each["kind"] == "weights"]
    why = next((each for each in troubles if each), None) or model["held_up_by"]
    return None if why is None else clean(why)


def bar_lines(bars: Sequence[Bar]) -> list[str]:
    """Say it in lines, for a pipe."""
    return [f"{bar.kind}: {bar.words}" for bar in bars]
