"""Pools and sleepers in a config: what can't come true is said when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.config import ConfigError, Settings, describe, load


def problems(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").touch()
    (tmp_path / "python").touch(mode=0o755)
    file = tmp_path / "warmd.toml"
    head = f'engine.python = "{tmp_path}/python"\n'
    file.write_text(head + text.replace("WEIGHTS", f'weights = "{tmp_path}/w"'))
    try:
        load(file)
    except ConfigError as error:
        return [f"{each.path}: {each.message}" for each in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[pools.heavy]\nvram = "80GiB"\n[models.a]\nWEIGHTS\npool = "heavi"\nvram = "1GiB"',
            "models.a.pool: there is no such pool, did you mean 'heavy'?",
        ),
        (
            '[pools.heavy]\nvram = "80GiB"\n[models.a]\nWEIGHTS\npool = "heavy"',
            'models.a.vram: is missing: what one engine of this model takes of its pool, or "auto"',
        ),
        (
            '[pools.p]\nvram="80GiB"\n[models.a]\nWEIGHTS\npool="p"\nvram="90GiB"',
            (
                "models.a.vram: one engine of it would take 90.0 GiB, and the pool 'p' has "
                "80.0 GiB on each GPU: give the pool more, or the model less"
            ),
        ),
        (
            '[pools.p]\nvram="8GiB"\ngpus = [0, 0]',
            "pools.p.gpus: must not name a GPU twice",
        ),
        (
            '[pools.p]\nvram="8GiB"\ngpus = ["0"]',
            'pools.p.gpus: must name GPUs by index or UUID, such as 0 or "GPU-8f3c…"',
        ),
        (
            '[pools.p]\nvram="8GiB"\ngpus = "all"',
            'pools.p.gpus: must be "auto", or GPUs by index or UUID, such as [0, 1]',
        ),
        (
            (
                '[pools.p]\nvram="8GiB"\n[models.a]\nWEIGHTS\npool="p"\nvram="1GiB"\n'
                'args = ["-tp", "2"]'
            ),
            (
                "models.a.args[0]: contradicts the model's tensor_parallel, by which its GPUs are "
                "reserved: set tensor_parallel = 2 and take the flag away"
            ),
        ),
        (
            (
                '[pools.p]\nvram="8GiB"\n[models.a]\nWEIGHTS\npool="p"\nvram="1GiB"\n'
                'env = { CUDA_VISIBLE_DEVICES = "1" }'
            ),
            (
                "models.a.env.CUDA_VISIBLE_DEVICES: contradicts the model's pool, which says on "
                "which GPUs it runs: set `gpus` there"
            ),
        ),
        *(
            (
                (
                    '[pools.p]\nvram="8GiB"\n[models.a]\nWEIGHTS\npool="p"\nvram="1GiB"\n'
                    f'args = ["--enforce-eager", "{arg}"]'
                ),
                (
                    f"models.a.args[1]: contradicts the model's vram, from which {flag} follows at"
                    " each start: take the flag away, and set vram to what its engines shall have"
                ),
            )
            for arg, flag in (
                ("--gpu-memory-utilization", "--gpu-memory-utilization"),
                ("--gpu_memory_utilization=0.9", "--gpu-memory-utilization"),
                ("--device-memory-utilization", "--device-memory-utilization"),
                ("--kv-cache-memory=8G", "--kv-cache-memory-bytes"),
                ("--kv_cache_memory_bytes", "--kv-cache-memory-bytes"),
                ("--num-gpu-blocks-override", "--num-gpu-blocks-override"),
            )
        ),
        (
            '[models.a]\nWEIGHTS\nvram = "50GiB"\nenv = { CUDA_VISIBLE_DEVICES = "1" }',
            (
                "models.a.env.CUDA_VISIBLE_DEVICES: contradicts its `vram`, which warmd finds a "
                "GPU for: where it matters on which GPUs a model runs, give it a pool with `gpus`"
            ),
        ),
        (
            '[models.a]\nWEIGHTS\nvram = "auto"\nargs = ["-tp=2"]',
            (
                "models.a.args[0]: contradicts the model's tensor_parallel, by which its GPUs are "
                "reserved: set tensor_parallel = 2 and take the flag away"
            ),
        ),
        (
            '[models.a]\nWEIGHTS\nvram = "atuo"',
            (
                'models.a.vram: must be a size such as "90GiB" or "512MiB", with one of the units '
                'B, KiB, MiB, GiB, TiB, KB, MB, GB, TB, or "auto"'
            ),
        ),
        (
            "[models.a]\nWEIGHTS\npinned = true",
            (
                "models.a.pinned: has an effect in a pool with others only: name the model's "
                "`pool`, or take it away"
            ),
        ),
        (
            'host.run_dir = "run"',
            "host.run_dir: must be a whole path on this host, beginning with /",
        ),
        (
            'engine.sleep = "off"\n[models.a]\nWEIGHTS\nresting = "asleep"',
            (
                "models.a.resting: can't be 'asleep' while engine.sleep is \"off\": write "
                "'staged', or let engines sleep"
            ),
        ),
        (
            '[models.a]\nWEIGHTS\nidle.then = "hot"',
            "models.a.idle.then: a model that shall never cool down is one with resting = 'hot'",
        ),
        (
            "[models.a]\nWEIGHTS\n[models.a.sleep]\nlevel = 3",
            "models.a.sleep.level: must be at most 2",
        ),
        (
            '[models.a]\nWEIGHTS\nwarmup.adapters = ["b"]\n[models.b]\nWEIGHTS',
            "models.a.warmup.adapters[0]: models.b has this name already: take one of the two away",
        ),
        (
            '[models.a]\nWEIGHTS\n[models.a.sleep]\nslowest = "130%"',
            'models.a.sleep.slowest: must be a percentage such as "30%", at most "100%"',
        ),
    ],
)
def test_what_cannot_come_true_is_said(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_a_model_without_a_reservation_says_itself_what_it_takes(tmp_path: Path) -> None:
    args = 'args = ["--gpu-memory-utilization", "0.5", "--kv-cache-dtype", "fp8"]'
    assert problems(tmp_path, f"[models.a]\nWEIGHTS\n{args}") == []


@pytest.mark.parametrize("vram", ["80GiB", "auto"])
@pytest.mark.parametrize("pool", ['pool = "p"', ""])
def test_a_pool_that_holds_its_models_is_fine(tmp_path: Path, vram: str, pool: str) -> None:
    text = f'[pools.p]\nvram = "80GiB"\n[models.a]\nWEIGHTS\n{pool}\nvram = "{vram}"\n'
    assert problems(tmp_path, text) == []


def test_named_gpus_are_described_as_they_were_written() -> None:
    """Without a word of pydantic's about them, which pytest would take for an error."""
    pools = {"p": {"vram": "9GiB", "gpus": [0, "GPU-8f3c"]}, "q": {"vram": "9GiB"}}
    text = describe(Settings.model_validate({"pools": pools}))
    assert 'gpus = [0, "GPU-8f3c"]' in text
    assert "# gpus is not set: where it fits best" in text
