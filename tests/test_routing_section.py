"""The routing section of report.html: from the log, from what was computed of it, and where there is none."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import store
from harness.extras import moe_log, routing_section
from harness.moe import routing_log, timed
from harness.schema import Load, RequestRecord, Trial, TrialResult
from tests import moe_logs, runs


def visit(run: Path, variant: str, seed: int) -> Path:
    """A server life that logged 6 requests at layers 0 and 1 of 8 experts."""
    folder = run / variant / "r1"
    folder.mkdir(parents=True)
    moe_logs.random_log(folder / moe_log.LOG, 6, seed, favour=2.0)
    return folder


def test_each_logged_layer_has_its_experts_and_its_ranks(tmp_path: Path) -> None:
    visit(tmp_path, "b", 1)
    visit(tmp_path, "a", 2)
    section = routing_section.section(tmp_path, ["b", "a"])
    assert len(section.plots) == 2 * 2 * 2  # variants x layers x (experts, EP ranks)
    titles = [plot.split('aria-label="', 1)[1].split('"', 1)[0] for plot in section.plots]
    assert titles[:2] == ["expert usage, b, layer 0", "8 EP ranks, b, layer 0"]
    assert titles[4] == "expert usage, a, layer 0"
    assert [row[:4] for row in section.rows[:2]] == [("b", "0", "prefill", "120"), ("b", "0", "decode", "72")]
    assert all(row[8] == "0" for row in section.rows), "expert 0 was favoured: it is named"
    assert section.lines == []


def test_without_the_log_what_was_computed_of_it_is_shown(tmp_path: Path) -> None:
    folder = visit(tmp_path, "a", 1)
    before = routing_section.section(tmp_path, ["a"])
    moe_log.remark(folder)
    (folder / moe_log.LOG).unlink()
    after = routing_section.section(tmp_path, ["a"])
    assert after.rows == before.rows and after.plots == before.plots
    assert str(tmp_path) not in (folder / "moe" / "moe.json").read_text()


def test_nothing_logged_or_damaged(tmp_path: Path) -> None:
    assert routing_section.section(tmp_path, []).empty
    folder = visit(tmp_path, "a", 1)
    (folder / moe_log.LOG).write_text('{"type":"problem","reason":"vLLM 0.9 has no MoERunner"}\n')
    section = routing_section.section(tmp_path, ["a"])
    assert section.lines == ["a: moe.moelog holds no routing: vLLM 0.9 has no MoERunner."]
    assert not section.plots and not section.rows


def test_only_timed_requests_count(tmp_path: Path) -> None:
    """Probes have no record; warm-up has a timed request's id and reads fewer tokens."""
    folder = tmp_path / "v" / "r1"
    folder.mkdir(parents=True)
    warm_up = moe_logs.block(1, 0, [("cmpl-text-0-0-0a1b2c3d", 0, 2, 2)], [[0, 1], [2, 3]])
    prompt = moe_logs.block(2, 0, [("cmpl-text-0-0-ffffffff", 0, 2, 2)], [[4, 5], [6, 7]])
    decoded = moe_logs.block(3, 0, [("cmpl-text-0-0-ffffffff", 2, 1, 2)], [[1, 0]])
    probe = moe_logs.block(4, 0, [("cmpl-preflight-0-12345678", 0, 3, 3)], [[0, 1]] * 3)
    path = moe_logs.write(folder / moe_log.LOG, [warm_up, prompt, decoded, probe])
    log = routing_log.read([str(path)])
    assert timed.only(log, folder) is log, "no records, nothing is left out"
    store_folder = folder / "text@c1"
    store_folder.mkdir()
    record = RequestRecord(request_id="text-0", prompt_len=2, output_len=2)
    (store_folder / "requests.jsonl").write_bytes(msgspec.json.encode(record) + b"\n")
    kept = timed.only(log, folder)
    assert kept.experts.tolist() == [[4, 5], [6, 7], [1, 0]]
    assert "2 requests of the harness's own" in kept.notes[0]


def test_a_discarded_measurement_does_not_count(tmp_path: Path) -> None:
    """The engine compiled during it and all was fired again: same ids, same lengths, earlier."""
    folder = tmp_path / "v" / "r1"
    (folder / "text@c1").mkdir(parents=True)
    cold = moe_logs.block(2, 0, [("cmpl-text-0-0-0a1b2c3d", 0, 3, 3)], [[0, 1]] * 3)
    again = moe_logs.block(12, 0, [("cmpl-text-0-0-ffffffff", 0, 3, 3)], [[4, 5]] * 3)
    path = moe_logs.write(folder / moe_log.LOG, [cold, again])  # at 1002 and 1012 s of the epoch
    record = RequestRecord(request_id="text-0", prompt_len=3, output_len=1)
    (folder / "text@c1" / "requests.jsonl").write_bytes(msgspec.json.encode(record) + b"\n")
    trial = Trial(variant="v", workload=runs.WORKLOAD, load=Load(max_concurrency=1))
    result = TrialResult(trial=trial, status="done", started_at="1970-01-01T00:16:50Z", duration_s=5.0)
    store.write(folder / "text@c1" / "trial.json", result)
    assert timed.only(routing_log.read([str(path)]), folder).experts.tolist() == [[4, 5]] * 3
