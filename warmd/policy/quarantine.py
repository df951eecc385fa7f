"""Which GPUs are out of service, and until when: by what the driver says, and by operators' word.

What the driver tells as a state (lost, needs a reset) is over once it says so no more: nothing but
a reset ends that, and so it also settles all errors that came before. An error that happened (an
Xid) keeps its GPU out until an operator returns it, or the driver is loaded anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

_REMEMBERED = 20
"""So many of the things that happened to a GPU are kept; a sick one may add some each second."""


@dataclass(frozen=True)
class Ailment:
    """What makes a GPU unfit, in a sentence without the GPU's name, and what to do.

    `stamp`: when it happened, in seconds by the kernel's log; None: it is so now. `dead`: the GPU
    can't be used at all, whatever an operator says.
    """

    sentence: str
    remedy: str
    stamp: float | None = None
    dead: bool = False


@dataclass(frozen=True)
class Health:
    """What is known of one GPU. `ailments` keep it out of service, the gravest first.

    `standing`: what the driver said last, in sentences; `accepted`: what of it an operator lives
    with; up to the stamp `settled` what happened counts no more; `latest` is the last that did.
    """

    ailments: tuple[Ailment, ...] = ()
    standing: frozenset[str] = field(default=frozenset())
    accepted: frozenset[str] = field(default=frozenset())
    settled: float = -math.inf
    latest: float = -math.inf

    @property
    def is_dead(self) -> bool:
        """Whether the GPU can't be used at all."""
        return any(each.dead for each in self.ailments)


def diagnose(was: Health, found: Sequence[Ailment], driver_loaded: float = -math.inf) -> Health:
    """Return what is known of a GPU after a look `found` this of it; `driver_loaded`: a stamp.

    What happened is remembered though the kernel's log has lost it meanwhile.
    """
    standing = frozenset(each.sentence for each in found if each.stamp is None)
    both = dict.fromkeys((*was.ailments, *found))
    happened = {each: each.stamp for each in both if each.stamp is not None}
    latest = max((was.latest, *happened.values()))
    settled = max(was.settled, driver_loaded)
    if was.standing and not standing:
        settled = latest  # it has been reset
    accepted = was.accepted & standing
    ailments = [each for each in found if each.stamp is None and each.sentence not in accepted]
    newest_first = sorted(happened, key=lambda each: -happened[each])
    ailments += [each for each in newest_first[:_REMEMBERED] if happened[each] > settled]
    return Health(tuple(ailments), standing, accepted, settled, latest)


def give_back(was: Health) -> Health:
    """Return what is known of a GPU that an operator has returned; a dead one can't be."""
    return replace(was, ailments=(), accepted=was.standing, settled=was.latest)
