"""Why an engine failed, in one sentence, from its own log. Pure.

The patterns are the texts of vLLM 0.26 to 0.33, of torch and of safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmd.engine.traces import Complaint, complaints, last_words

_LONGEST = 240
_SEE_ALSO = re.compile(r"\s*See https?://\S+( for more (details|tips|information))?\.?")


@dataclass(frozen=True)
class _Known:
    """A failure that we can explain: `says` may use the pattern's named groups."""

    pattern: re.Pattern[str]
    says: str
    for_good: bool = False


def _known(pattern: str, says: str, *, for_good: bool = False) -> _Known:
    return _Known(re.compile(pattern, re.DOTALL | re.IGNORECASE), says, for_good)


@dataclass(frozen=True)
class Cause:
    """Why an engine ended, and what helps, in one sentence without a full stop.

    `for_good`: with the same args every further start ends in the same way.
    """

    sentence: str
    for_good: bool = False


# What helps, where the model's args say what memory it takes and where its vram does.
_BY_ARGS = {
    "more": "raise --gpu-memory-utilization or --kv-cache-memory-bytes",
    "less": "lower --gpu-memory-utilization",
    "lower_it": "lower it",
    "or_fixed": ", or set --kv-cache-memory-bytes, which needs no measuring",
}
_BY_VRAM = {
    "more": "raise its vram",
    "less": "raise its vram",
    "lower_it": "lower its vram",
    "or_fixed": "",
}

