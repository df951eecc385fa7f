"""The command line and the environment of one vLLM engine. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pydantic import SecretStr

from warmd.engine.home import EngineHome

FIRST_PORT = 21000
PORTS_EACH = 50
_PORT = "VLLM_PORT"
_CARDS = "CUDA_VISIBLE_DEVICES"
_WIDTH = "--tensor-parallel-size"
_COMPILED = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
"""Where kernels are kept that vLLM's log doesn't name: else in the user's home and in /tmp."""
_BELOW = {"FLASHINFER_WORKSPACE_BASE": ".cache/flashinfer"}
"""Where in such a folder they are (flashinfer/jit/env.py)."""
_SECRET = re.compile(r"-(?:key|token|secret|password)$", re.IGNORECASE)
_SECRET_LEAST = 8
_PORT_RANGES = 200  # ends at 31000, below the kernel's ephemeral ports (ip(7): from 32768)


class SleepSupport(Enum):
    """Whether an engine is started so that it can be put to sleep."""

    NONE = "none"
    REAL = "real"
    DRILL = "drill"
    """It goes through the motions and frees nothing: vLLM on the CPU, which refuses the flag."""

    @property
    def args(self) -> tuple[str, ...]:
        """The flags that it takes."""
        return ("--enable-sleep-mode",) if self is SleepSupport.REAL else ()

    @property
    def env(self) -> dict[str, str]:
        """The variables that it takes: /sleep is one of vLLM's development endpoints."""
        return {} if self is SleepSupport.NONE else {"VLLM_SERVER_DEV_MODE": "1"}


@dataclass(frozen=True)
class EngineRecipe:
    """All that an engine's command is made of. `slot` numbers the replicas of this host."""

    python: Path
    model: str
    weights: Path  # the stable path
    home: EngineHome
    cache_dir: Path
    slot: int
    aliases: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    engine_env: Mapping[str, SecretStr] = field(default_factory=dict)
    model_env: Mapping[str, SecretStr] = field(default_factory=dict)
    sleep: SleepSupport = SleepSupport.NONE
    gpus: tuple[str, ...] = ()  # by UUID; none where it may use any
    tensor_parallel: int = 1
    vram: int | None = None  # bytes of each GPU that it is held to
    sleep_level: int = 1  # what level 1 has pinned an engine never gives back (vllm#16663)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be quoted from its log: values of `env`, and of args that are named so.

        Not folders, nor what is short: mostly that is a number or a word, and stands everywhere.
        """
        env = [*self.engine_env.values(), *self.model_env.values()]
        values = (secret.get_secret_value() for secret in env)
        found = {value for value in values if not value.startswith("/")}
        for n, arg in enumerate(self.args):
            flag, is_joined, value = arg.partition("=")
            if flag.startswith("-") and _SECRET.search(flag):
                found.add(value if is_joined else "".join(self.args[n + 1 : n + 2]))
        return tuple(sorted((each for each in found if len(each) >= _SECRET_LEAST), key=len)[::-1])

    @property
    def compiled_in(self) -> tuple[Path, ...]:
        """The model's own folders of compiled kernels, but for those that the user keeps else."""
        taken = {*self.engine_env, *self.model_env}
        return tuple(
            Path(path, _BELOW.get(name, ""))
            for name, path in _compiled(self).items()
            if name not in taken
        )

    def fingerprint(self, source: Path) -> str:
        """Return the SHA-256 (hex) of what makes this engine what it is.

        `source` is the folder that the stable path leads to. An engine that runs and has another
        one is not what the config describes. Its slot and what it inherits of the daemon's
        environment change from daemon to daemon, its GPUs are known only while the driver works,
        and what binds it to its vram follows from what was measured: they don't count.
        """
        env = {
            name: value for name, value in _declared(self).items() if name not in (_PORT, _CARDS)
        }
        facts = json.dumps(
            [_argv(self, ()), env, str(source), self.sleep_level, self.vram], sort_keys=True
        )
        return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class EngineCommand:
    """What to exec. The environment is whole and may hold secrets, so it isn't shown."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path

    @property
    def shown(self) -> str:
        """The command line as one would type it."""
        return shlex.join(self.argv)


def first_port(slot: int) -> int:
    """Where an engine begins to look for free TCP ports: engines that start together collide.

    See vllm-project/vllm#43206.
    """
    return FIRST_PORT + PORTS_EACH * (slot % _PORT_RANGES)


def engine_command(
    recipe: EngineRecipe, inherited: Mapping[str, str], bound: tuple[str, ...] = ()
) -> EngineCommand:
    """Build the command of one engine; `inherited` is what it may have of the daemon's environment.

    `bound` are the flags that hold it to its reservation.

    The module is started rather than the `vllm` command, which looks for a distribution of that
    name and fails where vLLM was built under another one.
    """
    # Kernels are built at run time with ninja and friends, which live beside the engine's Python.
    path = os.pathsep.join((str(recipe.python.parent), inherited.get("PATH", os.defpath)))
    env = {**inherited, "PATH": path, **_declared(recipe)}
    return EngineCommand(_argv(recipe, bound), env, recipe.home.folder)


def _argv(recipe: EngineRecipe, bound: tuple[str, ...]) -> tuple[str, ...]:
    return (
        str(recipe.python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(recipe.weights),
        "--served-model-name",
        recipe.model,
        *recipe.aliases,
        "--uds",
        str(recipe.home.socket),
        *recipe.sleep.args,
        *(() if recipe.tensor_parallel == 1 else (_WIDTH, str(recipe.tensor_parallel))),
        *bound,
        *recipe.args,
    )


def _declared(recipe: EngineRecipe) -> dict[str, str]:
    env = {
        "VLLM_CACHE_ROOT": str(recipe.cache_dir / "vllm"),
        **_compiled(recipe),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        _PORT: str(first_port(recipe.slot)),
        "PYTHONUNBUFFERED": "1",  # the stages of a start are timed by the arrival of lines
        **recipe.sleep.env,
    }
    if recipe.gpus:
        env[_CARDS] = ",".join(recipe.gpus)
    if recipe.home.rpc is not None:
        env["VLLM_RPC_BASE_PATH"] = str(recipe.home.rpc)
    for overrides in (recipe.engine_env, recipe.model_env):
        env |= {name: secret.get_secret_value() for name, secret in overrides.items()}
    return env


def _compiled(recipe: EngineRecipe) -> dict[str, str]:
    return {
        name: str(recipe.cache_dir / folder / recipe.model) for name, folder in _COMPILED.items()
    }
