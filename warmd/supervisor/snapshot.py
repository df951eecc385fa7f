"""What the supervisor tells about a model: facts for people and dashboards."""

from __future__ import annotations

from dataclasses import asdict

from warmd.ladder import StartTimes
from warmd.policy.estimate import expected_start
from warmd.replica import Replica, ReplicaState
from warmd.status import ModelStatus, ReplicaStatus, SleepStatus, StagingStatus, StartStatus
from warmd.supervisor.events import Clock
from warmd.supervisor.model import Managed


def model_status(model: Managed, clock: Clock) -> ModelStatus:
    """Return what is known of `model` at this moment."""
    staged = model.staged.state
    return ModelStatus(
        name=model.name,
        aliases=model.terms.aliases,
        rung=model.rung,
        target=model.target.rung,
        reason=model.target.reason,
        held_up_by=model.held_up_by,
        override_until=model.override.until if model.override else None,
        waiting=len(model.waiting),
        oldest_wait=model.oldest_wait(clock.monotonic()),
        staging=StagingStatus(done=staged.done, total=staged.total or 0, holding=staged.held),
        retired=model.retired,
        replicas=tuple(_replica_status(model, replica, clock) for replica in model.replicas),
    )


def _replica_status(model: Managed, replica: Replica, clock: Clock) -> ReplicaStatus:
    state = replica.state
    to_wall = clock.wall() - clock.monotonic()
    return ReplicaStatus(
        name=replica.name,
        rung=model.rung_of(replica),
        phase=state.phase,
        pid=state.pid,
        since=state.since + to_wall,
        reason=state.reason,
        in_flight=replica.in_flight,
        failures=state.failures,
        retry_at=None if state.retry_at is None else state.retry_at + to_wall,
        start=_start_status(model, replica, clock.monotonic()),
        last_start=None if state.last_start is None else _by_name(state.last_start),
        sleep=_sleep_status(state),
    )


def _sleep_status(state: ReplicaState) -> SleepStatus | None:
    nap, wake = state.last_nap, state.last_wake
    if not state.cycles or nap is None:
        return None
    return SleepStatus(
        cycles=state.cycles,
        seconds=nap.seconds,
        host_ram=nap.host_ram,
        device_kept=nap.device_kept,
        last_wake=None if wake is None else asdict(wake),
    )


def _start_status(model: Managed, replica: Replica, now: float) -> StartStatus | None:
    stage = replica.stage
    if stage is None or replica.state.started_at is None:
        return None
    return StartStatus(
        stage=stage,
        seconds={s.value: seconds for s, seconds in replica.stage_seconds().items()},
        elapsed=now - replica.state.started_at,
        expected=expected_start(model.starts) if model.starts else None,
    )


def _by_name(times: StartTimes) -> dict[str, float]:
    return {stage.value: seconds for stage, seconds in times.stages.items()}
