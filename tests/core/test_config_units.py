from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.config import (
    Address,
    Share,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("512MiB", 512 * 2**20),
        ("90GiB", 90 * 2**30),
        ("1.5 TiB", 3 * 2**39),
        ("20GB", 20_000_000_000),
        ("64kb", 64_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1d1ms", 86400.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "90G", "GiB", "-1GiB", "1e3B", "90GiB ", "٣GiB", "1" * 99 + "B"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="90GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "such as"),
        ("90", "such as"),
        ("1 h", "such as"),
        ("-5s", "such as"),
        ("5min", "such as"),
        ("30m1h", "the largest first"),
        ("1s1s", "once"),
        ("0.1ms", "millisecond"),
        ("400d", "366d"),
    ],
)
def test_no_durations(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_duration(text)


@given(st.integers(0, 2**50))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 366 * 86_400_000))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(
    st.one_of(st.integers(0, 100).map("{}%".format), st.integers(0, 2**50).map(format_size)),
    st.integers(0, 2**45),
)
def test_a_share_survives_being_written_and_is_never_more_than_the_whole(
    text: str, total: int
) -> None:
    share = Share.parse(text)
    assert Share.parse(str(share)) == share
    assert 0 <= share.of(total) <= total


def test_what_a_share_comes_to() -> None:
    assert Share.parse("50%").of(1001) == 500
    assert Share.parse("12.5%").of(800) == 100
    assert Share.parse("20GiB").of(2**40) == 20 * 2**30
    for text in ("101%", "50", "half", "%"):
        with pytest.raises(ValueError, match="must be"):
            Share.parse(text)


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8400", "127.0.0.1", 8400, True),
        ("[::1]:8400", "::1", 8400, True),
        ("localhost:0", "localhost", 0, True),
        ("0.0.0.0:65535", "0.0.0.0", 65535, False),
        ("[::]:1", "::", 1, False),
        ("gpu-1.lan:80", "gpu-1.lan", 80, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address, address.is_loopback, str(address)) == (Address(host, port), loopback, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8400", "a host and a port"),
        (":8400", "a host and a port"),
        ("*:8400", "0.0.0.0"),
        ("127.0.0.1:http", "from 0 to 65535"),
        ("127.0.0.1:65536", "from 0 to 65535"),
        ("::1:8400", "brackets"),
        ("[127.0.0.1]:8400", "no valid IP"),
        ("127.0.0.256:8400", "no valid IP"),
        ("http://gpu:8400", "brackets|host name"),
        ("gpu 1:8400", "host name"),
    ],
)
def test_no_addresses(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Address.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("localhost:1", "[::1]:1", True),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "localhost:1", True),
        ("[::]:1", "127.0.0.1:1", False),
        ("[::]:1", "[::1]:1", True),
        ("10.0.0.1:1", "127.0.0.1:1", False),
    ],
)
def test_which_addresses_exclude_each_other(one: str, other: str, overlap: bool) -> None:
    a, b = Address.parse(one), Address.parse(other)
    assert a.overlaps(b) is b.overlaps(a) is overlap
