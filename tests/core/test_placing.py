"""From a config's pools to cards: by index, by UUID, by best fit, and on a host without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmd.config import ConfigError, Settings
from warmd.devices import HOST, Gpu, largest_node
from warmd.engine import Reservation
from warmd.fitting import Fitter
from warmd.placing import cards_of, placement, replica_cards
from warmd.reload import Effect, changes

GIB = 2**30
GPUS = [Gpu(n, f"GPU-{n}abc", "NVIDIA H200", 140 * GIB, 0) for n in range(2)]


def settings(pools: dict[str, Any], **models: dict[str, Any]) -> Settings:
    tables = {name: {"weights": "/w", "pool": "p"} | table for name, table in models.items()}
    return Settings.model_validate({"engine": {"python": "/p"}, "pools": pools, "models": tables})


@pytest.mark.parametrize("gpus", [[1], ["GPU-1abc"], ["GPU-1"]])
def test_a_pool_stands_where_it_says(gpus: list[Any]) -> None:
    asked = settings({"p": {"vram": "90GiB", "gpus": gpus}}, m={"vram": "40GiB", "replicas": 2})
    placed = placement(asked, cards_of(GPUS))
    assert [replica_cards(asked, placed, "m", n) for n in range(2)] == [("GPU-1abc",)] * 2


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([2], "pools.p.gpus: 2 is no GPU of this host; there are 0 (GPU-0abc), 1 (GPU-1abc)"),
        (["GPU-"], "pools.p.gpus: 'GPU-' names several GPUs at once"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_of_the_config(gpus: list[Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        placement(settings({"p": {"vram": "9GiB", "gpus": gpus}}), cards_of(GPUS))
    assert words in str(error.value)


def test_a_slice_is_named_by_its_uuid() -> None:
    sliced = [Gpu(0, f"MIG-{n}abc", "NVIDIA H200 MIG", 70 * GIB, 0, slice=n) for n in range(2)]
    cards = cards_of([*sliced, GPUS[1]])
    asked = settings({"p": {"vram": "60GiB", "gpus": ["MIG-1"]}}, m={"vram": "40GiB"})
    assert replica_cards(asked, placement(asked, cards), "m", 0) == ("MIG-1abc",)
    with pytest.raises(ConfigError) as error:
        placement(settings({"p": {"vram": "9GiB", "gpus": [0]}}), cards)
    assert str(error.value).endswith(
        "pools.p.gpus: 0 is in MIG mode, and a slice is named by its UUID; "
        "there are 0:0 (MIG-0abc), 0:1 (MIG-1abc), 1 (GPU-1abc)"
    )


def test_without_a_gpu_the_host_s_memory_is_the_device() -> None:
    asked = settings({"p": {"vram": "1MiB"}}, m={"vram": "1MiB"})
    cards = cards_of(())
    assert replica_cards(asked, placement(asked, cards), "m", 0) == (HOST,)
    with pytest.raises(ConfigError, match="host memory"):
        placement(settings({"p": {"vram": "900TiB"}}), cards)


def test_an_engine_sees_its_own_gpus_and_no_other() -> None:
    asked = settings(
        {"p": {"vram": "90GiB"}, "w": {"vram": "40GiB"}},
        m={"vram": "40GiB"},
        wide={"vram": "40GiB", "pool": "w", "tensor_parallel": 2},
        free={"pool": None},
    )
    fitter = Fitter(pytest.fail, "NVIDIA H200", cards=cards_of(GPUS))
    fitter.place(asked)
    seen = {}
    for name in ("m", "wide", "free"):
        [fit] = fitter.terms(asked, name).fits
        recipe = fit.make._recipe  # type: ignore[attr-defined]  # a Vllm
        seen[name] = (fit.cards, recipe.gpus, recipe.tensor_parallel)
    assert seen == {
        "m": (frozenset({"GPU-0abc"}), ("GPU-0abc",), 1),
        "wide": (frozenset({"GPU-0abc", "GPU-1abc"}), ("GPU-0abc", "GPU-1abc"), 2),
        "free": (frozenset(), (), 1),
    }


@pytest.mark.parametrize(
    ("pools", "model", "keys"),
    [
        ({"p": {"vram": "90GiB", "gpus": [1]}}, {}, ["pools.p.gpus"]),
        ({"p": {"vram": "90GiB"}, "q": {"vram": "99GiB"}}, {}, ["pools.p.gpus"]),
        (
            {"p": {"vram": "90GiB"}, "q": {"vram": "9GiB", "gpus": [1]}},
            {"pool": "q"},
            ["pool", "pools.q"],
        ),
        ({"p": {"vram": "91GiB"}}, {}, None),
        ({"p": {"vram": "90GiB"}, "q": {"vram": "9GiB"}}, {}, None),
    ],
)
def test_who_stands_on_another_gpu_after_a_reload_is_made_anew_and_told_so(
    pools: dict[str, Any], model: dict[str, Any], keys: list[str] | None
) -> None:
    """Also where nothing of its own has changed: a larger pool came, and goes first."""
    now = settings({"p": {"vram": "90GiB"}}, m={"vram": "9GiB"})
    new = settings(pools, m={"vram": "9GiB"} | model)
    fitter = Fitter(pytest.fail, "NVIDIA H200", cards=cards_of(GPUS))
    fitter.place(now)
    ahead = fitter.ahead()
    ahead.place(new)
    found = list(changes(now, new, has_gpu=True, moved=fitter.moved(now, new, ahead)))
    anew = [k.key for change in found for k in change.keys if k.effect is Effect.ENGINE]
    assert anew == (keys or [])
    was, comes = (each.terms(table, "m").fits[0] for each, table in ((fitter, now), (ahead, new)))
    assert was.is_kept_under(comes) is (keys is None)


def test_where_the_driver_does_not_answer_nothing_is_bound_and_nothing_remade() -> None:
    asked = settings({"p": {"vram": "90GiB"}}, m={"vram": "40GiB"})
    known = Fitter(pytest.fail, "NVIDIA H200", cards=cards_of(GPUS))
    known.place(asked)
    blind = Fitter(pytest.fail, "a GPU whose driver doesn't answer")
    blind.place(asked)
    one, other = (f.terms(asked, "m").fits[0] for f in (known, blind))
    assert other.cards == frozenset()
    assert one.make.fingerprint() == other.make.fingerprint(), "it may be taken over"
    assert one.is_kept_under(other)
    assert not other.is_kept_under(one), "it was bound to no GPU"


def test_an_engine_is_bound_to_its_vram_where_somebody_knows_the_cards() -> None:
    asked = settings(
        {"p": {"vram": "60GiB"}},
        m={"vram": "40GiB", "tensor_parallel": 2},
        free={"pool": None},
    )
    uneven = [GPUS[0], replace(GPUS[1], total=80 * GIB)]
    bound = {}
    for device, cards in (("H200", cards_of(uneven)), (None, cards_of(())), ("unknown", ())):
        fitter = Fitter(pytest.fail, device, cards=cards)
        if device != "H200":
            asked = settings({"p": {"vram": "2MiB"}}, m={"vram": "1MiB"}, free={"pool": None})
        fitter.place(asked)
        makes = [fitter.terms(asked, name).fits[0].make for name in ("m", "free")]
        binders = [make._binder for make in makes]  # type: ignore[attr-defined]  # of a Vllm
        assert binders[1] is None, "nothing is reserved for it"
        bound[device] = binders[0] and binders[0].reservation
    assert bound == {
        # One share holds on both: the larger card's is the smaller one.
        "H200": Reservation(40 * GIB, 140 * GIB),
        None: Reservation(2**20, largest_node(), gpu=False),
        "unknown": None,
    }


def test_the_table_names_the_file(tmp_path: Path) -> None:
    asked = settings({"p": {"vram": "200GiB"}}).read_from((tmp_path / "warmd.toml",))
    with pytest.raises(ConfigError) as error:
        placement(asked, cards_of(GPUS))
    first, *table = str(error.value).splitlines()
    assert first.endswith(
        "warmd.toml: pools: pool p wants 200.0 GiB on 1 GPU, and the best place lacks 61.0 GiB:"
    )
    assert "  GPU 1 NVIDIA H200: 140.0 GiB" in table
