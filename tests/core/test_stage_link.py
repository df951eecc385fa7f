"""What is said of a stage keeper that has gone."""

from __future__ import annotations

from warmd.staging.link import ended


def test_systemd_that_made_the_socket_is_not_taken_for_the_keeper() -> None:
    assert ended(1) == "the stage keeper has ended"
    assert ended(4711) == "process 4711, the stage keeper, has ended"
