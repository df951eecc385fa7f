"""Looks at the whole host once and judges what was seen. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from warmd.config import DEFAULT_FILE, Settings, SleepMode, load_what_is_sound
from warmd.doctor.clock import judge_clock, look_at_clock
from warmd.doctor.daemon import DaemonAnswer, judge_daemon, judge_group, look_at_group
from warmd.doctor.engine_python import judge_engine, look_at_engine
from warmd.doctor.finding import Finding, Level
from warmd.doctor.folders import judge_folders, look_at_folders
from warmd.doctor.gpus import judge_gpus, look_at_gpus
from warmd.doctor.kernel import judge_kernel, look_at_kernel
from warmd.doctor.limits import judge_limits, look_at_limits
from warmd.doctor.look import Look
from warmd.doctor.memory import judge_memory, look_at_memory
from warmd.doctor.ports import judge_ports, look_at_ports
from warmd.doctor.reserving import judge_reservations, look_at_reservations
from warmd.doctor.service import judge_service, look_at_service
from warmd.doctor.shared_memory import judge_shared_memory, look_at_shared_memory
from warmd.doctor.sound import SoundConfig
from warmd.doctor.user import User, owner_of, this_user, user_of
from warmd.doctor.weights import judge_weights, look_at_weights
from warmd.launch.environment import clean_environment

WITHIN_S = 20.0
"""How long one look may take."""


def examine(
    config: Path | None,
    ask_daemon: Callable[[Path], DaemonAnswer],
    version: str,
    *,
    within_s: float = WITHIN_S,
) -> list[Finding]:
    """Look at the config, the daemon and the host; return every finding.

    `ask_daemon` is given the control socket of the config; `version` is warmctl's.
    """
    # In a thread as well: a weights' folder on a dead mount hangs the config's own check.
    loading = Look("config", lambda: load_what_is_sound(config), within_s)
    sound = SoundConfig(config or DEFAULT_FILE, *(loading.facts() or (None, ())))
    settings = sound.settings
    daemon = ask_daemon(settings.control_socket)
    asker = this_user()
    looking = Look(
        # A tuple: that there is no service is an answer.
        "service",
        lambda: (look_at_service(settings.host.run_dir, user_of, within_s),),
        within_s,
    )
    [service] = looking.facts() or (None,)
    runner = runner_of(
        daemon, settings.host.state_dir, asker, None if service is None else service.daemon
    )
    engines = None if service is None else service.engines

    gpus = Look("gpu", lambda: look_at_gpus(runner), within_s)
    weights = Look(
        "weights", lambda: look_at_weights(sound.weights, sound.verified, runner, engines), within_s
    )
    memory = Look("memory", lambda: look_at_memory(daemon.pid), within_s)
    folders = Look("folders", lambda: look_at_folders(sound.folders, runner), within_s)
    ports = Look("ports", lambda: look_at_ports(sound.addresses, daemon.pid), within_s)
    shared = Look("shared memory", lambda: look_at_shared_memory(runner.uid), within_s)
    limits = Look("limits", lambda: look_at_limits(daemon.pid), within_s)
    clock = Look("clock", look_at_clock, within_s)
    kernel = Look("kernel", look_at_kernel, within_s)
    reserved = Look(
        "config", partial(look_at_reservations, sound.checked_further, within_s), within_s + 1
    )

    engine: list[Finding] = []
    for_gpu = None
    if (python := sound.python) is not None:
        asked = Look(
            "engine",
            lambda: look_at_engine(python, engines or runner, _env(settings), within_s),
            within_s + 1,
        )
        cards = gpus.facts()
        has_gpu = cards is None or bool(cards.cards or cards.module)
        engine = asked.judged(
            lambda facts: judge_engine(
                facts, settings.engine.sleep, has_gpu=has_gpu, service=service is not None
            )
        )
        told = asked.facts()
        for_gpu = told.for_gpu if told is not None else None
    seen = weights.facts() or ()
    largest = max((each.total for each in seen), default=0)
    resting = sum(each.total for each in seen if each.model in sound.staged)
    traits = kernel.facts()

    told_elsewhere = frozenset("engine.python" for each in engine if each.level is Level.PROBLEM)
    found = loading.judged(lambda _: sound.judge(told_elsewhere))
    found += [
        *reserved.judged(judge_reservations),
        *judge_daemon(daemon, version, asker, runner),
    ]
    found += _of_group(sound.group, runner, within_s, service=service is not None)
    found += looking.judged(lambda facts: judge_service(*facts))
    found += gpus.judged(lambda facts: judge_gpus(facts, for_gpu))
    found += engine
    found += weights.judged(
        lambda facts: judge_weights(facts, traits is not None and traits.tables, runner)
    )
    found += memory.judged(
        lambda facts: judge_memory(
            facts,
            settings.ram.staging.of(facts.total),
            resting,
            daemon.staged,
            settings.ram.reserve.of(facts.total),
            kept={each.model: each.total for each in seen if each.model in sound.kept},
        )
    )
    found += folders.judged(judge_folders)
    found += ports.judged(lambda facts: judge_ports(facts, daemon.pid, runs=daemon.runs))
    found += shared.judged(judge_shared_memory)
    # Engines of the service have limits of their own, and their unit sets none.
    pins = service is None and for_gpu is not False and settings.engine.sleep is not SleepMode.OFF
    found += limits.judged(lambda facts: judge_limits(facts, largest, pins))
    found += clock.judged(judge_clock)
    found += kernel.judged(judge_kernel)
    return found


def _env(settings: Settings) -> dict[str, str]:
    own = {name: secret.get_secret_value() for name, secret in settings.engine.env.items()}
    return clean_environment(os.environ) | own


def _of_group(group: str | None, runner: User, within_s: float, *, service: bool) -> list[Finding]:
    if group is None:
        return []
    # In a thread and a tuple: a directory server may hang, and None is an answer.
    asked = Look("daemon", lambda: (look_at_group(group),), within_s)
    return asked.judged(lambda number: judge_group(group, *number, runner, service=service))


def runner_of(
    daemon: DaemonAnswer, state_dir: Path, asker: User, of_service: User | None = None
) -> User:
    """Return who runs the daemon; where none can be asked, whom its service runs as, or who ran it.

    An ordinary user whom no daemon keeps out may want to run one by himself.
    """
    if daemon.pid is not None:
        return user_of(daemon.pid) or asker
    if of_service is not None:
        return of_service
    is_anothers = asker.uid == 0 or daemon.runs
    return (owner_of(state_dir) if is_anothers else None) or asker
