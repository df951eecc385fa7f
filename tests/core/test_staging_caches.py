"""Where an engine's compiled code is, by its log, and which files of it are staged."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.engine.compiled import CompiledTracker
from warmd.staging import FileSet, cache_files, remember_caches

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOT = "/var/cache/warmd/vllm/torch_compile_cache"


@pytest.mark.parametrize(
    ("line", "folders"),
    [
        (
            f"[x] Using cache directory: {ROOT}/0a1b/rank_1_0/backbone for vLLM's torch.compile",
            tuple(f"{ROOT}/0a1b/{n}" for n in ("rank_1_0", "inductor_cache", "triton_cache")),
        ),
        (
            f"Directly load AOT compilation from path {ROOT}/aot/ff/rank_0_0/model\x1b[0m",
            (
                f"{ROOT}/aot/ff/rank_0_0",
                f"{ROOT}/aot/ff/inductor_cache",
                f"{ROOT}/aot/ff/triton_cache",
            ),
        ),
        ("Using cache directory: / for vLLM's torch.compile", ()),
        ("Directly load the compiled graph(s) for compile range (1, 8192) from the cache", ()),
    ],
)
def test_the_folders_that_a_start_names(line: str, folders: tuple[str, ...]) -> None:
    tracker = CompiledTracker()
    tracker.line(line)
    tracker.line(line)
    assert tracker.folders == folders


def test_a_real_log_names_the_models_folder() -> None:
    tracker = CompiledTracker()
    for line in (FIXTURES / "vllm-0.32-cpu-cold.log").read_text().splitlines():
        tracker.line(line)
    assert [folder.rpartition("/")[2] for folder in tracker.folders] == [
        "rank_0_0",
        "inductor_cache",
        "triton_cache",
    ]


def test_only_what_is_finished_is_staged(tmp_path: Path) -> None:
    rank, shared = tmp_path / "cache/rank_0_0", tmp_path / "cache/inductor_cache"
    for name in ("model", "model.77.tmp", ".77.1.tmp", "tmp.pid_7_x/kernel.so", "triton/k.cubin"):
        (rank / name).parent.mkdir(parents=True, exist_ok=True)
        (rank / name).write_bytes(b"1234")
    (shared / "ab").mkdir(parents=True)
    (shared / "ab/cab.so").write_bytes(b"123456")
    (shared / "ab/cab.cuda.o").write_bytes(b"123456")
    (shared / "locks").mkdir()
    (shared / "locks/cab.lock").touch()

    assert cache_files(tmp_path, "m") is None
    remember_caches(tmp_path, "m", [rank, shared, tmp_path / "gone"])
    files = (shared / "ab/cab.so", rank / "model", rank / "triton/k.cubin")
    assert cache_files(tmp_path, "m") == FileSet(files, 14)
    assert cache_files(tmp_path, "another") is None
    remember_caches(tmp_path, "m", [shared])
    assert cache_files(tmp_path, "m") == FileSet(files[:1], 6), "the last start's word counts"
    for garbage in ("{", r'{"folders": ["/a\u0000b"]}', r'{"folders": ["/\ud800"]}'):
        (tmp_path / "caches/m.json").write_text(garbage)
        assert cache_files(tmp_path, "m") is None
    remember_caches(tmp_path, "m", [shared])
    assert cache_files(tmp_path, "m") == FileSet(files[:1], 6)
