"""What the gateway answers itself, from what it is told of the models: pure, no request is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from warmd.gateway.models import Directory, ModelCard
from warmd.gateway.paths import Health, Readiness, clip

_RETRY_AFTER_S = 5
"""Where nobody has measured how long it takes."""


@dataclass(frozen=True)
class OwnAnswer:
    """A status, a document for JSON, and headers beside those that every answer has."""

    status: int
    document: object
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document).encode()


def model_entries(models: Directory, cards: Iterable[ModelCard]) -> dict[str, dict[str, object]]:
    """Return these entries of `/v1/models` by the name that is asked for, aliases included."""
    return {
        shown: _entry(shown, card, models.eta_s(card.name))
        for card in cards
        for shown in (card.name, *card.aliases)
    }


def _entry(shown: str, card: ModelCard, eta_s: float | None) -> dict[str, object]:
    """An alias is an entry of its own, with the model as its root."""
    return {
        "id": shown,
        "object": "model",
        "created": card.created,
        "owned_by": "warmd",
        "root": card.name,
        "parent": None,
        "warmd": {
            "rung": card.rung.value,
            "ready": bool(card.ready),
            "eta_s": _rounded(eta_s),
            "aliases": list(card.aliases),
        },
    }


def probe_answer(asked: Health | Readiness, models: Directory, *, stopping: bool) -> OwnAnswer:
    """Answer a load balancer."""
    match asked:
        case Health():
            return OwnAnswer(200, {"status": "ok"})
        case Readiness(str(name)):
            model = models.resolve(name)
            card = next((each for each in models.cards() if each.name == model), None)
            if card is None:  # which ones there are isn't told: no key was asked for
                error = {"message": f"There is no model {clip(name)}.", "code": "model_not_found"}
                return OwnAnswer(404, {"ready": False, "error": error})
            return _model_answer(card, models, stopping=stopping)
        case Readiness():
            return _box_answer(models, every=asked.every, stopping=stopping)


def _model_answer(card: ModelCard, models: Directory, *, stopping: bool) -> OwnAnswer:
    eta_s = models.eta_s(card.name)
    ready = bool(card.ready) and not stopping
    document = {
        "ready": ready,
        "model": card.name,
        "rung": card.rung.value,
        "eta_s": _rounded(eta_s),
        **_stopping(stopping),
    }
    if card.refused is not None:  # no time makes it ready, so nobody is told to come back
        return OwnAnswer(503, {**document, "needs_an_operator": True})
    return _answer(document, [eta_s], ready=ready)


def _box_answer(models: Directory, *, every: bool, stopping: bool) -> OwnAnswer:
    """Models aren't named here: whoever asks has shown no key."""
    wanted = [card for card in models.cards() if card.wanted]
    up = [card for card in wanted if card.ready]
    enough = len(up) == len(wanted) if every else bool(up) or not wanted
    ready = enough and not stopping
    counts = {"ready": len(up), "should_be": len(wanted)}
    etas = [] if ready else [models.eta_s(card.name) for card in wanted if not card.ready]
    return _answer({"ready": ready, "hot_models": counts, **_stopping(stopping)}, etas, ready=ready)


def _stopping(stopping: bool) -> dict[str, object]:
    return {"stopping": True} if stopping else {}


def _answer(document: object, etas: Iterable[float | None], *, ready: bool) -> OwnAnswer:
    if ready:
        return OwnAnswer(200, document)
    known = [eta_s for eta_s in etas if eta_s is not None]
    after = max(1, math.ceil(min(known))) if known else _RETRY_AFTER_S
    return OwnAnswer(503, document, {"Retry-After": str(after)})


def _rounded(eta_s: float | None) -> float | None:
    return None if eta_s is None else round(eta_s, 1)