_KNOWN = (
    # memory of the device
    _known(
        r"No available memory for the cache blocks",
        "No available memory for the cache blocks: the weights leave no room for a KV cache;"
        " {more}, or lower --max-model-len",
    ),
    _known(
        r"To serve at least one request with the models?'s max seq len \((?P<want>\d+)\),"
        r" \(?(?P<need>[\d.]+) GiB KV cache is needed.*?\((?P<have>[\d.]+) GiB\)"
        r".*?estimated maximum model length is (?P<fits>\d+)",
        "a KV cache of {have} GiB can't hold one request of {want} tokens, which takes {need} GiB;"
        " lower --max-model-len to {fits} or less, or {more}",
    ),
    _known(
        r"To serve at least one request with the models?'s max seq len \((?P<want>\d+)\),"
        r" \(?(?P<need>[\d.]+) GiB KV cache is needed.*?\((?P<have>[\d.]+) GiB\)",
        "a KV cache of {have} GiB can't hold one request of {want} tokens, which takes {need} GiB;"
        " lower --max-model-len, or {more}",
    ),
    _known(
        r"Free memory on device (?:(?P<device>\S+) )?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\)"
        r" on startup is less than desired GPU memory utilization"
        r" \((?P<share>[\d.]+), (?P<want>[\d.]+) GiB\)",
        "only {free} of {total} GiB are free on the device, and --gpu-memory-utilization {share}"
        " asks for {want} GiB; {lower_it}, or end what else uses the device (see nvidia-smi)",
    ),
    _known(
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?"
        r"\((?P<share>[\d.]+), (?P<want>[\d.]+) GiB\)",
        "only {free} of {total} GiB of RAM are free, and --gpu-memory-utilization {share} asks for"
        " {want} GiB; {lower_it}, or set VLLM_CPU_KVCACHE_SPACE (GiB) in [engine.env]",
    ),
    _known(
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache"
        r" allocation is less than requested memory for kv \((?P<want>-?[\d.]+)/(?P<all>[\d.]+)",
        "of the {all} GiB of RAM that it may take {want} GiB are left for its KV cache, and {free}"
        " of {total} GiB are free; {more}, or end what else uses it",
    ),
    _known(
        r"Couldn't instantiate the backend tokenizer",
        "the model's tokenizer can't be loaded: files such as tokenizer.json are missing beside"
        " its weights; finish the download",
    ),
    _known(
        r"(?P<what>(?:CUDA|HIP|XPU) out of memory\.(?: Tried to allocate [\d.]+ \wiB)?)"
        r"(?:.*?of which (?P<free>[\d.]+ \wiB) is free)?",
        "{what}; {less}, lower --max-model-len or --max-num-seqs, or end what else"
        " uses the device (see nvidia-smi)",
    ),
    _known(
        r"not enough GPU memory|CUDA error: out of memory",
        "the device's memory is too small for this model; {less}, use more"
        " GPUs (--tensor-parallel-size) or --quantization",
    ),
    _known(
        r"Error in memory profiling",
        "another process freed memory of the device while vLLM measured its own; start it again"
        "{or_fixed}",
    ),
    # the device itself
    _known(
        r"World size \((?P<want>\d+)\) is larger than the number of available GPUs"
        r" \((?P<have>\d+)\)",
        "the model wants {want} GPUs and the engine sees {have}; lower --tensor-parallel-size or"
        " --pipeline-parallel-size, or check CUDA_VISIBLE_DEVICES",
    ),
    _known(
        r"(?P<what>No CUDA GPUs are available|Failed to infer device type"
        r"|Found no NVIDIA driver on your system|NVIDIA driver on your system is too old)",
        "{what}; check that nvidia-smi works, and what CUDA_VISIBLE_DEVICES says",
    ),
    # the command line and the installation
    _known(
        r"^(?P<what>unrecognized arguments: .*|argument -.*?|expected .*? arguments?.*)$",
        "vLLM refuses its command line: {what}; correct the model's args",
        for_good=True,
    ),
    _known(
        r"No module named '?vllm\b",
        "vLLM is not installed in the engine's Python; set [engine].python to the one that has it",
    ),
    _known(
        r"No module named '?(?P<what>[\w.]+)",
        "the module {what} is missing in the engine's Python; install it there",
    ),
    # the model's files
    _known(
        r"has model type `(?P<what>[^`]+)` but Transformers does not recognize",
        "the model's type {what} is unknown to this version of Transformers; upgrade vLLM and"
        " Transformers, or check the model's config.json",
    ),
    _known(
        r"Model architectures (?P<what>\[[^\]]*\]) (?:are not supported|failed to be inspected)",
        "the architecture {what} is not supported by this vLLM; upgrade vLLM, or check the model's"
        " config.json",
    ),
    _known(
        r"Cannot find any model weights with [`'](?P<what>[^`']+)",
        "there are no weights in {what}; check `weights`, or finish the download",
    ),
    _known(
        r"Repo id must be .*?: '(?P<what>/[^']+)'"
        r"|Invalid repository ID or local directory specified: '(?P<there>[^']+)'"
        r"|(?P<where>/\S+) is not a local folder and is not a valid model identifier",
        "there is no model at {what}{there}{where}; check that `weights` is a folder with a"
        " config.json that the engine may read",
    ),
    _known(
        r"SafetensorError: (?P<what>.*)|Error while deserializing header: (?P<there>.*)",
        "a weights file is damaged or cut short ({what}{there}); download it again",
    ),
    _known(
        r"User-specified max_model_len \((?P<want>\d+)\) is greater than the derived max_model_len"
        r" \(\w+=(?P<most>\d+)",
        "--max-model-len {want} is more than the {most} tokens that the model was made for;"
        " lower it",
        for_good=True,
    ),
    _known(
        r"trust_remote_code=True|--trust-remote-code",
        "the model brings its own code; add --trust-remote-code to its args if you trust it",
    ),
    # the host
    _known(
        r"address already in use|EADDRINUSE",
        "a network port or socket that vLLM wants is already in use; start it again, or give it"
        " another VLLM_PORT in the model's env",
    ),
    _known(
        r"(?P<what>[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "the shared library {what} is missing on this host; install the package that holds it",
    ),
    _known(
        r"_OpNamespace' '_\w*C' object has no attribute",
        "vLLM's compiled kernels could not be loaded, mostly for want of a shared library (on the"
        " CPU: apt install libnuma1); its log says which after 'Failed to import'",
    ),
    _known(
        r"CppCompileError|InvalidCxxCompiler|Python\.h: No such file",
        "the kernels could not be compiled: a C++ compiler or Python's headers are missing;"
        " apt install g++ python3-dev, or add --enforce-eager to the model's args",
    ),
    _known(
        r"/dev/shm|insufficient shared memory",  # noqa: S108  a text to look for
        "shared memory (/dev/shm) is full or not writable; remove what dead engines left there, or"
        " make it larger",
    ),
    _known(
        r"No space left on device: '(?P<what>[^']+)'",
        "no space left on the disk of {what}; free some",
    ),
    _known(
        r"No space left on device|\[Errno 28\]",
        "no space left on a disk; free some: the compile cache and /tmp need it",
    ),
    _known(
        r"Errno 13\] Permission denied: '(?P<what>[^']+)'",
        "the engine may not read or write {what}; change its owner or mode",
    ),
    _known(
        r"Errno 12\]|Cannot allocate memory|std::bad_alloc",
        "the host's memory is used up; stage or run less beside this model",
    ),
    _known(
        r"\[Errno 24\]",
        "too many open files; raise LimitNOFILE of the engine",
    ),
    _known(
        r"(?:exit code: |exit code |'\w+': )-9\b",
        "one of the engine's processes was killed by SIGKILL: by somebody, or by the kernel for"
        " want of memory: then `journalctl -k` says so; stage or run less beside this model",
    ),
)

