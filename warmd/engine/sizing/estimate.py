"""What one engine takes on each GPU, part by part: estimated, measured where a start told. Pure.

What can't be told from the model's files stays unknown, and so does the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from warmd.engine.errors import SizingError
from warmd.engine.sizing.checkpoint import Checkpoint
from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.sizing.layers import KvLayers, kv_heads, kv_layers
from warmd.engine.sizing.length import derived_max_len
from warmd.engine.sizing.overheads import (
    CONTEXT,
    GRAPHS,
    GRAPHS_OF_SEVERAL,
    OTHER,
    OTHER_OF_SEVERAL,
    PROGRAMS,
    activation,
    outside,
)
from warmd.ladder import MeasuredParts
from warmd.spoken import count, size

_GIB = 2**30
_LEAST_REQUESTS = 2
_LEAST_TOKENS = 32768


@dataclass(frozen=True)
class Wanted:
    """What an engine shall be: its args, and what the config says beside them.

    `concurrency`: requests of full length at a time, None: `default_concurrency`.
    `kv_cache`: bytes on each GPU that are set elsewhere, over the args. `gpu`: False on a host
    without one, where the engine takes RAM.
    """

    args: tuple[str, ...] = ()
    concurrency: int | None = None
    tensor_parallel: int | None = None
    kv_cache: int | None = None
    gpu: bool = True


@dataclass(frozen=True)
class Part:
    """One part; bytes on each GPU, None where not known or not measured."""

    name: str
    estimated: int | None
    measured: int | None
    how: str

    @property
    def size(self) -> int | None:
        """The better one of the two figures."""
        return self.estimated if self.measured is None else self.measured


@dataclass(frozen=True)
class Estimate:
    """The parts and what they rest on. `unknown` says what isn't known and what to do about it.

    `not_counted`: what comes on top and has no part here.
    """

    parts: tuple[Part, ...]
    tensor_parallel: int
    max_model_len: int | None
    concurrency: int | None
    gpu: bool
    version: str | None  # vLLM's that measured
    unknown: str | None = None
    not_counted: tuple[str, ...] = ()

    @property
    def on_each_gpu(self) -> int | None:
        """Bytes to reserve on each GPU; None where a part isn't known."""
        sizes = [part.size for part in self.parts]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def vram(self) -> int | None:
        """The same, rounded up to what one writes into a config."""
        if (total := self.on_each_gpu) is None:
            return None
        step = _GIB if total > 4 * _GIB else _GIB // 4
        return -(-total // step) * step

    def facts(self) -> dict[str, object]:
        """Return all of it, as JSON takes it."""
        parts = [
            {"name": p.name, "estimated": p.estimated, "measured": p.measured, "how": p.how}
            for p in self.parts
        ]
        return {
            "parts": parts,
            "on_each_gpu": self.on_each_gpu,
            "vram": self.vram,
            "tensor_parallel": self.tensor_parallel,
            "max_model_len": self.max_model_len,
            "concurrency": self.concurrency,
            "gpu": self.gpu,
            "version": self.version,
            "unknown": self.unknown,
            "not_counted": list(self.not_counted),
        }


def default_concurrency(max_model_len: int) -> int:
    """Return for how many requests of full length there is room where nobody says.

    Two, for most requests are far shorter than the longest, and one is what vLLM starts with at
    all; more where they are short, so that at least 32768 tokens fit.
    """
    return max(_LEAST_REQUESTS, -(-_LEAST_TOKENS // max_model_len))


def estimate(
    checkpoint: Checkpoint, wanted: Wanted, measured: MeasuredParts | None = None
) -> Estimate:
    """Say what one engine takes on each GPU. Raises `SizingError` where its args make no sense.

    `measured`: of an earlier start with the same args, on the same GPU.
    """
    flags = EngineFlags.of(wanted.args)
    length = flags.max_model_len or derived_max_len(checkpoint.config)
    concurrency = wanted.concurrency
    if concurrency is None and length is not None:
        concurrency = default_concurrency(length)
    # The args come last on the command line, so theirs is the word that vLLM takes.
    ways = flags.number("--tensor-parallel-size", wanted.tensor_parallel or 1)
    told = measured or MeasuredParts(version="")
    sizing = _Sizing(checkpoint, wanted, flags, told, ways, length, concurrency)
    parts = tuple(sizing.parts())
    lacking = [part.how for part in parts if part.size is None]
    return Estimate(
        parts=parts,
        tensor_parallel=ways,
        max_model_len=length,
        concurrency=concurrency,
        gpu=wanted.gpu,
        version=told.version if any(part.measured is not None for part in parts) else None,
        unknown=f"{lacking[0]}: set `vram`, or start it once and look again" if lacking else None,
        not_counted=flags.not_counted(),
    )


@dataclass(frozen=True)
class _Sizing:
    """One engine's parts; `ways`: among how many GPUs it is split."""

    checkpoint: Checkpoint
    wanted: Wanted
    flags: EngineFlags
    told: MeasuredParts
    ways: int
    length: int | None
    concurrency: int | None

    def parts(self) -> Iterator[Part]:
        yield self._weights()
        yield self._kv_cache()
        step, how = activation(self.checkpoint.config, self.flags, self.ways)
        if not self.wanted.gpu:
            yield Part("activation", step, None, how)
            yield Part("programs", PROGRAMS, None, "a guess: vLLM's processes, torch, kernels")
            return
        several = self.ways > 1
        graphs = GRAPHS_OF_SEVERAL if several else GRAPHS
        if self.flags.eager:
            graphs, drawn = 0, "none with --enforce-eager"
        else:
            drawn = "a guess"
        yield Part("activation", step, self.told.activation, how)
        yield Part("CUDA graphs", graphs, self.told.graphs, drawn)
        other = OTHER_OF_SEVERAL if several else OTHER
        beside = "buffers between GPUs, workspaces" if several else "workspaces"
        measured, context = outside(self.told)
        yield Part("other", other, measured, f"a guess: {beside}")
        yield Part("CUDA context", CONTEXT, context, "a guess, outside vLLM's own budget")

    def _weights(self) -> Part:
        config, weights = self.checkpoint.config, self.checkpoint.weights
        name, measured = "weights", self.told.weights
        if (flag := self._otherwise_split()) is not None:
            return Part(name, None, measured, f"what one GPU takes with {flag} isn't known here")
        try:
            heads = kv_heads(config)
        except SizingError:
            heads = 1  # then K and V are counted whole
        floats = None if config.quantization else self._float_bytes
        held = weights.held(self.ways, heads, floats)
        how = f"{size(weights.total)} in {count(weights.files, 'file')}"
        if self.ways > 1:
            how += f", split among {self.ways} GPUs"
        return Part(name, held, measured, how)

    def _kv_cache(self) -> Part:
        name = "KV cache"
        fixed = self.wanted.kv_cache or self.flags.kv_cache_bytes
        if fixed is not None:
            return Part(name, fixed, None, "as it is set")
        if self.length is None or self.concurrency is None:
            return Part(name, None, None, "how long a request may be isn't in config.json")
        asked = f"{count(self.concurrency, 'request')} of {self.length} tokens"
        measured = self._kv_measured(self.length * self.concurrency)
        try:
            if (flag := self._otherwise_split()) is not None:
                raise SizingError(f"what one GPU takes with {flag} isn't known here")
            layers = kv_layers(self.checkpoint.config, self.flags, self.ways, self._float_bytes)
        except SizingError as error:
            # Only where a start has told does the sum come about without these words.
            return Part(name, None, measured, str(error) if measured is None else asked)
        estimated = self.concurrency * layers.request(self.length)
        return Part(name, estimated, measured, _kv_how(layers, asked))

    def _kv_measured(self, tokens: int) -> int | None:
        """What so many tokens take by the measure of an earlier start."""
        if not self.told.kv_cache or not self.told.kv_tokens:
            return None
        return -(-tokens * self.told.kv_cache // self.told.kv_tokens)

    @property
    def _float_bytes(self) -> int:
        return 4 if self.flags.dtype in ("float32", "float") else 2  # vLLM loads no wider ones else

    def _otherwise_split(self) -> str | None:
        flags = ("--pipeline-parallel-size", "--data-parallel-size")
        return next((flag for flag in flags if self.flags.number(flag, 1) > 1), None)


def _kv_how(layers: KvLayers, asked: str) -> str:
    if layers.request(1) == 0:
        return "an encoder keeps none"
    how = f"{asked}, {size(layers.each_token)} a token"
    if layers.windowed:
        window = f"{layers.windowed} layers keep a window of {layers.window}"
        return f"{how}; {window}" if layers.full else f"{asked}; all {window}"
    if layers.linear:
        return f"{how}; {layers.linear} layers keep a state of {size(layers.state)}"
    return how
