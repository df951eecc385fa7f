"""Why an engine failed: real logs of vLLM 0.32 on the CPU, and a GPU's lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from warmd.engine import failure_cause


def cause_of(lines: Sequence[str], ending: str, *log: str, by_vram: bool = False) -> str:
    return failure_cause(lines, ending, *log, by_vram=by_vram).sentence


FIXTURES = Path(__file__).parents[1] / "fixtures"
STATUS_1 = "exited with status 1"
WRAPPER = (
    "RuntimeError: Engine core initialization failed. See root cause above."
    " Failed core proc(s): {'EngineCore': 1}"
)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "unknown-argument",
            (
                "vLLM refuses its command line: unrecognized arguments: --frobnicate;"
                " correct the model's args"
            ),
        ),
        (
            "corrupt-weights",
            (
                "a weights file is damaged or cut short (Error while deserializing header:"
                " incomplete metadata, file not fully covered); download it again"
            ),
        ),
        (
            "kv-cache-too-small",
            (
                "a KV cache of 1.0 GiB can't hold one request of 8000000 tokens, which takes 3.81"
                " GiB; lower --max-model-len to 2097024 or less, or raise --gpu-memory-utilization"
                " or --kv-cache-memory-bytes"
            ),
        ),
        (
            "unknown-architecture",
            (
                "the model's type frobnicate is unknown to this version of Transformers; upgrade"
                " vLLM and Transformers, or check the model's config.json"
            ),
        ),
        (
            "no-model-folder",
            (
                "there is no model at /srv/models/missing; check that `weights` is a folder with a"
                " config.json that the engine may read"
            ),
        ),
        (
            "no-weights",
            (
                "there are no weights in /srv/models/noweights; check `weights`, or finish the"
                " download"
            ),
        ),
        (
            "max-model-len",
            (
                "--max-model-len 99999 is more than the 2048 tokens that the model was made for;"
                " lower it"
            ),
        ),
        # Nothing that we know: the root exception, not the two wrappers that come after it.
        (
            "wrong-shape",
            (
                "RuntimeError: The size of tensor a (256) must match the size of tensor b (128) at"
                " non-singleton dimension 1"
            ),
        ),
        (
            "too-many-workers",
            (
                "AssertionError: Not enough allowed NUMA nodes to bind threads of 4 local"
                " CPUWorkers. Allowed NUMA nodes are [0]. Please try to bind threads manually or"
                " decrease DP/TP/PP"
            ),
        ),
    ],
)
def test_real_failures(log: str, cause: str) -> None:
    lines = (FIXTURES / f"vllm-0.32-{log}.log").read_text().split("\n")
    assert cause_of(lines, STATUS_1) == cause


def worker(text: str, rank: int = 0) -> str:
    return f"(Worker_TP{rank} pid=9) ERROR 08-01 10:00:00 [multiproc_executor.py:953] {text}"


OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    " capacity of 79.10 GiB of which 1.06 GiB is free. Process 4711 has 77.9 GiB memory in use."
)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_ut",
            "No available memory for the cache blocks: the weights leave no room",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (12.18/79.1 GiB) on startup is less than"
                " desired GPU memory utilization (0.92, 72.77 GiB). Decrease GPU memory utilization"
            ),
            (
                "only 12.18 of 79.1 GiB are free on the device, and --gpu-memory-utilization 0.92"
                " asks for 72.77 GiB; lower it"
            ),
        ),
        (
            (
                "ValueError: Free memory on device (2.0/63.59 GiB) on startup is less than desired"
                " GPU memory utilization (0.9, 57.2 GiB)."
            ),
            "only 2.0 of 63.59 GiB are free",
        ),
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (40960),"
                " (5.62 GiB KV cache is needed, which is larger than the available KV cache memory"
                " (2.1 GiB)"
            ),
            "a KV cache of 2.1 GiB can't hold one request of 40960 tokens",
        ),
        (OOM, "CUDA out of memory. Tried to allocate 2.00 GiB; lower --gpu-memory-utilization"),
        (
            "AssertionError: Error in memory profiling. Initial free memory 70.1 GiB, current free",
            "another process freed memory of the device",
        ),
        (
            (
                "torch.distributed.DistNetworkError: The server socket has failed to listen on any"
                " local network address. port: 21000, useIpv6: false, code: -98, name: EADDRINUSE"
            ),
            "already in use",
        ),
        ("OSError: [Errno 98] Address already in use", "already in use"),
        (
            "OSError: [Errno 28] No space left on device: '/var/cache/warmd/vllm/x'",
            "no space left on the disk of /var/cache/warmd/vllm/x",
        ),
        (
            "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'",
            "shared memory (/dev/shm) is full",
        ),
        (
            "ValueError: World size (4) is larger than the number of available GPUs (1) in this",
            "the model wants 4 GPUs and the engine sees 1",
        ),
        ("RuntimeError: No CUDA GPUs are available", "No CUDA GPUs are available; check that"),
        (
            "ValueError: Model architectures ['FooForCausalLM'] are not supported for now.",
            "the architecture ['FooForCausalLM'] is not supported",
        ),
        (
            "AttributeError: '_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'",
            "compiled kernels could not be loaded",
        ),
        (
            "ImportError: libcudart.so.13: cannot open shared object file: No such file",
            "the shared library libcudart.so.13 is missing",
        ),
        (
            "RuntimeError: Worker failed with error 'CppCompileError: C++ compile error",
            "apt install g++ python3-dev",
        ),
        ("ModuleNotFoundError: No module named 'flashinfer'", "the module flashinfer is missing"),
        (
            "PermissionError: [Errno 13] Permission denied: '/srv/models/m/config.json'",
            "may not read or write /srv/models/m/config.json",
        ),
    ],
)
def test_known_failures_of_a_gpu_are_found_behind_the_wrappers(line: str, says: str) -> None:
    log = [
        "(APIServer pid=1) WARNING 08-01 [x.py:1] `OSError: [Errno 24] Too many open files`",
        worker("Traceback (most recent call last):"),
        worker('  File "core.py", line 1, in run'),
        worker(line),
        worker("torch.distributed.DistBackendError: NCCL: Connection reset by peer", 1),
        "Traceback (most recent call last):",
        WRAPPER,
    ]
    assert says in cause_of(log, STATUS_1)


def test_tracebacks_of_several_processes_may_be_interleaved() -> None:
    log = [
        worker("Traceback (most recent call last):", 0),
        worker("Traceback (most recent call last):", 1),
        worker('  File "a.py", line 1, in run', 0),
        worker('  File "b.py", line 1, in run', 1),
        worker("KeyError: 'model.layers.3.mlp.weight'", 0),
        worker("BrokenPipeError: [Errno 32] Broken pipe", 1),
        WRAPPER,
    ]
    assert cause_of(log, STATUS_1) == "KeyError: 'model.layers.3.mlp.weight'"


def test_an_exception_raised_from_another_tells_both() -> None:
    log = [
        "Traceback (most recent call last):",
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        "vllm.exceptions.LoadError: tokenizer.json is not readable. See https://docs.vllm.ai/x",
    ]
    assert cause_of(log, STATUS_1) == (
        "LoadError: tokenizer.json is not readable, caused by"
        " JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    )


def test_a_python_without_vllm() -> None:
    log = [
        (
            "/usr/bin/python3: Error while finding module specification for"
            " 'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')"
        )
    ]
    assert cause_of(log, STATUS_1).startswith("vLLM is not installed in the engine's Python")


@pytest.mark.parametrize(
    ("log", "exit_sentence"),
    [
        ([worker("ValueError: an earlier request was refused")], "was killed by SIGKILL"),
        (
            [worker("Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down")],
            STATUS_1,
        ),
        ([WRAPPER.replace(": 1}", ": -9}")], STATUS_1),
    ],
)
def test_a_process_that_the_kernel_killed(log: list[str], exit_sentence: str) -> None:
    cause = cause_of(log, exit_sentence)
    assert "killed by SIGKILL" in cause
    assert "journalctl -k" in cause


def test_what_an_engine_complained_of_before_it_was_killed_is_not_the_cause() -> None:
    log = [
        "(APIServer pid=1) ERROR [x.py:1] PermissionError: [Errno 13] Permission denied: '/a.png'"
    ]
    assert "/a.png" not in cause_of(log, "was killed by SIGKILL")


def test_the_dump_of_all_arguments_is_never_quoted() -> None:
    log = ["(APIServer pid=1) INFO [api_utils.py:286] non-default args: {'secret': 'x'}"]
    assert "secret" not in cause_of(log, STATUS_1)


def test_without_a_complaint_the_last_words_and_the_exit_must_do() -> None:
    log = ["INFO:     Application startup complete.", "  - leaked type 'x'", ""]
    assert cause_of(log, "exited with status 0") == (
        "it exited with status 0, and its last words were: INFO: Application startup complete"
    )
    assert cause_of([], "exited with status 3") == "it exited with status 3 and printed nothing"


@pytest.mark.parametrize(
    ("line", "helps"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_ut",
            "raise its vram, or lower --max-model-len",
        ),
        (OOM, "2.00 GiB; raise its vram, lower --max-model-len or --max-num-seqs"),
        (
            (
                "ValueError: Available memory on node 0 (9.1/20.96 GiB) on kv cache allocation is "
                "less than requested memory for kv (-0.31/0.5 GiB). Reduce CPU memory used by other"
            ),
            (
                "of the 0.5 GiB of RAM that it may take -0.31 GiB are left for its KV cache, and "
                "9.1 of 20.96 GiB are free; raise its vram"
            ),
        ),
        ("AssertionError: Error in memory profiling. Initial free", "start it again"),
    ],
)
def test_where_memory_follows_from_vram_no_flag_is_named(line: str, helps: str) -> None:
    log = [
        worker("Traceback (most recent call last):"),
        worker('  File "core.py", line 1, in run'),
        worker(line),
    ]
    cause = cause_of(log, STATUS_1, by_vram=True)
    assert helps in cause
    assert "--gpu-memory" not in cause
    assert "--kv-cache" not in cause


def test_who_is_sent_to_a_log_hears_where_it_is() -> None:
    lines = ["ERROR vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."]
    said = cause_of(lines, STATUS_1, "/run/warmd/engines/m.0/engine.log")
    assert "the last lines of /run/warmd/engines/m.0/engine.log, or `journalctl -k`" in said


@pytest.mark.parametrize(
    ("log", "for_good"),
    [("unknown-argument", True), ("max-model-len", True), ("kv-cache-too-small", False)],
)
def test_what_the_same_args_can_only_repeat_is_known(log: str, for_good: bool) -> None:
    lines = (FIXTURES / f"vllm-0.32-{log}.log").read_text().splitlines()
    assert failure_cause(lines, STATUS_1).for_good is for_good
