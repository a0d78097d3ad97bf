"""Every failure signature on a log excerpt; wrappers, weak signs and progress."""

import re
from pathlib import Path

import pytest

from harness.label import signatures

TRACE = "Traceback (most recent call last):"

GOLDEN = Path(__file__).parent / "golden" / "failures.txt"
EXCERPTS = {
    name: text.strip()
    for name, text in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", GOLDEN.read_text(), re.MULTILINE | re.DOTALL)
}


@pytest.mark.parametrize("name", EXCERPTS)
def test_excerpt_has_its_cause(name: str) -> None:
    cause = signatures.first_cause(EXCERPTS[name].splitlines())
    assert cause is not None
    assert cause.name == name
    assert cause.fix
    assert cause.line in EXCERPTS[name]


def test_every_signature_has_an_excerpt_or_is_harmless() -> None:
    assert {s.name for s in signatures.signatures() if not s.harmless} == set(EXCERPTS)


def test_patterns_compile_and_names_are_unique() -> None:
    names = [s.name for s in signatures.signatures()]
    assert len(names) == len(set(names))
    for signature in signatures.signatures():
        for pattern in (signature.pattern, *signature.context):
            re.compile(pattern)


def test_first_real_cause_wins_over_later_ones_and_wrappers() -> None:
    log = [
        "INFO [shm_broadcast.py] No available shared memory broadcast block found in 60 seconds.",
        "ERROR WorkerProc initialization failed due to an exception in a background process.",
        "ValueError: No available memory for the cache blocks. Try increasing gpu_memory_utilization.",
        "RuntimeError: unhandled system error",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    cause = signatures.first_cause(log)
    assert cause and cause.name == "kv-no-blocks"


def test_unknown_exception_is_taken_from_the_first_traceback() -> None:
    log = [
        "(Worker pid=7) ERROR Traceback (most recent call last):",
        '(Worker pid=7) ERROR   File "model.py", line 3, in forward',
        "(Worker pid=7) ERROR KeyError: 'lm_head.weight'",
        TRACE,
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    cause = signatures.first_cause(log)
    assert cause and cause.name == "exception"
    assert cause.line.endswith("KeyError: 'lm_head.weight'")


def test_stopping_is_no_cause() -> None:
    """What vLLM 0.32.0 prints when it is stopped in mid-flight: only the wrapper is left."""
    log = [
        TRACE,
        "asyncio.exceptions.CancelledError",
        TRACE,
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    ]
    cause = signatures.first_cause(log)
    assert cause and cause.name == "wrapper"


def test_healthy_and_harmless_logs_have_no_cause() -> None:
    log = [
        "WARNING Port 5555 is already in use, trying port 5556",
        "FutureWarning: `torch.distributed.reduce_op` is deprecated",
        "INFO:     Application startup complete.",
    ]
    assert signatures.first_cause(log) is None
    assert signatures.first_cause([]) is None


@pytest.mark.parametrize(
    "line",
    [
        "(Worker) INFO [gpu_model_runner.py:5040] Starting to load model deepseek-ai/DeepSeek-R1...",
        "Loading safetensors checkpoint shards:  31% Completed | 50/163 [01:12<02:44,  1.45s/it]",
        "[TP0] Load weight begin. avail mem=139.0 GB",
        "[TP0] Entering DeepGEMM JIT Pre-Compile session. It may take a long time",
        "Capturing CUDA graphs (decode, FULL):  12%|#2        | 6/51",
        "Capturing batches (bs=8 avail_mem=12.3 GB): 40%",
        "[aiter] start build [module_moe_ck2stages] under /root/.aiter/jit/build",
        "INFO [backends.py] Dynamo bytecode transform time: 9.31 s",
        "INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'",
    ],
)
def test_lines_that_announce_a_long_quiet_step(line: str) -> None:
    assert signatures.is_progress(line)


@pytest.mark.parametrize(
    "line",
    [
        "INFO:     Application startup complete.",
        "ERROR Engine core initialization failed. See root cause above.",
        "WARNING Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.",
        'INFO:     127.0.0.1:5002 - "GET /health HTTP/1.1" 200 OK',
    ],
)
def test_other_lines_announce_nothing(line: str) -> None:
    assert not signatures.is_progress(line)
