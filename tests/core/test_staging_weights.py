"""Which files of a model's folder get staged, and which folders are refused with what words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from warmd.staging import StagingError, model_folder, weight_files


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"w" * 5000)


def index(folder: Path, name: str, *shards: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {f"layer.{number}": shard for number, shard in enumerate(shards)}
    (folder / name).write_text(json.dumps({"weight_map": weight_map}))


def chosen(folder: Path) -> set[str]:
    return {file.name for file in weight_files(folder).files}


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], {"model.safetensors"}),
        (["model.safetensors", "consolidated.safetensors"], {"consolidated.safetensors"}),
        (["consolidated.00.pth", "consolidated.safetensors"], {"consolidated.safetensors"}),
        (["model.safetensors", "consolidated.00.pth"], {"model.safetensors"}),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], {"pytorch_model.bin"}),
        (["model.pt", "scheduler.pt"], {"model.pt"}),
        (["model.Q4.gguf"], {"model.Q4.gguf"}),
        (["model.safetensors", "model.Q4.gguf"], {"model.safetensors"}),
        (
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
            {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"},
        ),
        (
            ["model.safetensors", "model.onnx", "tf_model.h5", "flax_model.msgpack"],
            {"model.safetensors"},
        ),
        (["model.safetensors", "model2.safetensors.incomplete", ".hidden"], {"model.safetensors"}),
        (
            ["model.safetensors", "config.json", "tokenizer.model", "chat.jinja", "merges.txt"],
            {"model.safetensors", "config.json", "tokenizer.model", "chat.jinja", "merges.txt"},
        ),
    ],
)
def test_the_files_that_the_engine_reads(
    tmp_path: Path, there: list[str], expected: set[str]
) -> None:
    fill(tmp_path, *there)
    assert chosen(tmp_path) == expected
    assert weight_files(tmp_path).total == 5000 * len(expected)


EVERYTHING = (
    *("model.safetensors", "consolidated.safetensors", "m.bin", "m.pt", "m.gguf", "config.json"),
    "model-rank-0-part-0.safetensors",
)


@pytest.mark.parametrize(
    ("load_format", "expected"),
    [
        ("auto", {"consolidated.safetensors"}),
        ("mistral", {"consolidated.safetensors"}),
        ("hf", {"model.safetensors"}),
        ("safetensors", {"model.safetensors"}),
        ("npcache", {"m.bin"}),
        ("pt", {"m.pt"}),
        ("gguf", {"m.gguf"}),
        ("dummy", set()),
        ("sharded_state", {name for name in EVERYTHING if name.endswith(".safetensors")}),
    ],
)
def test_a_load_format_decides_too(tmp_path: Path, load_format: str, expected: set[str]) -> None:
    fill(tmp_path, *EVERYTHING)
    index(tmp_path, "model.safetensors.index.json", "model.safetensors")
    found = {file.name for file in weight_files(tmp_path, load_format).files}
    small = {"config.json", "model.safetensors.index.json"}
    assert found == expected | small


def test_a_load_format_that_is_not_known_or_has_no_files_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "m.bin")
    with pytest.raises(StagingError, match="which files --load-format tensorizer reads; take it"):
        weight_files(tmp_path, "tensorizer")
    with pytest.raises(StagingError, match=r"no weights for --load-format pt \(\.pt\)"):
        weight_files(tmp_path, "pt")


def test_the_index_decides_which_shards_count(tmp_path: Path) -> None:
    fill(tmp_path, "a.safetensors", "b.safetensors", "left-over.safetensors")
    index(tmp_path, "model.safetensors.index.json", "a.safetensors", "b.safetensors")
    index(tmp_path, "other.safetensors.index.json", "left-over.safetensors")
    assert {name for name in chosen(tmp_path) if name.endswith(".safetensors")} == {
        "a.safetensors",
        "b.safetensors",
    }
    fill(tmp_path, "consolidated.safetensors", "consolidated-old.safetensors")
    index(tmp_path, "consolidated.safetensors.index.json", "consolidated.safetensors")
    assert {name for name in chosen(tmp_path) if name.endswith(".safetensors")} == {
        "consolidated.safetensors"
    }


def test_an_index_of_bin_files_leaves_none_of_them_out(tmp_path: Path) -> None:
    fill(tmp_path, "a.bin", "b.bin")
    index(tmp_path, "pytorch_model.bin.index.json", "a.bin")
    assert chosen(tmp_path) == {"a.bin", "b.bin", "pytorch_model.bin.index.json"}
    index(tmp_path, "pytorch_model.bin.index.json", "a.bin", "c.bin")
    assert refused(tmp_path).startswith(f"{tmp_path}/c.bin: is missing")


def test_what_a_start_reads_first_comes_first(tmp_path: Path) -> None:
    fill(tmp_path, "m-10.safetensors", "m-9.safetensors", "tokenizer.json", "config.json")
    assert [file.name for file in weight_files(tmp_path).files] == [
        "config.json",
        "tokenizer.json",
        "m-9.safetensors",
        "m-10.safetensors",
    ]


def entry(root: Path, *revisions: str) -> Path:
    """Make the root of a cache entry, whose snapshots share their blobs."""
    fill(root / "blobs", "aa11", "bb22")
    for revision in revisions:
        snapshot = root / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for name, blob in [
            ("x.safetensors", "aa11"),
            ("y.safetensors", "aa11"),
            ("c.json", "bb22"),
        ]:
            (snapshot / name).symlink_to(Path("../../blobs") / blob)
    return root


def test_a_cache_snapshot_gives_the_blobs_each_once(tmp_path: Path) -> None:
    snapshot = entry(tmp_path, "0123") / "snapshots" / "0123"
    found = weight_files(snapshot)
    assert found.files == (snapshot / "c.json", snapshot / "x.safetensors")
    assert found.total == 10000
    assert weight_files(tmp_path) == found, "the only one"


def test_the_root_of_a_cache_entry_stands_for_the_snapshot_of_main(tmp_path: Path) -> None:
    root = entry(tmp_path / "models--org--name", "0123", "4567")
    choices = [str(root / "snapshots" / name) for name in ("0123", "4567")]
    assert all(choice in refused(root) for choice in choices)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("4567\n")
    assert model_folder(root) == root / "snapshots" / "4567"
    assert {file.parent for file in weight_files(root).files} == {root / "snapshots" / "4567"}
    (root / "refs" / "main").write_text("89ab")
    assert "names the snapshot '89ab', which isn't there" in refused(root)
    plain = tmp_path / "plain"
    fill(plain / "snapshots", "of-something-else")
    assert model_folder(plain) == plain


def refused(folder: Path) -> str:
    with pytest.raises(StagingError) as caught:
        weight_files(folder)
    return str(caught.value)


def test_half_a_download_is_refused(tmp_path: Path) -> None:
    one = tmp_path / "index-names-more"
    fill(one, "a.safetensors")
    index(one, "model.safetensors.index.json", "a.safetensors", "b.safetensors")
    assert refused(one).startswith(f"{one}/b.safetensors: is missing")

    two = tmp_path / "piece-gone"
    fill(two, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    assert refused(two).startswith(f"{two}/model-00002-of-00003.safetensors: is missing")

    three = tmp_path / "sparse"
    three.mkdir()
    with (three / "model.safetensors").open("wb") as file:
        file.write(os.urandom(1 << 16))
        file.truncate(1 << 20)
        os.fsync(file.fileno())
    assert "half-downloaded (960.0 KiB of 1.0 MiB are holes)" in refused(three)

    four = tmp_path / "dangling"
    four.mkdir()
    (four / "model.safetensors").symlink_to("../blobs/gone")
    assert "links to" in refused(four)
    assert "finish the download" in refused(four)

    five = tmp_path / "only-begun"
    fill(five, "model.safetensors.incomplete", "config.json")
    assert ".incomplete" in refused(five)

    six = tmp_path / "links-to-a-part"
    fill(six / "blobs", "aa.incomplete")
    (six / "s").mkdir()
    (six / "s/model.safetensors").symlink_to("../blobs/aa.incomplete")
    assert "half-downloaded" in refused(six / "s")

    seven = tmp_path / "empty"
    seven.mkdir()
    (seven / "model.safetensors").touch()
    assert "it is empty" in refused(seven)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "gone")
    fill(tmp_path / "f", "config.json", "model.onnx")
    assert "holds no weights" in refused(tmp_path / "f")
    assert "is no folder" in refused(tmp_path / "f" / "config.json")
    fill(tmp_path / "g", "m.Q4.gguf", "m.Q8.gguf")
    assert "2 different .gguf files" in refused(tmp_path / "g")
    (tmp_path / "h" / "model.safetensors").mkdir(parents=True)
    assert "no regular file" in refused(tmp_path / "h")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": {}}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused(tmp_path)


def test_an_index_can_not_reach_out_of_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, "secret.safetensors", "m/model.safetensors")
    index(tmp_path / "m", "model.safetensors.index.json", "../secret.safetensors")
    assert "outside the folder" in refused(tmp_path / "m")


def tensors(data: int, *, promised: int | None = None) -> bytes:
    """A safetensors file of one tensor, whose header may promise other than there is."""
    entry = {"dtype": "U8", "shape": [data], "data_offsets": [0, promised or data]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([1]) * data


def test_a_file_that_is_shorter_than_its_header_says_is_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    whole = tensors(100_000)
    file.write_bytes(whole)
    assert chosen(tmp_path) == {"model.safetensors"}
    for left, missing in ((len(whole) - 40_000, r"39\.1 KiB"), (60, "")):
        file.write_bytes(whole[:left])
        with pytest.raises(StagingError, match=rf"is cut short \({missing}.*finish or repeat"):
            weight_files(tmp_path)
    file.write_bytes(whole)  # the download went on
    assert chosen(tmp_path) == {"model.safetensors"}
    file.write_bytes(tensors(100_000, promised=100_007))
    with pytest.raises(StagingError, match="7 bytes are missing"):
        weight_files(tmp_path)
