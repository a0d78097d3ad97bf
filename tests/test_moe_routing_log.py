"""Routing logs: text and binary say the same; ranks, phases, warm-up, truncation and foreign files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import InputError
from harness.moe import routing_log
from tests import moe_logs

BLOCKS = (
    moe_logs.block(1, 0, [("a", 0, 3, 3), ("b", 4, 1, 3)], [[0, 1], [2, 3], [4, 5], [6, 7]]),
    moe_logs.block(1, 3, [("a", 0, 3, 3), ("b", 4, 1, 3)], [[1, 0], [3, 2], [5, 4], [7, 6]]),
    moe_logs.block(2, 0, [("a", 3, 1, 3)], [[7, 0]]),
)


@pytest.mark.parametrize("suffix", [".jsonl", ".moelog"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    log = routing_log.read([str(moe_logs.write(tmp_path / f"log{suffix}", BLOCKS))])
    assert log.layers == (0, 3) and log.top_k == 2 and log.num_experts == 8
    first = log.where(log.layer == 0)
    assert first.experts.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [7, 0]]
    assert [log.request_ids[i] for i in first.request] == ["a", "a", "a", "b", "a"]
    assert first.position.tolist() == [0, 1, 2, 4, 3]
    assert first.prefill.tolist() == [True, True, True, False, False]
    assert first.step.tolist() == [1, 1, 1, 1, 2]
    np.testing.assert_allclose(first.weights[0], [0.75, 0.25], atol=1e-3)


@pytest.mark.parametrize("ids", [[300, 2], [-1, 2], [255, 128]])
def test_any_expert_fits_the_binary_form(tmp_path: Path, ids: list[int]) -> None:
    path = moe_logs.write(tmp_path / "log.moelog", [moe_logs.block(1, 0, [("a", 0, 1, 1)], [ids])])
    path.write_bytes(path.read_bytes().replace(b'"num_experts":8', b'"num_experts":512'))
    assert routing_log.read([str(path)]).experts.tolist() == [ids]


def test_a_shared_expert_behind_the_routed_ones_is_no_choice(tmp_path: Path) -> None:
    path = moe_logs.write(tmp_path / "log.moelog", [moe_logs.block(1, 0, [("a", 0, 1, 1)], [[7, 2, 8]])])
    assert routing_log.read([str(path)]).experts.tolist() == [[7, 2, -1]]


def test_other_ranks_are_taken_along(tmp_path: Path) -> None:
    path = moe_logs.write(tmp_path / "log.jsonl", BLOCKS[:1])
    moe_logs.write(tmp_path / "log.rank3.jsonl", [replace(BLOCKS[2], rank=3)])
    log = routing_log.read([str(path)])
    assert sorted(set(log.rank.tolist())) == [0, 3] and len(log.layer) == 5


def test_warm_up_passes_are_kept_apart(tmp_path: Path) -> None:
    warm = replace(moe_logs.block(0, 0, [("(warm-up)", 0, 2, 2)], [[5, 6], [5, 6]]), warmup=True)
    path = moe_logs.write(tmp_path / "log.jsonl", [warm, *BLOCKS])
    assert len(routing_log.read([str(path)]).layer) == 9
    assert routing_log.read([str(path)], warmup=True).experts.tolist() == [[5, 6], [5, 6]]


def test_counts_are_totals_of_each_life(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    life = moe_logs.write(path, BLOCKS, dropped_tokens=2).read_bytes()
    path.write_bytes(life + life)
    log = routing_log.read([str(path)])
    assert log.counts["dropped_tokens"] == 4
    assert any("dropped_tokens: 4" in note for note in log.notes)


@pytest.mark.parametrize("suffix", [".jsonl", ".moelog"])
def test_a_killed_writer_costs_only_its_last_record(tmp_path: Path, suffix: str) -> None:
    path = moe_logs.write(tmp_path / f"log{suffix}", BLOCKS)
    path.write_bytes(path.read_bytes()[:-4])
    log = routing_log.read([str(path)])
    assert len(log.layer) == 8
    assert any("middle of a record" in note for note in log.notes)


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = moe_logs.write(tmp_path / "log.jsonl", BLOCKS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken\n" + lines[1])
    with pytest.raises(InputError, match="damaged"):
        routing_log.read([str(path)])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no header record"),
        (b"hello\nworld\n", "no routing log"),
        (b'{"type":"header","num_experts":8}\n', "no routed token"),
        (b'{"a":1}\n{"b":1}\n', "no routing log"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        routing_log.read([str(path)])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*none\.jsonl"):
        routing_log.read([str(tmp_path / "none.jsonl")])
    with pytest.raises(InputError, match="No file matches"):
        routing_log.read([str(tmp_path / "*.jsonl")])


def test_models_are_not_mixed(tmp_path: Path) -> None:
    one = moe_logs.write(tmp_path / "one.jsonl", BLOCKS)
    two = moe_logs.write(tmp_path / "two.jsonl", BLOCKS)
    two.write_bytes(two.read_bytes().replace(b'"num_experts":8', b'"num_experts":16'))
    with pytest.raises(InputError, match="different numbers of experts"):
        routing_log.read([str(one), str(two)])


def test_write_and_read_agree(tmp_path: Path) -> None:
    log = routing_log.read([str(moe_logs.write(tmp_path / "log.jsonl", BLOCKS))])
    routing_log.write(log, tmp_path / "again.jsonl")
    again = routing_log.read([str(tmp_path / "again.jsonl")])
    assert again.experts.tolist() == log.experts.tolist()
    assert again.position.tolist() == log.position.tolist()
    assert again.prefill.tolist() == log.prefill.tolist()
