"""What a key may do, and that its count of requests comes back to nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from warmd.config import KeySettings
from warmd.gateway import Keys
from warmd.gateway.access import Access
from warmd.gateway.errors import RefusedError


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    file = tmp_path / "keys"
    file.write_text(f"alice:{hashlib.sha256(b'a').hexdigest()}\n")
    return Keys(file, pytest.fail)


def test_who_shows_no_key_is_refused_and_where_none_is_asked_for_nobody_is(keys: Keys) -> None:
    assert Access().holder("", "") is None
    assert Access(keys).holder("Bearer a", "") == "alice"
    with pytest.raises(RefusedError) as refused:
        Access(keys).holder("Bearer b", "")
    assert refused.value.status == 401


def test_models_of_a_key() -> None:
    limits = {"alice": KeySettings(models=("m",)), "bob": KeySettings(models=())}
    access = Access(None, lambda: limits)
    assert [access.may_use("alice", each) for each in "mn"] == [True, False]
    assert not access.may_use("bob", "m")
    assert access.may_use("carol", "m")
    assert access.may_use(None, "m")


def test_requests_in_flight_are_counted_by_key_and_each_place_once() -> None:
    limits = {"alice": KeySettings(in_flight=2)}
    access = Access(None, lambda: limits)
    first, second = access.enter("alice"), access.enter("alice")
    for other in ("bob", None):
        for _ in range(3):
            access.enter(other)
    with pytest.raises(RefusedError) as refused:
        access.enter("alice")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    first.release()
    first.release()
    third = access.enter("alice")
    with pytest.raises(RefusedError):
        access.enter("alice")
    second.release()
    third.release()

    # A reload brings the limit while requests run, which count: they came before it.
    for _ in range(2):
        access.enter("dave")
    limits["dave"] = KeySettings(in_flight=2)
    with pytest.raises(RefusedError):
        access.enter("dave")
