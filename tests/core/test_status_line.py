"""The one line that `systemctl status warmd` shows."""

from __future__ import annotations

from warmd.ladder import Phase, Rung, Stage
from warmd.status import CardStatus, ModelStatus, ReplicaStatus, StagingStatus, StartStatus
from warmd.status_line import status_line

GIB = 1 << 30


def replica(phase: Phase, far: tuple[float, float | None] | None = None) -> ReplicaStatus:
    start = None if far is None else StartStatus(Stage.WEIGHTS, {}, *far)
    return ReplicaStatus("m.0", Rung.COLD, phase, None, 0.0, "", 0, 0, None, start, None)


def model(name: str, rung: Rung, *replicas: ReplicaStatus) -> ModelStatus:
    staging = StagingStatus(0, 0, holding=False)
    return ModelStatus(name, (), rung, rung, "", None, None, 0, 0.0, staging, replicas)


def card(reserved: int, total: int, quarantine: str | None = None) -> CardStatus:
    return CardStatus(
        *("GPU-1", 1, "GPU 1", "H100", total * GIB, GIB, 0, 0, reserved * GIB, 0, (), (), None, ()),
        seen=0.0,
        quarantine=quarantine,
    )


def line(*models: ModelStatus, cards: tuple[CardStatus, ...] = ()) -> str:
    return status_line({each.name: each for each in models}, cards)


def test_every_model_is_told_once_by_what_matters_most() -> None:
    assert (
        line(
            model("a", Rung.HOT, replica(Phase.READY), replica(Phase.STARTING, (1.0, 2.0))),
            model("b", Rung.STAGED),
            model("c", Rung.STAGED, replica(Phase.STARTING, (12.6, 20.0))),
            model("d", Rung.HOT, replica(Phase.READY)),
            cards=(card(30, 40), card(11, 40)),
        )
        == "2 hot, 1 starting (63%), 1 staged; 41/80 GiB reserved"
    )


def test_no_percentage_is_made_up_or_overdrawn() -> None:
    unknown = model("a", Rung.COLD, replica(Phase.STARTING, (5.0, None)))
    late = model("b", Rung.COLD, replica(Phase.WARMING, (30.0, 20.0)))
    assert line(unknown) == "1 starting"
    assert line(unknown, late) == "2 starting (99%)"


def test_what_failed_does_not_hide_behind_its_rung() -> None:
    failed = model("a", Rung.STAGED, replica(Phase.FAILED))
    tried_again = model("b", Rung.COLD, replica(Phase.BACKING_OFF))
    sick = card(0, 80, "it is lost")
    assert line(failed, tried_again, cards=(sick,)) == (
        "2 failed; 0/80 GiB reserved; GPU 1 is quarantined"
    )


def test_nothing_to_tell() -> None:
    assert line() == "no models configured"
