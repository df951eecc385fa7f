"""Sets of files over fakes: what stages, tells and lets go of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from rig import House

from warmd.ladder import FileKind, Phase, Place, Rung
from warmd.staged import RETRY_S, SHORT_S
from warmd.staging import FIRST, Left, Request
from warmd.supervisor import FileTerms, Held, Scan


def a_house(*names: str, **sizes: int) -> House:
    """Models that rest staged; `sizes` of sets by kind, of all models."""
    house = House()
    for name in names:
        house.sizes |= {f"{kind.replace('_', '-')}:{name}": n for kind, n in sizes.items()}
    house.stager.done.set()
    for name in names:
        house.supervisor.adopt(name, house.terms(name, Rung.STAGED))
    return house


def staged(house: House, name: str = "m", kind: FileKind = FileKind.WEIGHTS) -> str:
    [each] = [s for s in house.supervisor.view.statuses()[name].staged if s.kind is kind]
    states = {"held": each.held, "partial": each.partial, "busy": each.busy}
    return next((state for state, so in states.items() if so), "not there")


async def test_kinds_come_in_load_order_and_the_program_is_shared() -> None:
    house = House()
    house.sizes = {"program:env": 7, "compile-cache:a": 5}
    house.stager.done.set()
    for name in "ab":
        house.supervisor.adopt(name, house.terms(name, Rung.STAGED))
    await house.until(lambda: len(house.stager.holdings) == 4)
    keys = [holding.key for holding in house.stager.holdings]
    assert keys == ["program:env", "weights:a", "compile-cache:a", "weights:b"]
    assert staged(house, "b", FileKind.PROGRAM) == "held"
    assert staged(house, "b", FileKind.CACHES) == "not there"
    house.supervisor.word.set_target("a", Rung.COLD, None)
    await house.until(lambda: house.stager.holdings[2].released)
    assert not house.stager.holdings[0].released, "b rests on it"
    house.supervisor.retire("b")
    await house.until(lambda: house.stager.holdings[0].released)


async def test_what_is_pushed_out_brings_the_rung_down_with_its_reason_until_it_is_back() -> None:
    house = a_house("m", weights=1000)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    [holding] = house.stager.holdings
    holding.measure(995)
    assert house.supervisor.rung("m") is Rung.STAGED, "nearly all of it is there"
    house.recorder.lines.clear()
    holding.push("3 % of it went, for somebody read much")
    holding.measure(970)
    assert house.recorder.lines == [
        "m evicted: 3 % of it went, for somebody read much",
        "m.0 staged -> cold: 3 % of it went, for somebody read much",
    ]
    assert staged(house) == "partial"
    await house.rest()
    assert len(house.stager.asked) == 1, "its holder brings it back"
    holding.measure(1000)
    assert house.recorder.lines[-1] == "m.0 cold -> staged: all of it is in RAM again"


async def test_a_file_that_cannot_be_held_leaves_the_rest_and_the_model_cold() -> None:
    house = House()
    house.stager.done.set()
    house.stager.trouble = "b.safetensors changes while it is read"
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED))
    await house.until(lambda: staged(house) == "partial")
    assert house.supervisor.rung("m") is Rung.COLD
    assert house.recorder.lines == ["m not staged: b.safetensors changes while it is read"]
    house.stager.holdings[0].measure(10)
    assert house.supervisor.rung("m") is Rung.STAGED


async def test_two_models_within_a_budget_for_one_the_last_used_stays() -> None:
    house = a_house("a", "b", weights=10)
    house.budget = 15
    await house.until(lambda: house.supervisor.rung("a") is Rung.STAGED)
    await house.rest()
    told = house.supervisor.view.statuses()["b"]
    assert told.held_up_by == (
        "its weights (10 bytes) don't fit in ram.staging: 10 bytes of 15 bytes are taken, which is "
        "5 bytes too much; raise ram.staging"
    )
    house.supervisor.models["b"].last_request = house.time.now
    await house.until(lambda: house.supervisor.rung("b") is Rung.STAGED)
    assert house.supervisor.rung("a") is Rung.COLD
    assert (
        "a.0 staged -> cold: it makes room for the weights of b, needed sooner"
        in house.recorder.lines
    )


async def test_larger_than_the_budget_is_held_in_part_and_stays_cold() -> None:
    house = a_house("m", weights=100)
    house.budget = 40
    await house.until(lambda: staged(house) == "partial")
    assert house.stager.asked[0][1].limit == 40
    await house.rest()
    told = house.supervisor.view.statuses()["m"]
    assert (told.rung, told.staging.done) == (Rung.COLD, 40)
    assert told.held_up_by is not None
    assert "larger than ram.staging (40 bytes): 40 bytes of them are held" in told.held_up_by


async def test_what_is_too_large_is_logged_once_with_the_remedy() -> None:
    house = a_house("m", weights=100)
    house.budget = 40
    await house.until(lambda: staged(house) == "partial")
    await house.rest()
    [line] = house.recorder.lines
    assert line == (
        "m not staged: its weights (100 bytes) are larger than ram.staging (40 bytes), and are "
        "held as far as they fit; raise ram.staging, or it stays cold"
    )


@pytest.mark.parametrize(("budget", "tried"), [(400, 1), (5, 0)])
async def test_what_is_too_large_for_its_tmpfs_is_told_in_one_sentence(
    budget: int, tried: int
) -> None:
    house = House()
    house.sizes, house.budget = {"weights:m": 1000}, budget
    house.stager.problem = "a part of a model is no use in a tmpfs"
    house.stager.done.set()
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED, place=Place.TMPFS))
    await house.until(lambda: bool(house.recorder.lines))
    await house.rest()
    assert [key for key, _ in house.stager.asked].count("weights:m") == tried
    [line] = house.recorder.lines
    assert "a part of a model is no use in a tmpfs" in line
    assert "as far as they fit" not in line


async def test_a_budget_of_nothing_is_no_trouble_to_tell_of() -> None:
    house = a_house("m", weights=100)
    house.budget = 0
    await house.rest()
    assert house.supervisor.models["m"].held_up_by == "ram.staging is 0, so no files are staged"
    assert house.recorder.lines == []


async def test_what_has_shrunk_until_it_fits_is_held_as_a_whole() -> None:
    house = a_house("m", weights=100)
    house.budget = 40
    await house.until(lambda: house.supervisor.models["m"].staged.state.total == 100)
    house.sizes["weights:m"] = 30  # a file was truncated since the last look
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.stager.holdings[0].measure(20)
    told = house.supervisor.models["m"].staged.state
    assert (told.partial, told.problem) == (True, "not all of it is in RAM, by measurement")
    await house.rest()
    assert "larger" not in (house.supervisor.view.statuses()["m"].held_up_by or "")


async def test_what_memory_ran_short_for_is_not_brought_back_at_once() -> None:
    house = a_house("m", weights=10)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.reserve = 10**9
    await house.until(lambda: house.supervisor.rung("m") is Rung.COLD)
    assert "memory is short" in house.recorder.lines[-1]
    house.reserve = 0
    await house.rest()
    assert house.supervisor.rung("m") is Rung.COLD
    why = house.supervisor.view.statuses()["m"].held_up_by or ""
    assert why.startswith("memory is short")
    assert why.endswith("; it is tried again in 2 min")
    house.time.now += SHORT_S
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)


async def test_files_that_have_grown_find_room_anew() -> None:
    house = a_house("m", weights=10)
    await house.until(lambda: house.supervisor.models["m"].staged.state.total == 10)
    house.sizes["weights:m"] = 30
    house.budget = 20
    await house.rest()
    assert house.stager.asked == [], "no byte more than room was found for"
    house.time.now += 1.0
    await house.until(lambda: staged(house) == "partial")


async def test_what_failed_evicts_nobody_and_is_given_room_once_its_files_are_others() -> None:
    house = a_house("b", weights=10)
    house.budget = 15
    house.stager.problem = "it can't be read"
    await house.until(lambda: house.supervisor.models["b"].staged.state.problem is not None)
    house.stager.problem = None
    house.supervisor.adopt("a", house.terms("a", Rung.STAGED))
    await house.until(lambda: house.supervisor.rung("a") is Rung.STAGED)
    house.stager.problem = "it can't be read"
    house.supervisor.models["b"].last_request = house.time.now
    for _ in range(3):
        house.time.now += RETRY_S
        await house.rest()
    assert not house.stager.holdings[0].released
    house.stager.problem = None
    house.sizes["weights:b"] = 11
    house.time.now += RETRY_S
    await house.until(lambda: house.supervisor.rung("b") is Rung.STAGED)


async def test_an_operators_word_tries_at_once_what_failed_or_is_held_in_part() -> None:
    house = a_house("m", weights=10)
    house.stager.problem = "it can't be read"
    staged_files = house.supervisor.models["m"].staged
    await house.until(lambda: staged_files.state.problem is not None)
    house.stager.problem = None
    await house.rest()
    assert house.supervisor.rung("m") is Rung.COLD
    house.supervisor.word.set_target("m", None, None)
    assert house.supervisor.view.statuses()["m"].staged[0].problem is None, "nothing stale is told"
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.stager.holdings[0].measure(5, "w.safetensors is missing")
    assert staged(house) == "partial"
    house.supervisor.word.set_target("m", Rung.STAGED, None, floor=True)
    await house.until(lambda: house.stager.holdings[0].released)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.supervisor.word.set_target("m", Rung.STAGED, None)
    said = house.supervisor.word.set_target("m", Rung.STAGED, None, floor=True)
    assert said == "m is to be staged anyway: an operator set it to staged"


async def test_who_follows_its_own_policy_already_is_told_so() -> None:
    house = a_house("m", weights=10)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert house.supervisor.word.set_target("m", None, None) == "m follows its own policy already"
    house.supervisor.word.set_target("m", Rung.COLD, None)
    again = house.supervisor.word.set_target("m", None, None)
    assert again.startswith("m follows its own policy again")


async def test_locked_files_are_asked_for_as_such_and_count_as_used() -> None:
    house = House()
    house.stager.done.set()
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED))
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert house.supervisor.shelf.held.gone == 0
    terms = house.terms("m", Rung.STAGED, place=Place.LOCKED)
    house.supervisor.adopt("m", terms)
    await house.until(lambda: house.stager.holdings[0].released)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert house.stager.asked[-1][1].place is Place.LOCKED
    assert house.supervisor.shelf.held.gone == 10


async def test_what_is_learnt_is_staged_and_the_caches_follow_a_start() -> None:
    house = a_house("m", weights=10)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.supervisor.word.set_target("m", Rung.HOT, None)
    await house.make_ready("m.0")
    assert house.came == ["m.0"]
    await house.until(lambda: house.stager.holdings[0].released)
    house.sizes |= {"compile-cache:m": 4, "program:env": 3}
    house.supervisor.shelf.learnt("m", FileKind.CACHES)
    house.supervisor.shelf.learnt("m", FileKind.PROGRAM)
    await house.rest()
    house.supervisor.word.set_target("m", Rung.STAGED, None)
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    await house.until(lambda: staged(house, "m", FileKind.CACHES) == "held")
    assert [h.key for h in house.stager.holdings[1:]] == [
        "program:env",
        "weights:m",
        "compile-cache:m",
    ]


async def test_a_daemon_that_leaves_its_engines_leaves_the_files_held() -> None:
    house = a_house("m", weights=10)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    await house.supervisor.close("a new version comes", leave=30.0)
    assert not house.stager.holdings[0].released
    other = a_house("m", weights=10)
    await other.until(lambda: other.supervisor.rung("m") is Rung.STAGED)
    await other.supervisor.close("the host goes down")
    assert other.stager.holdings[0].released


async def test_what_an_earlier_daemon_left_counts_until_it_is_asked_for_or_let_go() -> None:
    house = House()
    house.sizes = {"weights:a": 60, "weights:b": 60}
    house.budget = 100
    house.stager.left = {"weights:b": Left(60, 60), "weights:gone": Left(30, 0)}
    assert house.supervisor.shelf.held == Held(90, 60)
    for name in "ab":
        house.supervisor.adopt(name, house.terms(name, Rung.STAGED))
    await house.until(lambda: house.supervisor.models["b"].staged.state.busy)
    await house.rest()
    assert house.supervisor.shelf.held == Held(90, 0), "it counts once"
    assert [key for key, _ in house.stager.asked] == ["weights:b"], "a would need RAM that b has"
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("b") is Rung.STAGED)
    house.stager.left.clear()
    house.budget = 120
    await house.until(lambda: house.supervisor.rung("a") is Rung.STAGED)


async def test_what_a_start_has_taught_anew_replaces_the_program_files_that_are_held() -> None:
    """An environment was upgraded in place while other models rest on it."""
    house = a_house("a", "b", weights=10)
    house.sizes["program:env"] = 7
    files = [Path("/env/old")]
    scan = house.scan

    def scan_of_now(terms: FileTerms) -> Scan:
        if terms.kind is not FileKind.PROGRAM:
            return scan(terms)
        return lambda: Request(tuple(files), 7)

    house.scan = scan_of_now  # type: ignore[method-assign]
    for model in house.supervisor.models.values():
        model.sets[FileKind.PROGRAM].refit(
            scan_of_now(FileTerms(FileKind.PROGRAM, "env", Path("/env")))
        )
    await house.until(lambda: staged(house, "a", FileKind.PROGRAM) == "held")
    files[:] = [Path("/env/new")]
    house.supervisor.shelf.learnt("a", FileKind.PROGRAM)
    await house.until(
        lambda: house.stager.asked[-1] == ("program:env", Request((Path("/env/new"),), 7))
    )
    await house.until(lambda: staged(house, "b", FileKind.PROGRAM) == "held")


def verified(house: House) -> House:
    """Play a keeper that has verified the weights of `m`."""
    staged = house.supervisor.models["m"].staged
    staged.state = replace(staged.state, unverified=None)
    return house


async def test_a_start_that_lacks_proof_is_no_failure_and_comes_after_it() -> None:
    house = House()
    house.stager.done.set()
    terms = house.terms("m", Rung.STAGED)
    files = tuple(replace(each, verify="SHA256SUMS") for each in terms.files)
    house.supervisor.adopt("m", replace(terms, files=files))
    await house.until(lambda: staged(house) == "held")
    make = house.makes["m.0"]
    make.unproven = "w isn't the file any more"
    request = asyncio.create_task(verified(house).supervisor.acquire("m"))
    await house.until(lambda: house.stager.holdings[0].released)
    assert house.supervisor.models["m"].staged.state.unverified is not None
    await house.until(lambda: len(house.stager.holdings) == 2)
    await house.rest()
    state = house.one("m.0").state
    assert (state.phase, state.failures, state.trouble) == (Phase.DOWN, 0, None)
    assert house.supervisor.models["m"].held_up_by == FIRST
    assert not house.launcher.started
    await verified(house).make_ready("m.0")
    (await request).release()
    assert not any("failed" in line for line in house.recorder.lines)
