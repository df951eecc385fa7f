"""The command line, the environment and the files of an engine."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from warmd.config import WarmupKind
from warmd.engine import (
    Binder,
    Cause,
    EngineError,
    EngineHome,
    EngineRecipe,
    Reservation,
    SleepSupport,
    Vllm,
    WarmupSpec,
    engine_command,
    engine_home,
    first_port,
    point_at,
    prepare_home,
    stable_path,
)
from warmd.engine.binding import Binding
from warmd.engine.sizing import Wanted

INHERITED = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/var/lib/warmd",
    "CUDA_VISIBLE_DEVICES": "0",
}


def recipe(**changes: object) -> EngineRecipe:
    facts: dict[str, object] = {
        "python": Path("/opt/vllm/bin/python"),
        "model": "qwen3-32b",
        "weights": stable_path(Path("/var/cache/warmd"), "qwen3-32b"),
        "home": engine_home(Path("/run/warmd"), "qwen3-32b.0"),
        "cache_dir": Path("/var/cache/warmd"),
        "slot": 3,
    }
    return EngineRecipe(**{**facts, **changes})  # type: ignore[arg-type]


def test_the_command_line_names_model_aliases_and_socket_and_leaves_args_untouched() -> None:
    made = engine_command(
        recipe(aliases=("gpt-4o", "default"), args=("--max-model-len", "32768", "-tp=2")), INHERITED
    )
    assert made.argv == (
        "/opt/vllm/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "/var/cache/warmd/models/qwen3-32b",
        "--served-model-name",
        "qwen3-32b",
        "gpt-4o",
        "default",
        "--uds",
        "/run/warmd/engines/qwen3-32b.0/engine.sock",
        "--max-model-len",
        "32768",
        "-tp=2",
    )
    assert made.cwd == Path("/run/warmd/engines/qwen3-32b.0")


def test_the_models_environment_wins_over_the_engines_and_both_over_ours() -> None:
    made = engine_command(
        recipe(
            engine_env={"HF_HUB_OFFLINE": SecretStr("0"), "A": SecretStr("engine")},
            model_env={"A": SecretStr("model"), "HF_TOKEN": SecretStr("hf_s3cret")},
        ),
        INHERITED,
    )
    assert (made.env["HF_HUB_OFFLINE"], made.env["A"]) == ("0", "model")
    assert made.env["HF_TOKEN"] == "hf_s3cret"
    assert "s3cret" not in repr(made)
    assert "s3cret" not in made.shown


@pytest.mark.parametrize(
    ("sleeps", "flag", "variable"),
    [
        (SleepSupport.NONE, False, None),
        (SleepSupport.REAL, True, "1"),
        (SleepSupport.DRILL, False, "1"),  # vLLM on the CPU refuses the flag
    ],
)
def test_what_an_engine_is_told_so_that_it_can_sleep(
    sleeps: SleepSupport, flag: bool, variable: str | None
) -> None:
    made = engine_command(recipe(sleep=sleeps, args=("--seed", "1")), INHERITED)
    assert ("--enable-sleep-mode" in made.argv) is flag
    assert made.env.get("VLLM_SERVER_DEV_MODE") == variable


def test_the_fingerprint_tells_one_engine_from_another_across_daemons() -> None:
    source = Path("/srv/models/Qwen3-32B")
    one = recipe(model_env={"A": SecretStr("1")}).fingerprint(source)
    assert len(one) == 64
    assert one == recipe(model_env={"A": SecretStr("1")}, slot=9).fingerprint(source)
    others = [
        recipe(model_env={"A": SecretStr("1")}).fingerprint(Path("/srv/models/Qwen3-8B")),
        recipe(model_env={"A": SecretStr("2")}).fingerprint(source),
        recipe(engine_env={"B": SecretStr("1")}).fingerprint(source),
        recipe(args=("--seed", "1")).fingerprint(source),
        recipe(args=("--seed 1",)).fingerprint(source),
        recipe(sleep=SleepSupport.DRILL).fingerprint(source),
    ]
    assert len({one, *others}) == 7


def test_engines_that_start_together_look_for_ports_in_different_places() -> None:
    firsts = [first_port(slot) for slot in range(200)]
    assert len({port // 50 for port in firsts}) == 200
    assert min(firsts) >= 1024
    assert max(firsts) + 50 < 32768  # where the kernel's own choice begins
    assert first_port(200) == first_port(0)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        yield Path(folder)


def test_a_home_is_private_and_free_of_what_an_earlier_engine_left(short: Path) -> None:
    home = EngineHome(short / "engines" / "m.0")
    home.folder.mkdir(parents=True, mode=0o755)
    home.socket.touch()
    assert home.rpc is not None
    home.rpc.mkdir()
    (home.rpc / "117d5986-2938-4b21-a542-8dab72fca209").touch()
    home.folder.joinpath("engine.log").write_text("earlier\n")
    prepare_home(home)
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert not home.socket.exists()
    assert list(home.rpc.iterdir()) == []
    assert home.folder.joinpath("engine.log").read_text() == "earlier\n"


def test_a_home_that_is_a_link_to_somewhere_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m.0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match=r"must be a folder of warmd's own, not a link"):
        prepare_home(EngineHome(tmp_path / "m.0"))


def test_a_socket_path_that_the_kernel_refuses_is_said_before_the_start(tmp_path: Path) -> None:
    home = EngineHome(tmp_path / ("m" * 100))
    assert home.rpc is None
    with pytest.raises(EngineError, match=r"where the kernel takes 107; give \[host\]\.run_dir"):
        prepare_home(home)
    assert not home.folder.exists()


def test_a_file_in_the_way_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "engines").touch()
    with pytest.raises(EngineError, match=r"can't be prepared: (File exists|Not a directory)"):
        prepare_home(engine_home(tmp_path, "m.0"))


def test_the_stable_path_keeps_its_name_while_what_is_behind_it_changes(tmp_path: Path) -> None:
    link = stable_path(tmp_path, "m")
    for weights in (tmp_path / "disk", tmp_path / "tmpfs", tmp_path / "tmpfs"):
        point_at(link, weights)
        assert link.readlink() == weights
    assert [entry.name for entry in link.parent.iterdir()] == ["m"]


def test_a_real_folder_in_the_links_place_is_left_alone(tmp_path: Path) -> None:
    link = stable_path(tmp_path, "m")
    link.mkdir(parents=True)
    (link / "precious.safetensors").touch()
    with pytest.raises(EngineError, match="something else stands there; move it away"):
        point_at(link, tmp_path / "weights")
    assert (link / "precious.safetensors").exists()


def test_the_environment_keeps_what_was_allowed_and_adds_what_vllm_needs() -> None:
    env = engine_command(recipe(), INHERITED).env
    assert env["HOME"] == "/var/lib/warmd"
    assert env["CUDA_VISIBLE_DEVICES"] == "0"
    assert env["PATH"] == "/opt/vllm/bin:/usr/bin:/bin"  # ninja stands beside the engine's Python
    assert env["VLLM_CACHE_ROOT"] == "/var/cache/warmd/vllm"
    assert env["VLLM_RPC_BASE_PATH"] == "/run/warmd/engines/qwen3-32b.0/rpc"


def test_an_engine_of_a_pool_sees_its_gpus_and_is_as_wide_as_they_are() -> None:
    command = engine_command(recipe(gpus=("GPU-1", "GPU-2"), tensor_parallel=2), {})
    assert command.env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert "--tensor-parallel-size 2" in command.shown
    assert "--tensor-parallel-size" not in engine_command(recipe(), {}).shown


@pytest.mark.parametrize("failed", [False, True])
async def test_a_start_that_was_called_off_is_no_reason_to_measure_anew(
    tmp_path: Path, failed: bool
) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked: list[bool] = []

    class Bound(Binder):
        async def binding(self, *, anew: bool) -> Binding:
            asked.append(anew)
            return Binding(700_000, 1 << 30)

    held = Reservation(40 << 30, 80 << 30)
    binder = Bound("m.0", held, tmp_path, Wanted(), None, told=lambda: None, tell=print)
    home, ask = EngineHome(tmp_path / "home"), WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    made = recipe(home=home, weights=tmp_path / "link")
    make = Vllm("m.0", made, ask, source=tmp_path, inherited={}, report=print, binder=binder)
    for _ in range(2):
        await make.prepare()
        make.ended(failed=failed)
    assert asked == [False, failed]


def test_a_model_keeps_its_kernels_in_folders_of_its_own_unless_the_user_says_where() -> None:
    made = recipe()
    env = engine_command(made, {}).env
    triton, inductor = env["TRITON_CACHE_DIR"], env["TORCHINDUCTOR_CACHE_DIR"]
    flashinfer = env["FLASHINFER_WORKSPACE_BASE"]
    assert (triton, inductor, flashinfer) == tuple(
        f"/var/cache/warmd/{kept}/{made.model}"
        for kept in ("triton", "torchinductor", "flashinfer")
    )
    below = Path(flashinfer, ".cache/flashinfer")
    assert made.compiled_in == (Path(triton), Path(inductor), below)
    elsewhere = recipe(
        engine_env={"TRITON_CACHE_DIR": SecretStr("/shared")},
        model_env={"FLASHINFER_WORKSPACE_BASE": SecretStr("/home/me")},
    )
    env = engine_command(elsewhere, {}).env
    assert (env["TRITON_CACHE_DIR"], env["FLASHINFER_WORKSPACE_BASE"]) == ("/shared", "/home/me")
    assert elsewhere.compiled_in == (Path(inductor),), "what others put there is not the model's"


async def test_a_start_takes_the_snapshot_of_the_moment_and_tells_where_it_compiles(
    tmp_path: Path,
) -> None:
    for revision in ("0123", "4567"):
        (tmp_path / "m/snapshots" / revision).mkdir(parents=True)
        (tmp_path / "m/snapshots" / revision / "config.json").write_text("{}")
    (tmp_path / "m/blobs").mkdir()
    made = recipe(home=EngineHome(tmp_path / "home"), weights=tmp_path / "link")
    ask = WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    make = Vllm("m.0", made, ask, source=tmp_path / "m", inherited={}, report=print)
    with pytest.raises(EngineError, match="holds 2 snapshots"):
        await make.prepare()
    (tmp_path / "m/refs").mkdir()
    for revision in ("0123", "4567"):
        (tmp_path / "m/refs/main").write_text(revision)
        await make.prepare()
        assert made.weights.readlink() == tmp_path / "m/snapshots" / revision
        assert make.compiled_in == made.compiled_in
        make.log(f"[backbone] saved AOT compiled function to /c/{revision}/rank_0_0/model")
        make.came_up()
        assert Path(f"/c/{revision}/rank_0_0") in make.compiled_in
        make.log("Directly load AOT compilation from path /c/of-a-request/rank_0_0/model")
        assert Path("/c/of-a-request/rank_0_0") not in make.compiled_in
        make.ended(failed=False)


def test_what_its_log_says_is_told_without_secrets(tmp_path: Path) -> None:
    made = recipe(
        home=EngineHome(tmp_path),
        args=("--hf-token", "hf_12345678", "--seed", "10000000", "--api-key=sk-12345678"),
        model_env={"WANDB": SecretStr("w-12345678"), "HF_HOME": SecretStr("/srv/models")},
    )
    ask = WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    make = Vllm("m.0", made, ask, source=tmp_path, inherited={}, report=print)
    words = "hf_12345678 sk-12345678 w-12345678 10000000 /srv/models"
    make.log(f"vllm: error: unrecognized arguments: {words}")
    assert make.cause("exited with status 2") == Cause(
        "vLLM refuses its command line: unrecognized arguments: ******** ******** ******** "
        "10000000 /srv/models; correct the model's args",
        for_good=True,
    )


async def test_a_mount_that_hangs_fails_the_start_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.engine.vllm.ANSWERS_S", 0.02)
    monkeypatch.setattr("warmd.snapshots.open_regular", lambda path: path.open("rb"))
    for folder in ("m/snapshots/0123", "m/blobs", "m/refs"):
        (tmp_path / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "m/refs/main")  # who opens it waits for a writer
    made = recipe(home=EngineHome(tmp_path / "home"), weights=tmp_path / "link")
    ask = WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    make = Vllm("m.0", made, ask, source=tmp_path / "m", inherited={}, report=print)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(EngineError, match="hasn't answered for"):
            await make.prepare()
    assert threading.active_count() == before + 1
    (tmp_path / "m/refs/main").open("w").close()


async def test_a_copy_that_is_let_go_as_an_engine_starts_leaves_it_the_weights_themselves(
    tmp_path: Path,
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    made = recipe(home=EngineHome(tmp_path / "home"), weights=tmp_path / "link")
    ask = WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    make = Vllm(
        *("m.0", made, ask),
        source=tmp_path / "m",
        inherited={},
        report=print,
        where=lambda _source: tmp_path / "copy",  # it was there a moment ago
    )
    await make.prepare()
    assert made.weights.readlink() == tmp_path / "m"


def test_what_an_engine_printed_between_two_daemons_is_kept_in_its_log(tmp_path: Path) -> None:
    made = recipe(home=EngineHome(tmp_path))
    ask = WarmupSpec("m", "hi", 1, WarmupKind.AUTO, 1.0)
    make = Vllm("m.0", made, ask, source=tmp_path, inherited={}, report=print)
    make.log("ValueError: the cause")  # it comes with the word that there is an engine
    make.resume(7)
    make.ended(failed=False)
    assert make.cause("exited with status 1").sentence == "ValueError: the cause"
    header, line = made.home.folder.joinpath("engine.log").read_text().splitlines()
    assert (header.endswith("engine process 7 ---"), line) == (True, "ValueError: the cause")
