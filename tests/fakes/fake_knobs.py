"""The knobs of the fake engine: JSON in the environment variable FAKE_VLLM.

`FAKE_VLLM={"seconds": {"weights": 0.2}, "token_s": 0.05}`; unknown knobs are an error. The key
`file` names a JSON file whose knobs are laid over the variable's at each start, so that a test can
change an engine's ways without changing its environment.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

STAGES = ("imports", "weights", "compile", "kv-cache")
ANSWERS = ("right", "garbage", "500", "empty-choices", "wrong-shape", "no-tokens", "nan", "silence")
OPERATIONS = ("sleep", "wake", "reload")
FAILURES = ("500", "hang", "lie", "exit")


@dataclass(frozen=True)
class SleepKnobs:
    """How it sleeps and wakes; all of it is off by default."""

    first_sleep_s: float = 0.0
    """How long the first sleep takes: pinning memory is slow."""
    sleep_s: float = 0.0
    """How long each further sleep takes."""
    wake_s: float = 0.0
    """How long a wake takes, in each of its steps."""
    bare_answers: bool = False
    """Answer with an empty 200, as 0.26 does."""

    fails_in: str | None = None
    """The operation that `failure` befalls: sleep, wake or reload."""
    failure: str = "500"
    """`500`; `hang`; `lie`: 200, and nothing was done; `exit`: the process ends."""
    from_time: int = 1
    """It befalls this operation's n-th time and all later ones."""
    exit_code: int = 0

    wrong_from_wake: int | None = None
    """Garbage behind a 200 from this wake on (vllm#29341)."""
    slow_from_wake: int | None = None
    """Tokens take `slow_token_s` from this wake on (vllm#52479)."""
    slow_token_s: float = 0.05

    pinned_bytes: int = 0
    """Taken at the first sleep and never given back (vllm#16663); needs --enable-sleep-mode."""
    leaked_bytes: int = 0
    """Lost at each sleep (vllm#21336); needs --enable-sleep-mode."""


@dataclass(frozen=True)
class Knobs:
    """Everything is off by default: a fake that starts at once and answers well."""

    # --- the start ---
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage takes: imports, weights, compile, kv-cache."""
    fail_at: str | None = None
    """The stage in which the start fails."""
    fail_code: int = 1
    """The exit status of that failure."""
    fail_lines: tuple[str, ...] = ()
    """Lines printed just before, as they are."""
    fail_error: str | None = None
    """The last line of a traceback that EngineCore logs before, in vLLM's way: `ValueError: x`."""
    hang_at: str | None = None
    """The stage that never ends."""
    port_taken: bool = False
    """Fail while the workers meet, because a TCP port is in use."""
    refuse_args: tuple[str, ...] = ()
    """Flags that argparse refuses; all others that the fake doesn't know are ignored."""
    bad_starts: int | None = None
    """The failures above befall only the first so many starts; `state` counts them."""
    state: str | None = None
    """The file that counts starts, for `bad_starts`."""

    segment: str | None = None
    """A segment in /dev/shm that all its processes map: a start that finds one of that name fails,
    and only an orderly end removes it (vllm#54002)."""

    # --- processes and signals ---
    children: int = 0
    """Child processes: EngineCore, and below it workers, each the child of the one before. They end
    with an orderly stop; a killed API server leaves them, as vLLM's does (vllm#55510). Where
    EngineCore is killed the API server ends with status 0."""
    leak: bool = False
    """Leave a grandchild in its own session that ignores SIGTERM."""
    ignore_sigterm: bool = False
    """The main process ignores SIGTERM."""
    stop_s: float = 0.0
    """How long a stop takes after SIGTERM."""

    # --- what it serves ---
    embedding: bool = False
    """An embedding model: chats and completions are 404."""
    no_chat_template: bool = False
    """Chats are refused with 400, as a model without a template does."""
    tokens: int = 8
    """How many tokens an answer has where the request sets no maximum."""
    first_token_s: float = 0.0
    """Time before the first token."""
    token_s: float = 0.0
    """Time for each further token."""
    slow_after_idle_s: float | None = None
    """After so long without a request the first token takes `idle_first_token_s`."""
    idle_first_token_s: float = 0.0
    says: str | None = None
    """What it answers, in one token, whatever it is asked,"""
    says_later: tuple[int, str] | None = None
    """and after so many answers this."""
    slots: int | None = None
    """How many requests it runs at once; the others wait inside. None: all."""
    answer: str = "right"
    """`garbage`: no JSON; `500`; `empty-choices`; `wrong-shape`; `no-tokens`: 0 generated;
    `nan`: an embedding of NaN; `silence`: never."""
    wedge_after: int | None = None
    """After so many answered requests no further token comes, while every probe stays well."""
    unhealthy: bool = False
    """/health answers 503."""
    probe_s: float = 0.0
    """How long /health and /metrics take: a saturated engine answers late."""

    bad_adapters: tuple[str, ...] = ()
    """Adapters of --lora-modules that answer 500."""

    # --- sleep: needs VLLM_SERVER_DEV_MODE=1 ---
    sleep: SleepKnobs = SleepKnobs()

    # --- the end ---
    exit_after: int | None = None
    """End after so many answered requests, with `exit_code` (vLLM's death says 0)."""
    exit_code: int = 0
    crash_mid_stream: int | None = None
    """Die without a word after so many chunks of a stream."""

    # --- for the test to look at ---
    record: str | None = None
    """A file of JSON lines: started, request, asked-asleep, done, aborted, sleep, slept, wake,
    woke, reload, sigterm, ended."""

    @property
    def healthy_start(self) -> Knobs:
        """The same, without the failures of a start."""
        return replace(self, fail_at=None, hang_at=None, port_taken=False, refuse_args=())


def read_knobs() -> Knobs:
    """Read the environment; counts this start where `state` asks for it."""
    raw = json.loads(os.environ.get("FAKE_VLLM", "{}"))
    overlay = raw.pop("file", None)
    if overlay is not None and Path(overlay).exists():
        raw |= json.loads(Path(overlay).read_text())
    _no_others(raw, Knobs)
    _no_others(raw.get("sleep", {}), SleepKnobs)
    raw["sleep"] = SleepKnobs(**raw.get("sleep", {}))
    knobs = Knobs(**{name: _frozen(value) for name, value in raw.items()})
    stages = {*knobs.seconds, knobs.fail_at, knobs.hang_at} - {None}
    if not stages <= set(STAGES) or knobs.answer not in ANSWERS:
        raise SystemExit(f"FAKE_VLLM: no such stage or answer: {raw}")
    if knobs.sleep.fails_in not in {None, *OPERATIONS} or knobs.sleep.failure not in FAILURES:
        raise SystemExit(f"FAKE_VLLM: no such operation or failure: {raw}")
    return (
        knobs
        if knobs.bad_starts is None or _count(knobs) <= knobs.bad_starts
        else (knobs.healthy_start)
    )


def _no_others(raw: dict[str, Any], kind: type[Knobs | SleepKnobs]) -> None:
    if unknown := raw.keys() - {each.name for each in fields(kind)}:
        raise SystemExit(f"FAKE_VLLM: no such knobs: {', '.join(sorted(unknown))}")


def _count(knobs: Knobs) -> int:
    if knobs.state is None:
        raise SystemExit("FAKE_VLLM: bad_starts needs a state file")
    state = Path(knobs.state)
    starts = int(state.read_text()) + 1 if state.exists() else 1
    state.write_text(str(starts))
    return starts


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
