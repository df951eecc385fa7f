"""Memory limits of control groups: both versions, all groups above, what is left below each."""

from __future__ import annotations

from pathlib import Path

from warmd.devices import limits_of

MIB = 2**20


def group(root: Path, path: str, **files: object) -> None:
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def left(text: str, root: Path) -> dict[str, int]:
    return {
        str(each.key.relative_to(root)): each.available // MIB for each in limits_of(text, root)
    }


def test_a_limit_of_any_group_above_counts_and_page_cache_is_to_be_had(tmp_path: Path) -> None:
    stat = f"anon 5\nactive_file {30 * MIB}\ninactive_file {10 * MIB}\nunevictable 7"
    group(tmp_path, "/", cgroup__controllers="memory")
    group(
        tmp_path,
        "/system.slice",
        memory__max=400 * MIB,
        memory__high="max",
        memory__current=350 * MIB,
        memory__stat=stat,
    )
    group(
        tmp_path,
        "/system.slice/warmd.service",
        memory__max="max",
        memory__high=200 * MIB,
        memory__current=50 * MIB,
        memory__stat=stat,
    )
    assert left("0::/system.slice/warmd.service\n", tmp_path) == {
        "system.slice/warmd.service/memory.high": 190,
        "system.slice/memory.max": 90,
    }
    assert left("0::/\n", tmp_path) == {}


def test_version_one_counts_the_groups_below_as_well_and_knows_no_limit_as_a_number(
    tmp_path: Path,
) -> None:
    group(tmp_path, "/memory", memory__limit_in_bytes=9223372036854771712)
    group(
        tmp_path,
        "/memory/box",
        memory__limit_in_bytes=100 * MIB,
        memory__usage_in_bytes=120 * MIB,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {40 * MIB}\ntotal_active_file 0",
    )
    text = "9:name=systemd:/\n4:cpu,memory:/box\n0::/\n"
    assert left(text, tmp_path) == {"memory/box/memory.limit_in_bytes": 20}


def test_what_is_over_its_limit_or_cannot_be_read_leaves_nothing_or_says_nothing(
    tmp_path: Path,
) -> None:
    group(tmp_path, "/a", memory__max=MIB, memory__current=5 * MIB)
    assert left("0::/a\n", tmp_path) == {"a/memory.max": 0}
    assert left("0::/gone/below\n", tmp_path) == {}
    group(tmp_path, "/", memory__max=3 * MIB)
    assert left("0::/../outside\n", tmp_path) == {"memory.max": 3}, "all that is mounted here"
