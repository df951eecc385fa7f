"""What load balancers in front are told, from what the models are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from warmd.gateway.models import ModelCard
from warmd.gateway.own_answers import model_entries, probe_answer
from warmd.gateway.paths import Health, Readiness, route
from warmd.gateway.warmth import agent_answer
from warmd.ladder import Rung


def card(name: str, rung: Rung, ready: int = 0, wanted: int = 0, **more: str) -> ModelCard:
    return ModelCard(name, (f"{name}-alias",), rung, 1_700_000_000, ready, wanted, **more)


@dataclass
class Told:
    """What exists."""

    all: Sequence[ModelCard]
    eta: dict[str, float] = field(default_factory=dict)

    def cards(self) -> Sequence[ModelCard]:
        return self.all

    def resolve(self, name: str) -> str | None:
        return next((c.name for c in self.all if name in (c.name, *c.aliases)), None)

    def eta_s(self, model: str) -> float | None:
        return self.eta.get(model)


BOX = Told(
    [
        card("big", Rung.STAGED, 0, 1),
        card("small", Rung.HOT, 3, 4),
        card("rare", Rung.COLD),
        card("kept-down", Rung.HOT, refused="an operator set it to cold"),
    ],
    {"big": 41.2, "small": 0.0},
)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("", "up 37%"),  # of the two that should be hot: none of one, three of four
        ("small", "up 75%"),
        ("small-alias", "up 75%"),
        ("big", "up 2%"),
        ("rare", "up 1%"),
        ("kept-down", "down # an operator set it to cold"),
        ("gone\u00e9\x1b", "down # there is no model gone\\xe9? here"),
    ],
)
def test_the_weight_follows_the_warmth(asked: str, line: str) -> None:
    said = agent_answer(BOX, asked, stopping=False)
    assert said == line
    assert agent_answer(BOX, asked, stopping=True) == "up 0%"


def test_what_is_hot_weighs_more_than_all_that_is_not_and_nothing_is_ever_out_by_itself() -> None:
    weights = [
        int(agent_answer(Told([each]), "m", stopping=False)[3:-1])
        for each in (
            card("m", Rung.COLD),
            card("m", Rung.STAGED),
            card("m", Rung.ASLEEP),
            card("m", Rung.HOT, 1, 64),
            card("m", Rung.HOT, 1, 1),
        )
    ]
    assert weights == sorted(set(weights))
    assert weights[0] > 0
    assert agent_answer(Told([card("m", Rung.COLD)]), "", stopping=False) == "up 100%"
    assert agent_answer(Told([card("m", Rung.COLD, 0, 1)]), "", stopping=False) == "up 1%"
    assert agent_answer(Told([]), "", stopping=False) == "up 100%"


def test_ready_is_who_answers_at_once() -> None:
    small = probe_answer(Readiness("small-alias"), BOX, stopping=False)
    assert (small.status, small.headers) == (200, {})
    big = probe_answer(Readiness("big"), BOX, stopping=False)
    assert (big.status, big.headers) == (503, {"Retry-After": "42"})
    assert big.document == {"ready": False, "model": "big", "rung": "staged", "eta_s": 41.2}
    rare = probe_answer(Readiness("rare"), BOX, stopping=False)
    assert (rare.status, rare.headers) == (503, {"Retry-After": "5"})
    kept_down = probe_answer(Readiness("kept-down"), BOX, stopping=False)
    assert kept_down.status == 503
    gone = probe_answer(Readiness("nobody"), BOX, stopping=False)
    assert gone.status == 404
    assert b"big" not in gone.body  # who asks has shown no key


def test_a_box_is_ready_with_one_of_its_models_or_with_all() -> None:
    assert probe_answer(Readiness(), BOX, stopping=False).status == 200
    every = probe_answer(Readiness(every=True), BOX, stopping=False)
    assert (every.status, every.headers) == (503, {"Retry-After": "42"})
    assert every.document == {"ready": False, "hot_models": {"ready": 1, "should_be": 2}}
    assert probe_answer(Readiness(), Told([card("m", Rung.COLD)]), stopping=False).status == 200
    assert probe_answer(Readiness(), BOX, stopping=True).status == 503
    assert probe_answer(Readiness("small"), BOX, stopping=True).status == 503
    assert probe_answer(Health(), BOX, stopping=True).status == 200


def test_the_list_tells_rung_eta_and_aliases() -> None:
    entries = model_entries(BOX, BOX.cards())
    assert entries["big-alias"]["root"] == "big"
    assert entries["big-alias"]["warmd"] == {
        "rung": "staged",
        "ready": False,
        "eta_s": 41.2,
        "aliases": ["big-alias"],
    }


def test_probes_are_read_from_the_query() -> None:
    assert route("GET", "/healthz") == Health()
    assert route("HEAD", "/readyz?model=org%2Ftiny") == Readiness("org/tiny")
    assert route("GET", "/readyz?all") == Readiness(every=True)
    assert route("GET", "/readyz?model=") == Readiness()


def test_what_no_time_makes_ready_is_told_apart_from_what_is_cold() -> None:
    told = Told([card("m", Rung.STAGED, refused="its starts keep failing"), card("n", Rung.STAGED)])
    given_up = probe_answer(Readiness("m"), told, stopping=False)
    assert (given_up.status, "Retry-After" in given_up.headers) == (503, False)
    assert json.loads(given_up.body)["needs_an_operator"] is True
    cold = probe_answer(Readiness("n"), told, stopping=False)
    assert (cold.status, "Retry-After" in cold.headers) == (503, True)
    assert "needs_an_operator" not in json.loads(cold.body)
