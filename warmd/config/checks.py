"""What must be true of a config beyond the types: names, addresses, socket paths, the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from warmd.config.access_checks import access
from warmd.config.address import Address
from warmd.config.engine_args import memory_contradiction, own_width
from warmd.config.fields import did_you_mean
from warmd.config.hours import host_zone
from warmd.config.model_settings import ModelSettings, WarmupKind
from warmd.config.problem import Finding, KeyPath, dotted, quoted
from warmd.config.reading import unreadable
from warmd.config.run_files import ENGINE_SOCKET, SOCKET_PATH_MAX, engine_folder
from warmd.config.settings import CPU_KV_SPACE, Settings, SleepMode
from warmd.ladder import Rung, replica_name
from warmd.snapshots import SnapshotError, snapshot_of
from warmd.spoken import size

OWN_GPUS = "where it matters on which GPUs a model runs, give it a pool with `gpus`"
"""What to do in place of setting CUDA_VISIBLE_DEVICES."""

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_NO_ENGINES = "has no effect on this rung: cold and staged have no engines, hot and asleep have"
_JSON_TOKENS = 4
_GIB = re.compile(r"[0-9]{1,6}")


def check(settings: Settings) -> Iterator[Finding]:
    """Find what single values can't show."""
    yield from _names(settings.models)
    yield from _addresses(settings)
    yield from access(settings)
    yield from _socket_paths(settings)
    yield from _stage_folder(settings)
    yield from _python(settings)
    yield from _pools(settings)
    yield from _sleepers(settings)
    yield from _windows(settings)
    yield from _zone(settings)
    yield from _cron_entries(settings)
    yield from _warmups(settings)
    yield from _scales(settings)
    yield from _tensor_parallel(settings)
    yield from _visible_devices(settings)
    yield from _memory_flags(settings)
    yield from _kv_space(settings)
    for name, model in settings.models.items():
        yield from _weights(("models", name, "weights"), model.weights)


def _names(models: dict[str, ModelSettings]) -> Iterator[Finding]:
    taken: dict[str, KeyPath] = {name: ("models", name) for name in models}
    for name, model in models.items():
        of_model: KeyPath = ("models", name)
        places: list[tuple[KeyPath, tuple[str, ...]]] = [
            ((*of_model, "aliases"), model.aliases),
            ((*of_model, "warmup", "adapters"), model.warmup.adapters),
        ]
        names = [((*path, n), each) for path, listed in places for n, each in enumerate(listed)]
        for path, alias in names:
            other = taken.setdefault(alias, path)
            if other != path:
                yield Finding(
                    path,
                    f"{dotted(other)} has this name already: take one of the two away",
                    quoted(alias),
                )


