"""What holds one engine to its reservation: flags of vLLM, from what earlier starts told. Pure.

vLLM's start check asks for `--gpu-memory-utilization` times the card. An engine without
`--kv-cache-memory-bytes` then measures itself, fills that share and tells every part of its memory;
one with it measures nothing (v1/worker/gpu_worker.py). So an engine that nobody has measured yet
gets the share alone and finds its own size in it. From then on it gets both, and no neighbour's
doings on the card change its KV cache or break its start (vllm#55827, vllm#56830).
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.engine.errors import EngineError
from warmd.engine.sizing.estimate import Estimate
from warmd.engine.sizing.overheads import CONTEXT, GRAPHS, outside
from warmd.ladder import MeasuredParts
from warmd.spoken import size

_MIB = 2**20
_MILLION = 10**6

SPARE = 160 * _MIB
"""Left beside all parts: what measuring misses by vLLM's own figure, and its log's rounding."""

BESIDE_WORKER = 1536 * _MIB
"""Without a GPU: vLLM's processes beside the worker, whose own memory is within its share."""

WORKER = 256 * _MIB
"""Without a GPU: Python, torch and vLLM in the worker, which holds 0.6 GiB before any weights."""

_OF_HEADERS = 0.95
"""Of a checkpoint's bytes so many are surely loaded: drafts and tied tensors may be left out."""

_MOVED = 0.05


@dataclass(frozen=True)
class Reservation:
    """What one engine may take of each of its cards, in bytes; `card`: the largest one's total.

    `gpu` False: the card is the host's memory.
    """

    vram: int
    card: int
    gpu: bool = True


@dataclass(frozen=True)
class Binding:
    """What an engine is started with. `share`: millionths of the card, rounded down."""

    share: int | None = None
    kv_cache: int | None = None

    @property
    def args(self) -> tuple[str, ...]:
        """The flags, as vLLM takes them."""
        flags: tuple[str, ...] = ()
        if self.share is not None:
            whole, rest = divmod(self.share, _MILLION)
            flags += ("--gpu-memory-utilization", f"{whole}.{rest:06}")
        if self.kv_cache is not None:
            flags += ("--kv-cache-memory-bytes", str(self.kv_cache))
        return flags


@dataclass(frozen=True)
class Overheads:
    """What a measured engine takes beside its KV cache: within vLLM's own share, and outside it."""

    within: int
    context: int


def overheads(told: MeasuredParts, *, eager: bool) -> Overheads | None:
    """Return what starts have told of an engine beside its KV cache; None where a part is missing.

    `eager`: it captures no CUDA graphs.
    """
    weights, activation = told.weights, told.activation
    other, context = outside(told)
    if weights is None or activation is None or other is None or not told.kv_tokens:
        return None
    graphs = told.graphs
    if graphs is None:
        graphs = 0 if eager else GRAPHS
    within = weights + activation + graphs + other
    return Overheads(within, CONTEXT if context is None else context)


def bind(reservation: Reservation, beside: Overheads | None, request: int | None = None) -> Binding:
    """Hold an engine to its reservation. Raises `EngineError` where that holds no engine at all.

    `beside`: what it takes beside its KV cache; None: it shall measure itself. `request`: what
    vLLM must be able to keep at the least, one request of full length; None: not known.
    """
    if not reservation.gpu:
        return Binding(_share(reservation, BESIDE_WORKER))
    if beside is None:
        return Binding(_share(reservation, CONTEXT))
    share = _share(reservation, beside.context)
    left = reservation.vram - beside.within - beside.context - SPARE
    kv_cache = left // _MIB * _MIB
    # Where it is a close thing vLLM may find room that the figures on the safe side don't show.
    enough = kv_cache > 0 and (request is None or kv_cache >= request)
    return Binding(share, kv_cache if enough else None)


def _share(reservation: Reservation, outside: int) -> int:
    within = reservation.vram - outside
    share = within * _MILLION // reservation.card
    if share <= 0:
        what = "a CUDA context" if reservation.gpu else "vLLM's processes"
        raise EngineError(
            f"its vram of {size(reservation.vram)} is less than {what} alone may take "
            f"({size(outside)}): raise it (`warmctl size` tells how far)"
        )
    return share


def check_room(vram: int, told: Estimate, *, kv_set: str | None, fits_length: bool) -> None:
    """Raise `EngineError` where an engine surely needs more than `vram` on each of its cards.

    `told`: of one request at a time. Only what is known for sure counts: weights, that request,
    what a start has measured of a step's peak, and without a GPU vLLM's processes. `kv_set` names
    what sets the KV cache's size, if anything does. `fits_length`: vLLM chooses the longest request
    by the room that there is.
    """
    parts = {part.name: part for part in told.parts}
    weights, kv_cache = parts["weights"], parts["KV cache"]
    known = weights.measured
    if known is None:
        known = 0 if told.not_counted else int((weights.estimated or 0) * _OF_HEADERS)
    request = 0 if fits_length and kv_set is None else kv_cache.size or 0
    peak = parts["activation"].measured or 0
    programs = 0 if told.gpu else BESIDE_WORKER + WORKER
    missing = known + request + peak + programs - vram
    if missing <= 0:
        return
    listed = [f"weights take {size(known)}"] if known else []
    listed += [f"its KV cache {size(request)} ({kv_cache.how})"] if request else []
    listed += [f"a step {size(peak)}"] if peak else []
    listed += [f"vLLM's processes {size(programs)}"] if programs else []
    remedy = f", or lower {kv_set or '--max-model-len'}" if missing < request else ""
    raise EngineError(
        f"one engine of it can't live in its vram of {size(vram)}: {', '.join(listed)}, so at "
        f"least {size(missing)} are missing; raise vram{remedy}"
    )


def moved(was: int, now: int) -> bool:
    """Whether a KV cache is another than it was by so much that one would notice."""
    return abs(now - was) > _MOVED * was
