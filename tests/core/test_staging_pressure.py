"""What is read out of the kernel's files on memory, and said of it."""

from __future__ import annotations

import pytest

from warmd.staging.holder.pressure import (
    Evidence,
    amount,
    available,
    limit_met,
    own_folders,
    some_avg10,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("some avg10=20.31 avg60=3.00 avg300=0.10 total=99\nfull avg10=1.00 total=1\n", 20.31),
        ("full avg10=1.00 total=1\n", None),
        ("some avg10= total=1\n", None),
        ("", None),
    ],
)
def test_the_share_of_the_last_ten_seconds(text: str, share: float | None) -> None:
    assert some_avg10(text) == share


def test_the_own_cgroup_and_those_above() -> None:
    unified, memory = own_folders("4:cpu,memory:/a\n1:name=systemd:/x\n0::/s.slice/warmd.service\n")
    below = ["/s.slice/warmd.service", "/s.slice", ""]
    assert unified == [
        r + path for r in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") for path in below
    ]
    assert memory == ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"]
    assert own_folders("0::/\n") == (["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], [])
    assert own_folders("") == ([], [])


def test_a_units_limit_and_the_hosts_memory() -> None:
    assert limit_met("low 0\nhigh 4\nmax 3\noom 0\noom_kill 0\n") == 7
    assert available("MemTotal: 4 kB\nMemAvailable:    2048 kB\n") == 2 << 20
    assert available("") is None


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            Evidence(9, 40.0, GIB),
            "the memory limit of warmd's unit, or of a slice above it, was met 5 times; raise M",
        ),
        (Evidence(4, 40.0, GIB), "something waited for it 40 % of the last 10 s with 1.0 GiB avai"),
        (Evidence(None, 0.0, 5 * GIB), "nothing that can be seen from here pressed with 5.0 GiB"),
        (Evidence(None, None, None), "nothing that can be seen from here pressed: look for"),
    ],
)
def test_what_pushed_it_out_is_what_is_known(now: Evidence, words: str) -> None:
    assert words in now.why(Evidence(4, 0.0, 9 * GIB))


def test_sizes_in_words() -> None:
    assert [amount(n) for n in (12, 2048, 13 << 20, 3 * GIB)] == [
        *("12 bytes", "2.0 KiB", "13.0 MiB", "3.0 GiB"),
    ]
