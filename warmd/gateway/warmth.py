"""How warm a box is, in the words of HAProxy's agent-check: pure.

One line of ASCII (HAProxy's configuration manual, `agent-check`): `up` takes back an earlier
`down`, a percentage is the share of the weight that the server has in HAProxy's config, `down` says
why after a `#`. `drain` isn't said: only `ready` would take it back, and with it the `maint` or
`drain` that an operator of HAProxy has set. A weight of 0 % keeps requests away just as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from warmd.gateway.models import Directory, ModelCard
from warmd.gateway.paths import clip
from warmd.ladder import Rung

NOTHING_NEW = "up 0%"
"""What flows goes on, nobody new is sent here."""

# Of a hot one's weight: enough to come first among the cold, too little to get what a hot one
# could answer.
_SHARE = {Rung.ASLEEP: 4, Rung.STAGED: 2, Rung.COLD: 1}


def agent_answer(models: Directory, asked: str, *, stopping: bool) -> str:
    """Return the line for a model's name, or for the whole box where `asked` is empty."""
    if stopping:
        return NOTHING_NEW
    cards = models.cards()
    if not asked:
        return f"up {_of_box(cards)}%"
    model = models.resolve(asked)
    card = next((each for each in cards if each.name == model), None)
    if card is None:
        shown = "".join(each if each.isprintable() else "?" for each in asked)
        return f"down # there is no model {clip(shown)} here"
    if card.refused is not None:
        return f"down # {clip(card.refused, 200)}"
    return f"up {_of_model(card)}%"


def _of_model(card: ModelCard) -> int:
    if card.ready:
        return max(_SHARE[Rung.ASLEEP] + 1, _percent(card.ready, card.wanted))
    return _SHARE.get(card.rung, _SHARE[Rung.ASLEEP])  # hot and not ready: it drains, or is proved


def _of_box(cards: Sequence[ModelCard]) -> int:
    """The mean of the models that should be hot; all of it where none should be."""
    shares = [_percent(card.ready, card.wanted) for card in cards if card.wanted]
    return max(1, sum(shares) // len(shares)) if shares else 100


def _percent(ready: int, wanted: int) -> int:
    return 100 * min(ready, wanted) // wanted if wanted else 100
