"""`moe`: text, moe.json and pictures from a log; what the user gets wrong is said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.errors import InputError
from harness.moe import verbs
from harness.schema import RoutingReport
from tests import moe_logs


def test_everything_is_written(tmp_path: Path) -> None:
    a = moe_logs.random_log(tmp_path / "real.jsonl", 12, seed=1, favour=2.0)
    b = moe_logs.random_log(tmp_path / "dummy.jsonl", 12, seed=2)
    out = tmp_path / "out"
    text = verbs.moe([str(a), f"against={b}", f"out={out}", "ep=2,4"])
    report = msgspec.json.decode((out / "moe.json").read_bytes(), type=RoutingReport)
    assert report.num_requests == 12 and len(report.layers) == 6 and len(report.distances) == 2
    assert all(0 in layer.hot_experts for layer in report.layers)
    assert set(report.layers[0].rank_max_over_mean) == {"2", "4"}
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["comparison.png", "drift.png", "experts.png", "pairs.png", "ranks.png"]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    assert "hot experts" in text and "JS distance" in text and "EP2:" in text


def test_pictures_are_the_same_bytes_again(tmp_path: Path) -> None:
    log = moe_logs.random_log(tmp_path / "a.jsonl", 4, seed=1)
    for name in ("one", "two"):
        verbs.moe([str(log), f"out={tmp_path / name}"])
    one, two = ((tmp_path / name / "experts.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_one_repeated_token_is_called_input_skew(tmp_path: Path) -> None:
    blocks = [moe_logs.block(1, 0, [("a", 0, 50, 50)], [[3, 6]] * 50)]
    text = verbs.moe([str(moe_logs.write(tmp_path / "a.jsonl", blocks))])
    assert "100% of the tokens chose exactly the experts [3, 6]" in text


def test_request_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = moe_logs.write(tmp_path / "a.jsonl", [moe_logs.block(1, 0, [("a", 0, 1, 1)], [[3, 6]])])
    path.write_bytes(path.read_bytes().replace(b"vllm 0", b"\\u001b[2Jvllm"))
    assert "\x1b" not in verbs.moe([str(path)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "at least one routing log"),
        (["x.jsonl", "colour=red"], "no setting 'colour'"),
        (["x.jsonl", "ep=two"], "write EP sizes"),
        (["x.jsonl", "ep=0"], "at least 1"),
        (["x.jsonl"], "no file x.jsonl"),
    ],
)
def test_mistakes(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verbs.moe(words)


def test_experts_that_do_not_split_over_the_ranks_asked_for(tmp_path: Path) -> None:
    path = moe_logs.random_log(tmp_path / "a.jsonl", 2, seed=1)
    with pytest.raises(InputError, match="8 experts do not split evenly"):
        verbs.moe([str(path), "ep=2,6"])
