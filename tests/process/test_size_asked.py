"""`warmctl size`: of a configured model through the daemon, of a folder without one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemon_rig import Daemon, a_daemon, until
from engine_scene import a_recipe, short_folder, spec

import warmd
from warmd.cli.main import main
from warmd.devices import Gpu, GpuError, GpuTrouble
from warmd.engine import Vllm
from warmd.history import History
from warmd.ladder import MeasuredParts

GIB = 2**30
ARGS = ("--max-model-len", "1024", "--enforce-eager")
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_size": 128,
    "vocab_size": 512,
}


def a_model(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    entry = {"dtype": "BF16", "shape": [512, 1024], "data_offsets": [0, 1 << 20]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(1 << 20)
    )
    return folder


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon that knows from an earlier start what 1 GiB of KV cache holds."""
    with a_daemon() as daemon:
        lines = f'resting = "cold"\naliases = ["gpt-4o"]\nconcurrency = 4\nargs = {list(ARGS)}'
        daemon.write_config({"m": lines})
        weights = a_model(daemon.folder / "weights-m")
        (daemon.folder / "state").mkdir()
        with closing(History(daemon.folder / "state" / "history.db", print)) as history:
            key = shlex.join(("cpu", "1", str(weights), *ARGS))
            parts = MeasuredParts("0.32.0", kv_cache=GIB, kv_tokens=1 << 20)
            history.keep_sizes(key, "m", parts, 1_750_000_000.0)
        daemon.start()
        yield daemon
        daemon.stop()


def warmctl(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warmd.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_what_a_start_tells_stands_in_the_table(daemon: Daemon) -> None:
    daemon.turn()
    assert daemon.chat().status == 200, daemon.log
    socket = ("--socket", str(daemon.run_dir / "control.sock"))

    def measured() -> object:
        found = json.loads(warmctl("size", "m", "--json", *socket).stdout)
        return found["parts"][0]["measured"]

    until(lambda: measured() == round(0.53 * GIB), "the weights are measured")


def test_weights_that_hang_do_not_keep_the_daemon_from_its_end(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of a FIFO waits for ever, as one from a dead network mount does.

    The daemon would refuse one: it is made to open it like any file.
    """
    daemon.stop()
    (daemon.folder / "sitecustomize.py").write_text(
        "import warmd.regular_file\nwarmd.regular_file.open_regular = lambda path: open(path, 'rb')"
    )
    tree = Path(warmd.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{daemon.folder}:{tree}")
    daemon.start()
    config = daemon.folder / "weights-m" / "config.json"
    config.unlink()
    os.mkfifo(config)
    command = [sys.executable, "-m", "warmd.cli.main", "size", "m", "--socket"]
    with subprocess.Popen(
        [*command, daemon.run_dir / "control.sock"], stderr=subprocess.DEVNULL
    ) as asks:
        held = until(lambda: _writing_end(config), "the daemon reads what nobody writes")
        assert daemon.process is not None
        daemon.process.terminate()
        assert daemon.process.wait(10) == 0
        assert asks.wait(10) != 0
        os.close(held)


def _writing_end(fifo: Path) -> int:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # ENXIO: nobody reads it yet
        return 0


def test_a_models_estimate_stands_beside_what_was_measured(daemon: Daemon) -> None:
    socket = ("--socket", str(daemon.run_dir / "control.sock"))
    shown = warmctl("size", "gpt-4o", *socket)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["PART", "ESTIMATE", "MEASURED", "HOW"]
    assert lines[1].split(maxsplit=4)[:3] == ["weights", "1.0", "MiB"]
    assert "2.0 MiB   4.0 MiB  4 requests of 1024 tokens, 512 bytes a token" in shown.stdout
    assert "by vLLM 0.32.0" in shown.stdout

    found = json.loads(warmctl("size", "m", "--json", *socket).stdout)
    assert found["model"] == "m"
    assert found["parts"][1]["measured"] == 4 * 2**20
    assert found["on_each_gpu"] == sum(
        part["measured"] or part["estimated"] for part in found["parts"]
    )
    assert "there are gpt-4o, m" in warmctl("size", "n", *socket).stderr

    (daemon.folder / "weights-m" / "model.safetensors").write_bytes(bytes(7))
    refused = warmctl("size", "m", *socket)
    assert refused.returncode == 1
    assert "is damaged or cut short" in refused.stderr


async def test_an_engines_start_tells_its_sizes_once_it_is_ready() -> None:
    line = "INFO [gpu_worker.py:760] Available KV cache memory: 1.0 GiB"
    with short_folder() as root:
        (root / "config.json").touch()
        make = Vllm("tiny.0", a_recipe(root, {}), spec(), source=root, inherited={}, report=print)
        await make.prepare()
        make.log(line)
        told = [make.measured]
        make.came_up()
        told.append(make.measured)
        await make.prepare()
        told.append(make.measured)
        make.ended(failed=False)
    assert told == [None, MeasuredParts("", kv_cache=GIB), None], "then it is another engine"


def test_a_folders_estimate_needs_no_daemon(tmp_path: Path) -> None:
    shown = warmctl("size", str(a_model(tmp_path)), "--args", *ARGS)
    assert shown.returncode == 0, shown.stderr
    assert "32 requests of 1024 tokens" in shown.stdout
    assert "reckoned for " in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith('vram = "')
    nothing = tmp_path / "nothing"
    gone = warmctl("size", str(nothing))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"{nothing}/config.json: can't be read" in gone.stderr
    nobody = warmctl("size", "~nobody-of-this-host/m")
    assert nobody.stderr == "warmctl: ~nobody-of-this-host/m: there is no such user here\n"
    for refused, says in (
        (["--gpu-memory-utilization", "0.5"], "contradicts the model's vram"),
        (["--port", "1"], "must not hold --port"),
        (["nonsense"], "must begin with a flag"),
        (["--tensor-parallel-size", "2"], "contradicts --tensor-parallel"),
    ):
        done = warmctl("size", str(a_model(tmp_path)), "--args", *refused)
        assert (done.returncode, done.stdout) == (1, "")
        assert says in done.stderr
    named = warmctl("size", "m", "--tensor-parallel", "2")
    assert "stands in the config" in named.stderr


@pytest.mark.parametrize(
    ("trouble", "gpu"),
    [
        (GpuTrouble.NO_LIBRARY, False),
        (GpuTrouble.NO_GPU, False),
        (GpuTrouble.NO_DRIVER, False),
        (GpuTrouble.MISMATCH, True),
        (None, True),
    ],
)
def test_a_folder_is_reckoned_for_the_host_as_the_daemon_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: GpuTrouble | None,
    gpu: bool,
) -> None:
    def gpus() -> tuple[Gpu, ...]:
        if trouble is not None:
            raise GpuError(trouble)
        return (Gpu(0, "GPU-1", "NVIDIA H200", 141 * GIB, 0),)

    monkeypatch.setattr("warmd.cli.folder_size.gpus", gpus)
    folder = str(a_model(tmp_path))

    def told(*args: str) -> str:
        assert main(["size", folder, *args, "--args", *ARGS]) == 0
        return capsys.readouterr().out

    assert ("CUDA context" in told()) is gpu
    assert ("this host, which has no GPU; --on gpu" in told()) is not gpu
    assert "CUDA context" in told("--on", "gpu")
    assert "reckoned" not in told("--on", "gpu")
    assert "of the host's RAM" in told("--on", "cpu")
    assert json.loads(told("--json", "--on", "cpu"))["gpu"] is False