# What an engine may say when the kernel kills its processes one after the other.
_KILLERS = re.compile(
    r"out of memory|oom|Errno 12\]|Cannot allocate memory|bad_alloc", re.IGNORECASE
)

_CORE_DIED = re.compile(r"EngineDeadError|EngineCore (?:encountered|died)|died unexpectedly")

# What other processes say once the one with the real cause is gone, and handlers of signals.
_CONSEQUENCE = re.compile(
    r"see (?:root cause|stack ?trace)|please check the stack trace above|root cause of the error"
    r"|Failed core proc|failed to start\.?$|died unexpectedly|EngineDeadError|EngineCore died"
    r"|EngineCore (?:encountered|failed)|Connection reset by peer|Broken ?pipe"
    r"|TCPStore|ProcessGroup\w+|^(?:KeyboardInterrupt|SystemExit|CancelledError|EOFError)"
    r"|Exception in ASGI application|EngineCore hit an exception|output_handler failed"
    r"|Error in [\w ]*generator",
    re.IGNORECASE,
)


def failure_cause(
    lines: Sequence[str], exit_sentence: str, log: str = "its log", *, by_vram: bool = False
) -> Cause:
    """Say why the engine ended, and what helps.

    `lines` are the last lines that it printed, `exit_sentence` is how its main process ended:
    `exited with status 1`; `log` names the file that has them all. `by_vram`: what memory it takes
    follows from the model's vram.
    """
    if "SIGKILL" in exit_sentence:
        # Whatever it had complained of before, it did not live to be ended by that.
        lines = [line for line in lines if _KILLERS.search(line)]
    found = list(complaints(lines))
    for complaint in found:
        if (known := _explain(complaint, _BY_VRAM if by_vram else _BY_ARGS)) is not None:
            return known
    return Cause(_unexplained(lines, found, exit_sentence, log))


def _unexplained(
    lines: Sequence[str], found: Sequence[Complaint], exit_sentence: str, log: str
) -> str:
    if "SIGKILL" in exit_sentence:
        return (
            "it was killed by SIGKILL and its log doesn't say why: by somebody, or by the kernel"
            " for want of memory: then `journalctl -k` says so; stage or run less beside this model"
        )
    firsthand = [each for each in found if not _CONSEQUENCE.search(each.sentence)]
    exceptions = [each for each in firsthand if each.name]
    if exceptions or firsthand:
        last = (exceptions or firsthand)[-1]
        if last.root is last:
            return _shorten(last.sentence)
        return f"{_shorten(last.sentence)}, caused by {_shorten(last.root.sentence)}"
    if any(_CORE_DIED.search(line) for line in lines):
        return (
            f"its EngineCore died and it {exit_sentence}; the last lines of {log}, or"
            " `journalctl -k`, may say why"
        )
    if found:
        return f"it {exit_sentence}: {_shorten(found[-1].sentence)}"
    if words := last_words(lines):
        return f"it {exit_sentence}, and its last words were: {_shorten(words)}"
    return f"it {exit_sentence} and printed nothing"


def _explain(complaint: Complaint, helps: Mapping[str, str]) -> Cause | None:
    for known in _KNOWN:
        if (match := known.pattern.search(complaint.sentence)) is not None:
            groups = {name: text or "" for name, text in match.groupdict().items()}
            said = _shorten(known.says.format(**groups, **helps), 2 * _LONGEST)
            return Cause(said, known.for_good)
    return None


def _shorten(text: str, longest: int = _LONGEST) -> str:
    text = " ".join(_SEE_ALSO.sub("", text).split()).rstrip(".")
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"
