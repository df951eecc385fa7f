"""The stages of a start, from real and from GPU-like logs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.engine import StartTracker
from warmd.ladder import Stage

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vllm-0.32-cpu-cold.log"
P, I, W, C, K, F = Stage  # noqa: E741  the six stages in their order

CONFIG = "(EngineCore_DP0 pid=2) INFO 08-01 10:00:09 [core.py:133] Initializing a V1 LLM engine"
GRAPH = f"{CONFIG} (v0.26.0) with config: enforce_eager=False, 'mode': <CompilationMode.VLLM_COMP"
EAGER = f"{CONFIG} (v0.33.0) with config: enforce_eager=True, 'mode': <CompilationMode.NONE: 0>"

# Each: arrival, line; the engine was decided at 0, exec'ed at 1, answered at 60.
GPU_FIRST_START = [
    (8, "(APIServer pid=1) INFO 08-01 10:00:08 [api_utils.py:286] non-default args: {}"),
    (9, GRAPH),
    (15, "(Worker_TP0 pid=3) INFO [gpu_model_runner.py:4400] Starting to load model /m..."),
    (16, "(Worker_TP1 pid=4) INFO [gpu_model_runner.py:4400] Starting to load model /m..."),
    (20, "Loading safetensors checkpoint shards: 100% Completed | 4/4"),
    (20, "(Worker_TP0 pid=3) INFO [default_loader.py:308] Loading weights took 4.00 seconds"),
    (21, "(Worker_TP0 pid=3) INFO Model loading took 7.1 GiB memory and 5.0 seconds"),
    (23, "(Worker_TP1 pid=4) INFO Model loading took 7.1 GiB memory and 7.0 seconds"),
    (24, "(Worker_TP0 pid=3) INFO Using cache directory: /c/vllm for vLLM's torch.compile"),
    (30, "(Worker_TP0 pid=3) INFO [backends.py:99] Dynamo bytecode transform time: 6.00 s"),
    (40, "(Worker_TP1 pid=4) INFO [monitor.py:34] torch.compile takes 16.00 s in total"),
    (42, "(Worker_TP0 pid=3) INFO [monitor.py:34] torch.compile took 18.00 s in total"),
    (44, "(Worker_TP0 pid=3) INFO Available KV cache memory: 52.36 GiB"),
    (44, "(EngineCore_DP0 pid=2) INFO GPU KV cache size: 686,320 tokens"),
    (50, "Capturing CUDA graphs (decode, FULL): 100%|##########| 35/35"),
    (51, "(Worker_TP0 pid=3) INFO Graph capturing finished in 6 secs, took 0.31 GiB"),
    (52, "(EngineCore_DP0 pid=2) INFO init engine (profile, create kv cache, warmup model) took"),
    (54, "(APIServer pid=1) INFO Starting vLLM API server 0 on unix:/run/warmd/engines/m.0/s"),
    (55, "INFO:     Application startup complete."),
    (56, '(APIServer pid=1) INFO {"prompt": "Starting to load model x"}'),
]
GPU_CACHED = [
    (9, GRAPH),
    (12, "(EngineCore pid=2) INFO Loading model from scratch..."),
    (14, "(EngineCore pid=2) INFO Model loading took 7.1 GiB memory and 2.0 seconds"),
    (15, "(EngineCore pid=2) INFO Directly load AOT compilation from path /c/vllm/aot"),
    (17, "(EngineCore pid=2) INFO [backbone] torch.compile took 2.00 s in total"),
    (18, "(EngineCore pid=2) INFO [head] torch.compile took 1.00 s in total"),
    (25, "(EngineCore pid=2) INFO Graph capturing finished in 6 secs, took 0.31 GiB"),
    (30, "INFO:     Application startup complete."),
]
GPU_EAGER = [
    (9, EAGER),
    (12, "(EngineCore pid=2) INFO Starting to load model /m..."),
    (14, "(EngineCore pid=2) INFO Loading weights took 1.90 seconds"),
    (15, "(EngineCore pid=2) INFO Model loading took 7.1 GiB memory and 2.0 seconds"),
    (18, "(EngineCore pid=2) INFO Available KV cache memory: 52.36 GiB"),
    (30, "INFO:     Application startup complete."),
]
CONFIG_LINE_LOST = [line for line in GPU_EAGER if "config" not in line[1]]
SILENT = [(30, "INFO:     Application startup complete.")]
JSON_LOG = [
    (12, '{"level": "INFO", "message": "Loading model from scratch..."}'),
    (14, '{"level": "INFO", "message": "Model loading took 7.1 GiB memory and 2.0 seconds"}'),
    (30, '{"level": "INFO", "message": "Application startup complete."}'),
]


@pytest.mark.parametrize(
    ("log", "spent"),
    [
        pytest.param(GPU_FIRST_START, {P: 1, I: 14, W: 8, C: 19, K: 13, F: 5}, id="gpu, two"),
        pytest.param(GPU_CACHED, {P: 1, I: 11, W: 2, C: 4, K: 12, F: 30}, id="cached compile"),
        pytest.param(GPU_EAGER, {P: 1, I: 11, W: 3, K: 15, F: 30}, id="eager"),
        pytest.param(CONFIG_LINE_LOST, {P: 1, I: 11, W: 3, K: 15, F: 30}, id="eager, unannounced"),
        pytest.param(SILENT, {P: 1, I: 29, F: 30}, id="logging turned down"),
        pytest.param(JSON_LOG, {P: 1, I: 11, W: 2, K: 16, F: 30}, id="json"),
    ],
)
def test_the_stages_of_a_start(log: list[tuple[float, str]], spent: dict[Stage, float]) -> None:
    tracker = StartTracker(0)
    tracker.exec(1)
    for at, text in log:
        tracker.line(at, text)
    assert tracker.stage is F
    times = tracker.ready(60)
    assert dict(times.stages) == spent
    assert times.total == 60
    assert tracker.stage is None


def test_a_real_first_start_on_the_cpu() -> None:
    tracker = StartTracker(4835.0)
    tracker.exec(4835.5)
    seen = []
    for line in FIXTURE.read_bytes().decode().split("\n"):
        if line:
            at, _, text = line.partition(" ")
            tracker.line(float(at), text)
            seen.append(tracker.stage)
    assert list(dict.fromkeys(seen)) == [I, W, C, K, F]
    times = tracker.ready(4898.885)
    assert dict(times.stages) == pytest.approx(
        {P: 0.5, I: 29.848, W: 0.166, C: 28.866, K: 3.505, F: 1.0}
    )


def test_so_far_counts_the_open_stage_up_to_now_and_a_failed_start_has_an_account_too() -> None:
    tracker = StartTracker(100)
    assert tracker.so_far(101) == {P: 1}
    tracker.exec(102)
    tracker.line(110, "Starting to load model /m...")
    assert tracker.so_far(115) == {P: 2, I: 8, W: 5}
    assert tracker.stage is W


def test_a_server_that_answers_before_its_log_says_so_is_listening() -> None:
    tracker = StartTracker(0)
    tracker.exec(0)
    tracker.listening(5)
    assert tracker.is_listening
    tracker.line(7, "INFO:     Application startup complete.")
    assert dict(tracker.ready(8).stages) == {P: 0, I: 5, F: 3}


LINES = [text for log in (GPU_FIRST_START, GPU_CACHED, GPU_EAGER) for _, text in log]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(LINES), st.text()),
            st.floats(0, 10),
            st.sampled_from(["line", "line", "line", "exec", "listening"]),
        )
    )
)
def test_no_order_of_lines_turns_a_start_back_or_loses_time(
    events: list[tuple[str, float, str]],
) -> None:
    tracker = StartTracker(0)
    now, stages = 0.0, [Stage.PROGRAM]
    for text, later, kind in events:
        now += later
        if kind == "line":
            tracker.line(now, text)
        elif kind == "exec":
            tracker.exec(now)
        else:
            tracker.listening(now)
        assert tracker.stage is not None
        stages.append(tracker.stage)
        so_far = tracker.so_far(now)
        assert sum(so_far.values()) == pytest.approx(now)
        assert all(spent >= 0 for spent in so_far.values())
    order = list(Stage)
    assert all(order.index(a) <= order.index(b) for a, b in pairwise(stages))
    assert tracker.ready(now + 1).total == pytest.approx(now + 1)


def test_a_first_line_that_overtakes_the_word_of_the_exec_changes_nothing() -> None:
    tracker = StartTracker(10.0)
    tracker.line(10.5, "a warning before anything else")
    tracker.exec(10.1)
    assert tracker.so_far(11.0) == pytest.approx({Stage.PROGRAM: 0.1, Stage.IMPORTS: 0.9})