def _pools(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        path: KeyPath = ("models", name, "pool")
        if model.pool is None:
            if model.pinned:
                yield Finding(
                    ("models", name, "pinned"),
                    "has an effect in a pool with others only: name the model's `pool`, or take it "
                    "away",
                    "true",
                )
            continue
        pool = settings.pools.get(model.pool)
        if pool is None:
            hint = did_you_mean(model.pool, settings.pools) or f": add [pools.{model.pool}]"
            yield Finding(
                path,
                f"there is no such pool{hint}",
                quoted(model.pool),
                rests_on=(("pools", model.pool),),
            )
        elif model.vram is None:
            yield Finding(
                ("models", name, "vram"),
                'is missing: what one engine of this model takes of its pool, or "auto"',
                rests_on=(("models", name, "vram"),),
            )
        elif isinstance(model.vram, int) and model.vram > pool.vram:
            yield Finding(
                ("models", name, "vram"),
                f"one engine of it would take {size(model.vram)}, and the pool {model.pool!r} has "
                f"{size(pool.vram)} on each GPU: give the pool more, or the model less",
            )


def _windows(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, window in enumerate(model.windows):
            path: KeyPath = ("models", name, "windows", index)
            if window.start.at is None:
                what = 'can\'t open at the end of a day: write "00:00" and the next day'
                yield Finding((*path, "from"), what, quoted("24:00"))
            elif window.start.at == window.to.at:
                what = 'would be open for no time: for whole days write "00:00" to "24:00"'
                yield Finding((*path, "to"), what, quoted(str(window.to)))
            if window.replicas is not None and window.rung < Rung.ASLEEP:
                yield Finding((*path, "replicas"), _NO_ENGINES, str(window.replicas))
            for key, days in (("dates", window.dates), ("except", window.skip)):
                for n, day in enumerate(days):
                    if not day[:1].isdecimal() and day not in settings.calendars:
                        hint = did_you_mean(day, settings.calendars) or f": add [calendars.{day}]"
                        what = f"there is no such calendar{hint}"
                        yield Finding((*path, key, n), what, quoted(day))


def _zone(settings: Settings) -> Iterator[Finding]:
    models = settings.models.values()
    if settings.host.timezone or all(m.timezone or not (m.windows or m.cron) for m in models):
        return
    try:
        host_zone()
    except ValueError as error:
        what = f'is not set, and models have a calendar: {error}; set it, if only to "UTC"'
        yield Finding(("host", "timezone"), what, rests_on=(("host", "timezone"),))


def _cron_entries(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, entry in enumerate(model.cron):
            path: KeyPath = ("models", name, "cron", index)
            if entry.rung is None and not entry.warmup:
                what = "must say what happens then: `rung`, or `warmup = true`"
                yield Finding((*path, "at"), what, quoted(entry.at))
            elif entry.rung is not None and entry.warmup:
                what = "can't stand beside `rung`: write another entry for the warm-up request"
                yield Finding((*path, "warmup"), what, "true")
            elif entry.warmup and entry.replicas is not None:
                what = "has no effect beside `warmup`, which asks each engine that is hot"
                yield Finding((*path, "replicas"), what, str(entry.replicas))
            elif entry.replicas is not None and entry.rung and entry.rung < Rung.ASLEEP:
                yield Finding((*path, "replicas"), _NO_ENGINES, str(entry.replicas))


def _warmups(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        path: KeyPath = ("models", name, "warmup")
        table = model.warmup
        shaped = [key for key in ("response_format", "expect") if key in table.model_fields_set]
        if table.kind is WarmupKind.EMBEDDING:
            for key in shaped:
                yield Finding((*path, key), "has no meaning for an embedding, which says nothing")
        elif table.response_format != "text" and table.max_tokens < _JSON_TOKENS:
            yield Finding(
                (*path, "response_format"),
                f"needs more than {table.max_tokens} tokens: raise warmup.max_tokens to 64 or so",
                rests_on=((*path, "max_tokens"),),
            )


def _scales(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        if "scale" not in model.model_fields_set:
            continue
        path: KeyPath = ("models", name)
        if "replicas" in model.model_fields_set and model.replicas != model.scale.min:
            yield Finding(
                (*path, "replicas"),
                "contradicts the model's `scale`, whose `min` says how many there are whatever the "
                f"load: take it away, and write min = {model.replicas} there if that is meant",
                str(model.replicas),
            )
        if model.scale.max < model.scale.min:
            yield Finding(
                (*path, "scale", "max"),
                f"must be at least `min`, which is {model.scale.min}",
                str(model.scale.max),
                rests_on=((*path, "scale", "min"),),
            )
        for index, arg in enumerate(model.args):
            if model.scales and arg == "--disable-log-stats":
                yield Finding(
                    (*path, "args", index),
                    "contradicts the model's `scale`: an engine without statistics doesn't tell "
                    "how many requests wait in it; take the flag away",
                    quoted(arg),
                )


def _tensor_parallel(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, arg in enumerate(model.args):
            value = own_width(model.args, index, model.tensor_parallel)
            if model.is_reserved_for and value is not None:
                yield Finding(
                    ("models", name, "args", index),
                    "contradicts the model's tensor_parallel, by which its GPUs are reserved: "
                    f"set tensor_parallel = {value or 'N'} and take the flag away",
                    quoted(arg),
                )


def _visible_devices(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        where = settings.visible_devices(name)
        if model.is_reserved_for and where is not None:
            what = "the model's pool, which says on which GPUs it runs: set `gpus` there"
            if model.pool is None:
                what = f"its `vram`, which warmd finds a GPU for: {OWN_GPUS}"
            yield Finding(where, f"contradicts {what}")


def _memory_flags(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, arg in enumerate(model.args):
            if model.vram is not None and (why := memory_contradiction(arg)) is not None:
                yield Finding(("models", name, "args", index), why, quoted(arg))


def _kv_space(settings: Settings) -> Iterator[Finding]:
    of_models = [(("models", name), model.env) for name, model in settings.models.items()]
    for owner, env in [(("engine",), settings.engine.env), *of_models]:
        space = env.get(CPU_KV_SPACE)
        # An empty one counts as not set. What stands in `env` may be a secret, and isn't shown.
        if space and not _GIB.fullmatch(space.get_secret_value()):
            yield Finding(
                (*owner, "env", CPU_KV_SPACE),
                'must be a whole number of GiB, such as "4", or vLLM can\'t start without a GPU',
            )


def _sleepers(settings: Settings) -> Iterator[Finding]:
    if settings.engine.sleep is not SleepMode.OFF:
        return
    for name, model in settings.models.items():
        places: list[tuple[KeyPath, Rung | None]] = [((), model.resting)]
        places += [(("windows", n), each.rung) for n, each in enumerate(model.windows)]
        places += [(("cron", n), each.rung) for n, each in enumerate(model.cron)]
        for place, _ in (each for each in places if each[1] is Rung.ASLEEP):
            yield Finding(
                ("models", name, *place, "rung" if place else "resting"),
                "can't be 'asleep' while engine.sleep is \"off\": write 'staged', or let engines "
                "sleep",
                rests_on=(("engine", "sleep"),),
            )


def _addresses(settings: Settings) -> Iterator[Finding]:
    listeners: list[tuple[KeyPath, Address]] = [
        ((*key, index), address)
        for key, addresses in (
            (("gateway", "listen"), settings.gateway.listen),
            (("metrics", "listen"), settings.metrics.listen),
            (("gateway", "agent_check"), settings.gateway.agent_check),
        )
        for index, address in enumerate(addresses)
    ]
    for (one, address), (other, later) in combinations(listeners, 2):
        if address.overlaps(later):
            yield Finding(
                other,
                f"can't be listened on beside {dotted(one)} ({address}): take another port",
                str(later),
                rests_on=(one,),
            )
    if settings.gateway.api_keys is not None:
        return
    for index, address in enumerate(settings.gateway.listen):
        if not address.is_loopback:
            yield Finding(
                ("gateway", "listen", index),
                "other machines could use the models without a key: set gateway.api_keys, or "
                f"listen on 127.0.0.1:{address.port}",
                str(address),
                rests_on=(("gateway", "api_keys"),),
            )


def _socket_paths(settings: Settings) -> Iterator[Finding]:
    control = settings.control.socket
    yield from _socket_path(
        ("control", "socket") if control else ("host", "run_dir"),
        settings.control_socket,
        "choose a shorter path" if control else "choose a shorter host.run_dir",
    )
    for name, model in settings.models.items():
        yield from _socket_path(
            ("models", name),
            engine_folder(settings.host.run_dir, replica_name(name, model.most_replicas - 1))
            / ENGINE_SOCKET,
            "choose a shorter model name (the long one can be an alias) or host.run_dir",
        )


def _stage_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.staging.tmpfs
    if folder is None:
        return
    if Path(os.path.normpath(folder)).parent == folder:
        why = "a tmpfs can't be mounted over the root of all files"
    elif folder.exists() and not folder.is_dir():
        why = "is there and no folder"
    else:
        return
    yield Finding(
        ("staging", "tmpfs"),
        f"{why}: name a folder of its own, like /dev/shm/warmd-stage",
        quoted(str(folder)),
    )


def _socket_path(path: KeyPath, socket: Path, remedy: str) -> Iterator[Finding]:
    length = len(os.fsencode(socket))
    if length > SOCKET_PATH_MAX:
        yield Finding(
            path,
            f"its socket {socket} has a path of {length} bytes, and Linux allows "
            f"{SOCKET_PATH_MAX}: {remedy}",
        )


def _python(settings: Settings) -> Iterator[Finding]:
    path: KeyPath = ("engine", "python")
    python = settings.engine.interpreter
    if python is None:
        if settings.models:
            yield Finding(
                path,
                "is missing, and models need it: the Python that vLLM is installed in, such as "
                '"/opt/vllm/bin/python"',
                rests_on=(path,),
            )
        return
    try:
        python.stat()
    except OSError as error:
        yield Finding(
            path, f"{unreadable(error)}; name the Python of vLLM's venv", quoted(str(python))
        )
        return
    if not python.is_file() or not os.access(python, os.X_OK):
        yield Finding(path, "must be a program that this user may run", quoted(str(python)))


def _weights(path: KeyPath, folder: Path) -> Iterator[Finding]:
    got = quoted(str(folder))
    try:
        folder = snapshot_of(folder)
        entries = {entry.name for entry in folder.iterdir()}
    except SnapshotError as error:
        yield Finding(path, str(error), got, may_come_back=True)
    except NotADirectoryError:
        yield Finding(path, "must be the model's folder, not a file in it", got)
    except FileNotFoundError:
        what = "there is no such folder: download the model there first"
        yield Finding(path, what, got, may_come_back=True)
    except OSError as error:
        yield Finding(path, unreadable(error), got, may_come_back=True)
    else:
        if "config.json" not in entries:
            what = f"holds no config.json: {_likely_folder(folder)}"
            yield Finding(path, what, got, may_come_back=True)


def _likely_folder(folder: Path) -> str:
    """Say where the model probably is; a Hugging Face cache entry keeps it in a snapshot."""
    below = [file.parent for file in sorted(folder.glob("*/config.json")) if file.is_file()]
    snapshots = sorted(folder.glob("snapshots/*/config.json"))
    # Of many nobody knows which, and not all that has a config.json is a model.
    if len(below) == 1 and any(any(below[0].glob(kind)) for kind in _WEIGHTS):
        return f"did you mean {quoted(str(below[0]))}?"
    if snapshots:
        return f"did you mean {quoted(str(snapshots[-1].parent))}?"
    return "name the folder that holds config.json and the weights"
