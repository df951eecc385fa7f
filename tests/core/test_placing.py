"""From a config to what it reserves: pools, pools of a model's own, sizes that are estimated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmd.config import ConfigError, HostSettings, Settings
from warmd.devices import HOST, Gpu, largest_node
from warmd.engine import Reservation, engine_home
from warmd.engine.note import write_note
from warmd.fitting import UNKNOWN_GPU, Fitter
from warmd.ladder import MeasuredParts, Phase, VramBy
from warmd.placing import cards_of, renumbered
from warmd.planner import Card, Reservations
from warmd.reload import Effect, KeyChange, changes
from warmd.replica import EngineRecord, Fit, ReplicaState

GIB = 2**30
CARDS = cards_of([Gpu(n, f"GPU-{n}abc", "NVIDIA H200", 140 * GIB, 0) for n in range(2)])
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def settings(pools: dict[str, Any], **models: dict[str, Any]) -> Settings:
    tables = {name: {"weights": "/w"} | table for name, table in models.items()}
    return Settings.model_validate({"engine": {"python": "/p"}, "pools": pools, "models": tables})


def a_fitter(cards: Sequence[Card] = CARDS, device: str | None = "NVIDIA H200") -> Fitter:
    return Fitter(pytest.fail, device, cards=cards)


def reserved(asked: Settings, cards: Sequence[Card] = CARDS) -> Reservations:
    return a_fitter(cards, None if cards == cards_of(()) else "NVIDIA H200").reserve(asked)


def wrong(asked: Settings, cards: Sequence[Card] = CARDS) -> str:
    with pytest.raises(ConfigError) as error:
        reserved(asked, cards)
    return str(error.value)


def note(run_dir: Path, model: str, phase: Phase, fit: Fit) -> None:
    """Write down what an earlier daemon knew of the first engine of `model`."""
    home = engine_home(run_dir, f"{model}.0")
    home.folder.mkdir(parents=True, exist_ok=True)
    record = EngineRecord.of(ReplicaState(since=0.0, phase=phase), "id", None, fit)
    write_note(home.note, record.as_json())


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A model with 4 GiB of KV cache by its config, and hardly any weights."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    entry = {"dtype": "BF16", "shape": [1 << 19], "data_offsets": [0, 1 << 20]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1 << 20))
    return str(tmp_path)


@pytest.mark.parametrize("gpus", [[1], ["GPU-1abc"], ["GPU-1"]])
def test_a_pool_stands_where_it_says(gpus: list[Any]) -> None:
    model = {"vram": "40GiB", "replicas": 2, "pool": "p"}
    found = reserved(settings({"p": {"vram": "90GiB", "gpus": gpus}}, m=model))
    assert [found.cards_of("m", n) for n in range(2)] == [("GPU-1abc",)] * 2
    assert found.pools == {"p": 90 * GIB}


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([2], "pools.p.gpus: 2 is no GPU of this host; there are 0 (GPU-0abc), 1 (GPU-1abc)"),
        (["GPU-"], "pools.p.gpus: 'GPU-' names several GPUs at once"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_of_the_config(gpus: list[Any], words: str) -> None:
    assert words in wrong(settings({"p": {"vram": "9GiB", "gpus": gpus}}))


def test_a_slice_is_named_by_its_uuid() -> None:
    sliced = [Gpu(0, f"MIG-{n}abc", "NVIDIA H200 MIG", 70 * GIB, 0, slice=n) for n in range(2)]
    cards = (*cards_of(sliced), CARDS[1])
    model = {"vram": "40GiB", "pool": "p"}
    found = reserved(settings({"p": {"vram": "60GiB", "gpus": ["MIG-1"]}}, m=model), cards)
    assert found.cards_of("m", 0) == ("MIG-1abc",)
    assert wrong(settings({"p": {"vram": "9GiB", "gpus": [0]}}), cards).endswith(
        "pools.p.gpus: 0 is in MIG mode, and a slice is named by its UUID; "
        "there are 0:0 (MIG-0abc), 0:1 (MIG-1abc), 1 (GPU-1abc)"
    )
    two = settings({}, a={"replicas": 2}, b={})
    found = reserved(two, cards)
    assert [found.models[name].where for name in "ab"] == ["GPUs 0:0, 1", "GPU 0:1"]
    assert "wide runs on 2 GPUs at once, and there is 1 GPU" in wrong(
        settings({}, wide={"tensor_parallel": 2}), cards
    )


def test_without_a_gpu_the_host_s_memory_is_the_device() -> None:
    cards = cards_of(())
    pool = {"p": {"vram": "1MiB"}}
    asked = settings(pool, m={"vram": "1MiB", "pool": "p"}, own={"vram": "2MiB"}, free={})
    found = reserved(asked, cards)
    assert found.cards_of("m", 0) == found.cards_of("own", 0) == (HOST,)
    assert found.pools == {"p": 2**20, "own (its own)": 2 * 2**20}
    assert "free" not in found.models, "vLLM takes a share of the RAM there, not all of it"
    assert "  host memory: " in wrong(settings({"p": {"vram": "900TiB"}}), cards)


def test_an_engine_sees_its_own_gpus_and_no_other() -> None:
    asked = settings(
        {"p": {"vram": "90GiB"}, "w": {"vram": "40GiB"}},
        m={"vram": "40GiB", "pool": "p"},
        wide={"vram": "40GiB", "pool": "w", "tensor_parallel": 2},
        own={"vram": "20GiB", "replicas": 2},
        rest={"args": ["-pp", "2"]},
    )
    fitter = a_fitter()
    fitter.reserved = fitter.reserve(asked)
    seen = {}
    for name in asked.models:
        terms = fitter.terms(asked, name)
        recipes = [fit.make._recipe for fit in terms.fits]  # type: ignore[attr-defined]  # a Vllm
        seen[name] = (terms.pool, terms.vram // GIB, *(r.gpus for r in recipes))
        assert [fit.cards for fit in terms.fits] == [frozenset(r.gpus) for r in recipes]
    first, second = "GPU-0abc", "GPU-1abc"
    assert seen == {
        "m": ("p", 40, (first,)),
        "wide": ("w", 40, (first, second)),
        "own": ("own (its own)", 20, (second,), (second,)),  # 9 GiB are left on the other
        "rest": ("rest (its own)", 9, (first, second)),
    }


@pytest.mark.parametrize(
    ("pools", "model", "keys"),
    [
        ({"p": {"vram": "90GiB", "gpus": [1]}}, {}, ["pools.p.gpus"]),
        ({"p": {"vram": "90GiB"}, "q": {"vram": "99GiB"}}, {}, ["reservation"]),
        (
            {"p": {"vram": "90GiB"}, "q": {"vram": "9GiB", "gpus": [1]}},
            {"pool": "q"},
            ["pool", "pools.q"],
        ),
        ({"p": {"vram": "90GiB"}, "q": {"vram": "135GiB"}}, {"pool": None}, ["pool"]),
        ({"p": {"vram": "91GiB"}}, {}, None),
        ({"p": {"vram": "90GiB", "gpus": [1, 0]}}, {}, None),  # it stays where it is
        ({"p": {"vram": "90GiB"}, "q": {"vram": "9GiB"}}, {}, None),
        ({}, {"pool": None}, None),
    ],
)
def test_who_stands_on_another_gpu_after_a_reload_is_made_anew_and_told_so(
    pools: dict[str, Any], model: dict[str, Any], keys: list[str] | None
) -> None:
    """Also where nothing of its own has changed: a larger pool came, and goes first."""
    now = settings({"p": {"vram": "90GiB"}}, m={"vram": "9GiB", "pool": "p"})
    new = settings(pools, m={"vram": "9GiB", "pool": "p"} | model)
    fitter, ahead = a_fitter(), a_fitter()
    fitter.reserved, ahead.reserved = fitter.reserve(now), ahead.reserve(new)
    found = list(changes(now, new, fitter.reserved, ahead.reserved, has_gpu=True))
    anew = [k.key for change in found for k in change.keys if k.effect is Effect.ENGINE]
    assert anew == (keys or [])
    was, comes = (each.terms(table, "m").fits[0] for each, table in ((fitter, now), (ahead, new)))
    assert was.is_kept_under(comes) is (keys is None)


def test_a_reload_tells_of_more_or_less_room() -> None:
    now, new = (settings({"p": {"vram": f"{n}GiB"}}, m={}) for n in (90, 99))
    new = new.model_copy(update={"pools": new.pools | {"q": now.pools["p"]}})
    fitter = a_fitter()
    was, comes = fitter.reserve(now), fitter.reserve(new)
    [change] = changes(now, new, was, comes, has_gpu=True)
    assert change.keys == (
        KeyChange("reservation", '"128.8 GiB on GPU 1"', '"49.0 GiB on GPU 1"', Effect.ENGINE),
    )


def test_where_the_driver_does_not_answer_what_runs_is_left_as_it_is(
    llama: str, tmp_path: Path
) -> None:
    auto = {"vram": "auto", "weights": llama}
    host = HostSettings.model_validate({"run_dir": str(tmp_path), "engines_outlive_daemon": True})
    asked = settings(
        {"p": {"vram": "90GiB"}}, m={"vram": "40GiB", "pool": "p"}, auto=auto, rest={}
    ).model_copy(update={"host": host})
    known, blind = a_fitter(), a_fitter((), UNKNOWN_GPU)

    def fit(fitter: Fitter, model: str) -> Fit:
        fitter.reserved = fitter.reserve(asked)
        return fitter.terms(asked, model).fits[0]

    assert fit(blind, "m").cards == frozenset()
    assert list(blind.reserved.models) == ["m", "auto"], "what is left nobody can tell"
    assert fit(known, "m").is_kept_under(fit(blind, "m"))
    assert not fit(blind, "m").is_kept_under(fit(known, "m")), "it was bound to no GPU"
    for model in asked.models:
        note(tmp_path, model, Phase.READY, fit(known, model))
    later = a_fitter((), UNKNOWN_GPU)
    for model in asked.models:
        mine, theirs = fit(later, model), fit(known, model)
        assert mine.make.fingerprint() == theirs.make.fingerprint(), "it may be taken over"
        assert theirs.is_kept_under(mine)
        assert later.terms(asked, model).vram == known.terms(asked, model).vram


def test_an_engine_is_bound_to_its_vram_where_somebody_knows_the_cards() -> None:
    asked = settings(
        {"p": {"vram": "60GiB"}},
        m={"vram": "40GiB", "tensor_parallel": 2, "pool": "p"},
        rest={},
    )
    uneven = (CARDS[0], replace(CARDS[1], total=80 * GIB))
    bound = {}
    for device, cards in (("H200", uneven), (None, cards_of(())), ("unknown", ())):
        fitter = a_fitter(cards, device)
        if device != "H200":
            asked = settings({"p": {"vram": "2MiB"}}, m={"vram": "1MiB", "pool": "p"}, rest={})
        fitter.reserved = fitter.reserve(asked)
        makes = [fitter.terms(asked, name).fits[0].make for name in ("m", "rest")]
        binders = [make._binder for make in makes]  # type: ignore[attr-defined]  # of a Vllm
        bound[device] = [binder and binder.reservation for binder in binders]
    assert bound == {
        # One share holds on both: the larger card's is the smaller one.
        "H200": [Reservation(40 * GIB, 140 * GIB), Reservation(79 * GIB, 140 * GIB)],
        None: [Reservation(2**20, largest_node(), gpu=False), None],
        "unknown": [None, None],
    }


def test_the_gpus_of_a_model_that_states_nothing_are_warmd_s_to_choose() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "1"}
    assert wrong(settings({}, m={"env": env})).endswith(
        "models.m.env.CUDA_VISIBLE_DEVICES: contradicts what warmd reserves for m: where it "
        "matters on which GPUs a model runs, give it a pool with `gpus`"
    )
    flag = {"args": ["--gpu-memory-utilization=0.5"]}
    assert wrong(settings({}, m=flag)).endswith(
        "models.m.args[0]: contradicts what warmd reserves for m, from which "
        "--gpu-memory-utilization follows at each start: take the flag away, and set `vram` to "
        "what its engines shall have"
    )
    assert reserved(settings({}, m=flag | {"env": env}), cards_of(())).models == {}
    both = wrong(settings({}, a={}, b={"tensor_parallel": 2}))
    assert "pools: b and a say nothing of their VRAM, so each wants all that is left" in both


def test_the_table_names_the_file_and_whose_pool_it_is(tmp_path: Path) -> None:
    asked = settings({"p": {"vram": "120GiB"}}, m={"vram": "130GiB"}, n={"vram": "60GiB"})
    file = tmp_path / "warmd.toml"
    assert wrong(asked.read_from((file,))).splitlines() == [
        (
            f"{file}: pools: n, a pool of its own wants 60.0 GiB on 1 GPU, and the best place "
            "lacks 41.0 GiB; give it less `vram`, or make room on a GPU:"
        ),
        "  GPU 0 NVIDIA H200: 140.0 GiB",
        "    m, a pool of its own: 130.0 GiB",
        "    headroom: 1.0 GiB",
        "    left: 9.0 GiB",
        "  GPU 1 NVIDIA H200: 140.0 GiB",
        "    pool p: 120.0 GiB",
        "    headroom: 1.0 GiB",
        "    left: 19.0 GiB",
    ]


def test_auto_is_what_the_files_tell(llama: str) -> None:
    model = {"weights": llama, "vram": "auto"}
    asked = settings({"p": {"vram": "90GiB"}}, own=model, m=model | {"pool": "p"})
    found = reserved(asked)
    estimate = a_fitter().size(asked, "own").vram
    assert estimate == 9 * GIB
    assert [found.models[name].vram for name in ("own", "m")] == [estimate] * 2
    assert found.pools == {"p": 90 * GIB, "own (its own)": estimate}
    assert list(found.sentences()) == [
        "m has 9.0 GiB on GPU 0 for each engine, as estimated from its files",
        "own has 9.0 GiB on GPU 0 for each engine, as estimated from its files",
    ]
    tight = settings({"p": {"vram": "8GiB"}}, m=model | {"pool": "p"})
    assert "m wants 9.0 GiB on each GPU, and pool p has 8.0 GiB: 1.0 GiB are" in wrong(tight)


def test_auto_takes_what_earlier_starts_told_but_not_from_under_an_engine(
    llama: str, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"weights": llama, "vram": "auto"}
    asked, longer = settings({}, m=model), settings({}, m=model | {"concurrency": 40})
    key = a_fitter().sizes_key(asked, "m")
    known = {"m": {key: MeasuredParts("0.33.0", activation=0, graphs=0, other=0)}}
    fitter, later = a_fitter(), a_fitter()
    fitter.reserved = was = fitter.reserve(asked)
    for each in (fitter, later):
        each._sizes = lambda name: known[name]

    def figure(fitter: Fitter, asked: Settings) -> tuple[int, VramBy]:
        found = fitter.reserve(asked).models["m"]
        return found.vram // GIB, found.by

    assert fitter.reserve(asked) == was, "a reload makes no engine anew for a better figure"
    assert figure(fitter, longer) == (41, VramBy.MEASURED)
    assert figure(later, asked) == (5, VramBy.MEASURED)

    host = HostSettings.model_validate({"run_dir": str(tmp_path), "engines_outlive_daemon": True})
    outlives = asked.model_copy(update={"host": host})
    fitter.reserved = fitter.reserve(outlives)
    [fit] = fitter.terms(outlives, "m").fits
    for phase, found in ((Phase.READY, (9, VramBy.ESTIMATED)), (Phase.DOWN, (5, VramBy.MEASURED))):
        note(tmp_path, "m", phase, fit)
        assert figure(later, outlives) == found
    note(tmp_path, "m", Phase.READY, replace(fit, figure={"vram": "many"}))
    assert figure(later, outlives) == (5, VramBy.MEASURED)


def test_what_auto_cannot_tell_is_told_of_all_models_at_once(llama: str) -> None:
    model = {"weights": llama, "vram": "auto", "args": ["--pipeline-parallel-size", "2"]}
    said = wrong(settings({}, a=model, b=model | {"args": ["--max-model-len", "long"]}))
    assert said.splitlines() == [
        (
            'the config: models.a.vram: "auto" can\'t be told: what one GPU takes with '
            "--pipeline-parallel-size isn't known here: set `vram`, or start it once and look again"
        ),
        (
            'the config: models.b.vram: "auto" can\'t be told: --max-model-len must be a number '
            "above 0 (got 'long'); correct the args"
        ),
    ]


def test_a_model_whose_disk_is_not_there_is_not_started_and_takes_nobody_s_room(
    llama: str, tmp_path: Path
) -> None:
    model = {"vram": "auto", "weights": str(tmp_path / "away")}
    asked = settings({"p": {"vram": "90GiB"}}, m=model | {"pool": "p"}, n=model)
    fitter = a_fitter()
    fitter.reserved = fitter.reserve(asked)
    assert fitter.reserved.pools == {"p": 90 * GIB}
    assert fitter.terms(asked, "n").unsized == (
        f"n can't be started: its vram is \"auto\", and its files weren't at {tmp_path}/away when "
        "the config was read; put them there or mount the disk, then `warmctl reload`"
    )
    assert len(list(fitter.reserved.sentences())) == 2

    host = HostSettings.model_validate({"run_dir": str(tmp_path), "engines_outlive_daemon": True})
    runs = asked.model_copy(update={"host": host})
    given = {"vram": 9 * GIB, "by": "estimated", "basis": "then"}
    note(tmp_path, "n", Phase.READY, replace(fitter.terms(asked, "n").fits[0], figure=given))
    found = a_fitter().reserve(runs)
    assert found.models["n"].vram == 9 * GIB, "it runs, and has what it was given"
    assert list(found.unsized) == ["m"]


@pytest.mark.parametrize(
    ("args", "env", "says"),
    [
        (["banana"], {}, "--max-model-len must be a number above 0 (got 'banana')"),
        (["8193"], {}, "8193 is more than the 8192 tokens that the model was made for"),
        (["8193"], {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, None),
        (["9k", "--rope-scaling", '{"factor": 2}'], {}, None),
        (["8192"], {}, None),
        (["auto"], {}, None),
    ],
)
@pytest.mark.parametrize("vram", [None, "40GiB"])
def test_a_length_that_the_model_was_not_made_for_is_found_before_it_is_started(
    llama: str, args: list[str], env: dict[str, str], says: str | None, vram: str | None
) -> None:
    table = {"weights": llama, "args": ["--max-model-len", *args], "env": env}
    asked = settings({}, m=table | ({} if vram is None else {"vram": vram}))
    fitter = a_fitter()
    found = fitter.reserve(asked)
    if says is None:
        fitter.check(asked, found, ["m"])
        return
    with pytest.raises(ConfigError) as error:
        fitter.check(asked, found, ["m"])
    [problem] = error.value.problems
    assert problem.path == "models.m.args"
    assert says in problem.message


GONE = replace(CARDS[0], is_missing=True)


def test_a_pool_that_names_a_missing_gpu_has_its_place_and_others_have_theirs_elsewhere() -> None:
    asked = settings(
        {"named": {"vram": "80GiB", "gpus": [0, 1]}, "any": {"vram": "40GiB"}},
        own={"vram": "10GiB"},
    )
    made = reserved(asked, (GONE, CARDS[1]))
    assert made.grounds["named"] == ("GPU-0abc", "GPU-1abc")
    assert made.grounds["any"] == made.grounds["own (its own)"] == ("GPU-1abc",)
    [told] = made.missing
    assert "list GPU 0 (GPU-0abc, NVIDIA H200), which was here, which pools.named.gpus" in told
    assert "`warmctl gpu forget 0`" in told
    assert list(made.sentences(made)) == []
    assert "warning: " + told in list(made.sentences())


def test_where_nothing_else_fits_a_pool_waits_for_the_missing_gpu() -> None:
    asked = settings(
        {"a": {"vram": "100GiB"}, "b": {"vram": "100GiB"}}, m={"pool": "a", "vram": "1GiB"}
    )
    made = reserved(asked, (GONE, CARDS[1]))
    assert set(made.grounds.values()) == {("GPU-0abc",), ("GPU-1abc",)}
    assert "pools." not in made.missing[0], "no pool names it"
    rest = settings({}, a={}, b={})
    assert len(reserved(rest, (GONE, CARDS[1])).grounds) == 2
    whole = settings({"a": {"vram": "100GiB", "gpus": [2]}})
    said = wrong(whole, (GONE, CARDS[1]))
    assert "there are 0 (GPU-0abc, missing), 1 (GPU-1abc)\nthe driver doesn't list GPU 0" in said
    assert said.endswith("/gpus.json: then the driver's numbers hold")
    assert "gpus.json" not in wrong(whole)


def test_what_a_number_means_once_a_gpu_is_forgotten_is_said() -> None:
    was = (CARDS[0], replace(GONE, key="GPU-x", index=1), replace(CARDS[1], index=2))
    pools = {"a": {"vram": "1GiB", "gpus": [0]}, "b": {"vram": "1GiB", "gpus": [2, "GPU-1"]}}
    asked = settings(pools)
    assert list(renumbered(asked, was, CARDS)) == [
        "GPU 2 (GPU-1abc) is GPU 1 now, as the driver has it",
        "pools.b.gpus means no GPU by 2 now, and meant GPU-1abc",
    ]


def test_what_load_alone_may_ask_for_needs_no_room_and_is_told() -> None:
    scale = {"scale": {"min": 1, "max": 4}, "vram": "40GiB"}
    remedy = "give it more `vram` or `gpus`, or lower `scale.max`"
    shared = reserved(settings({"p": {"vram": "100GiB"}}, m=scale | {"pool": "p"}))
    assert len(shared.models["m"].engines) == 4, "each has its place, should there be room"
    assert shared.warnings == (f"m may scale to 4 replicas, and its pool has room for 2: {remedy}",)
    wide = reserved(settings({"p": {"vram": "100GiB", "gpus": [0, 1]}}, m=scale | {"pool": "p"}))
    assert wide.warnings == ()
    assert [wide.cards_of("m", n) for n in range(3)] == [
        ("GPU-0abc",),
        ("GPU-1abc",),
        ("GPU-0abc",),
    ]
    tight = reserved(settings({"p": {"vram": "50GiB", "gpus": [0, 1]}}, m=scale | {"pool": "p"}))
    assert tight.ground_of("m", 0) == ("GPU-0abc", "GPU-1abc"), "no place is kept for load"
    assert tight.cards_of("m", 0, without=frozenset({"GPU-0abc"})) == ("GPU-1abc",)
    least = {"scale": {"min": 3, "max": 4}, "vram": "40GiB", "pool": "p"}
    assert "m has 3 engines, so 3 of 40.0 GiB share a GPU" in wrong(
        settings({"p": {"vram": "100GiB"}}, m=least)
    )


def test_a_pool_of_its_own_grows_for_load_where_nobody_else_lacks_the_room() -> None:
    scale = {"scale": {"min": 1, "max": 4}, "vram": "60GiB"}
    alone = reserved(settings({}, m=scale))
    assert (alone.grounds["m (its own)"], alone.warnings) == (("GPU-0abc", "GPU-1abc"), ())
    beside = reserved(settings({}, m=scale, other={"vram": "50GiB", "replicas": 2}))
    assert beside.models["other"].engines == (("GPU-0abc",), ("GPU-1abc",))
    assert "m may scale to 4 replicas, and its pool has room for 1" in beside.warnings[0]
    unsized = reserved(settings({}, m={"scale": {"max": 4}}))
    assert unsized.grounds["m (its own)"] == ("GPU-0abc", "GPU-1abc"), "nobody else wants them"
    assert "room for 2" in unsized.warnings[0]
