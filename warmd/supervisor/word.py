"""An operator's word on a model: what it comes to, or why it can't be kept."""

from __future__ import annotations

from warmd.ladder import Rung
from warmd.policy import Override
from warmd.spoken import count, duration
from warmd.supervisor.model import Managed


def word_on(
    model: Managed,
    rung: Rung | None,
    for_s: float | None,
    wall: float,
    *,
    floor: bool = False,
    replicas: int | None = None,
) -> tuple[Override | None, str]:
    """Return what holds from `wall` on (Unix seconds), for `for_s` seconds, and say it.

    Raises `ValueError` for a model that can't sleep, or that has no place for so many replicas.
    """
    name, most = model.name, len(model.terms.fits)
    if rung is Rung.ASLEEP and model.terms.wish.cannot_sleep is not None:
        raise ValueError(f"{name} can't be put to sleep: {model.terms.wish.cannot_sleep}")
    if replicas is not None and replicas > most:
        raise ValueError(
            f"{name} can't have {count(replicas, 'replica')}: its config has a place for {most}; "
            "raise its `replicas`, or `scale.max`, then `warmctl reload`"
        )
    if rung is None:
        ever = "already" if model.override is None else "again"
        return None, f"{name} follows its own policy {ever}"
    override = Override(rung, None if for_s is None else wall + for_s, floor, replicas)
    how_long = "until it is set otherwise" if for_s is None else f"for {duration(for_s)}"
    many = "" if replicas is None else f"with {count(replicas, 'replica')} "
    return override, f"{name} is to be {'at least ' if floor else ''}{rung} {many}{how_long}"
