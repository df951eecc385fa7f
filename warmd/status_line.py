"""One line on all that the daemon has, for `systemctl status warmd`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from warmd.ladder import Phase, Rung
from warmd.status import CardStatus, ModelStatus

_GIB = 1 << 30
_RISING = {Phase.STARTING: "starting", Phase.WARMING: "starting", Phase.WAKING: "waking"}
_FAILED = frozenset({Phase.FAILED, Phase.BACKING_OFF})
_ORDER = ("hot", "starting", "waking", "asleep", "staged", "cold", "failed")


def status_line(models: Mapping[str, ModelStatus], cards: Sequence[CardStatus]) -> str:
    """Return `2 hot, 1 starting (63%), 1 staged; 41/80 GiB reserved`; each model is told once.

    A model whose engine fails counts as failed, also where its files are in RAM.
    """
    said = "no models configured"
    if models:
        doing = [_doing(model) for model in models.values()]
        said = ", ".join(_told(word, doing) for word in _ORDER if word in dict(doing))
    total, reserved = (
        sum(each) for each in ([c.total for c in cards], [c.reserved for c in cards])
    )
    if total:
        said += f"; {round(reserved / _GIB)}/{round(total / _GIB)} GiB reserved"
    for card in cards:
        if card.quarantine is not None:
            said += f"; {card.words} is quarantined"
    return said


def _doing(model: ModelStatus) -> tuple[str, str]:
    """What a model is counted as, and how far it has come."""
    if model.rung is Rung.HOT:
        return "hot", ""
    for replica in model.replicas:
        if replica.phase in _RISING and not replica.rehearses:
            start = replica.start
            far = (
                ""
                if start is None or not start.expected
                else _percent(start.elapsed / start.expected)
            )
            return _RISING[replica.phase], far
    if any(replica.phase in _FAILED for replica in model.replicas):
        return "failed", ""
    return model.rung.value, ""


def _percent(share: float) -> str:
    # Past the expected time, 100 % would be a promise that is already broken.
    return f"{min(99, int(100 * share))}%"


def _told(word: str, doing: Sequence[tuple[str, str]]) -> str:
    far = [how_far for each, how_far in doing if each == word and how_far]
    shown = f" ({', '.join(far)})" if far else ""
    return f"{sum(each == word for each, _ in doing)} {word}{shown}"
