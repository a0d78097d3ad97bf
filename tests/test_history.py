"""Series over the log: what is put together, where it changed, and what else changed there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.errors import InputError
from harness.history import changes, records, told, verbs
from harness.history.series import METRICS, UNPROVEN, Series, all_series
from harness.registry import ROOT
from harness.reporting import log
from harness.schema import (
    Interval,
    Load,
    LogFacts,
    LoggedLabel,
    LoggedMachine,
    LoggedRow,
    Options,
    Recipe,
    WorkloadSpec,
)
from tests.examples import COMPARISON, ENVIRONMENT, RECIPE

RATE = METRICS[0]
LABEL = LoggedLabel(
    variant="a",
    engine="engine",
    model="tiny-moe",
    launcher="process",
    engine_version="1.0",
    proven=True,
    claims={"dtype": "bfloat16"},
    shown={"max_num_seqs": 32},
)
DIED = replace(LABEL, proven=False, engine_version="", claims={}, shown={})
"""As a launch that never answered leaves it."""
ROW = LoggedRow(
    variant="a",
    scenario="100-20@c4",
    status="done",
    verdict="PASS",
    output_throughput=Interval(mean=100.0, low=98.0, high=102.0, num=3),
    ttft_p50_s=0.05,
    tpot_p50_s=0.01,
)
ASKED = Recipe(
    question="?",
    variants=("a",),
    model="tiny-moe",
    workloads=(
        WorkloadSpec(name="random_tokens", num_prompts=12, params={"input_len": 100, "output_len": 20}),
    ),
    loads=(Load(max_concurrency=4),),
)
MACHINE = LoggedMachine(cpu_model="A CPU", num_cpus=2, driver="1")


def facts(day: int, row: LoggedRow = ROW, label: LoggedLabel | None = LABEL, **fields: object) -> LogFacts:
    usual = LogFacts(
        run_id=f"run-{day}",
        date=f"2026-11-{day:02}T00:00:00Z",
        commit="c" * 40,
        host="cafe",
        recipe=ASKED,
        rows=(row,),
        labels=(label,) if label else (),
        machine=MACHINE,
    )
    return replace(usual, **fields)


def measured(rates: list[float], slower_from: int, version: str) -> Series:
    """A series of these rates, of another version from one run on."""
    (found,) = all_series(
        facts(
            day,
            replace(ROW, output_throughput=Interval(mean=rate, low=rate, high=rate, num=1)),
            replace(LABEL, engine_version=version) if day >= slower_from else LABEL,
        )
        for day, rate in enumerate(rates, start=1)
    )
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"label": replace(LABEL, claims={"dtype": "float16"})},
        {"label": replace(LABEL, model="other")},
        {"label": replace(LABEL, launcher="docker")},
        {"recipe": replace(ASKED, args=("--max-num-seqs", "8"))},
        {"recipe": replace(ASKED, env={"X": "1"})},
        {"recipe": replace(ASKED, options=Options(stream=False))},
        {"recipe": replace(ASKED, workloads=(replace(ASKED.workloads[0], num_prompts=100),))},
        {"machine": replace(MACHINE, accelerators=("H200",))},
        {"recipe": replace(ASKED, loads=(Load(max_concurrency=4, duration_s=60.0),))},
        {
            "row": replace(ROW, scenario="100-20@c8"),
            "recipe": replace(ASKED, loads=(Load(max_concurrency=8),)),
        },
    ],
)
def test_what_was_not_measured_alike_is_another_series(changed: dict[str, object]) -> None:
    assert len(all_series([facts(1), facts(2, **changed)])) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"label": replace(LABEL, engine_version="2.0")},
        {"label": replace(LABEL, shown={"max_num_seqs": 64})},
        {"commit": "d" * 40},
        {"host": "beef"},
        {"machine": replace(MACHINE, driver="2")},
        {"recipe": replace(ASKED, options=Options(price=2.0), seed=7)},
    ],
)
def test_what_a_change_is_asked_for_stays_in_the_series(changed: dict[str, object]) -> None:
    (found,) = all_series([facts(1), facts(2, **changed)])  # type: ignore[arg-type]
    assert len(found.points) == 2


def test_a_title_does_not_hide_what_is_sent() -> None:
    sized = [
        replace(ASKED.workloads[0], title="mine", params={"input_len": n, "output_len": 20}) for n in (5, 9)
    ]
    rows = [replace(ROW, scenario="mine@c4")] * 2
    asked = [
        facts(n, row, recipe=replace(ASKED, workloads=(spec,)))
        for n, (row, spec) in enumerate(zip(rows, sized, strict=True))
    ]
    assert len(all_series(asked)) == 2


def test_a_slower_version_is_found_with_all_that_changed_with_it() -> None:
    rng = np.random.default_rng(5)
    rates = [
        float(100 * (1 - 0.1 * (day >= 11)) * (1 + 0.02 * rng.standard_normal())) for day in range(1, 17)
    ]
    series = measured(rates, slower_from=11, version="2.0")
    (change,) = changes.changes(series, RATE)
    assert series.points[change.at].facts.run_id == "run-11" and -0.12 < change.ratio < -0.08
    assert changes.worse(change, RATE)
    (line,) = told.altered(series, RATE)
    assert "changed with run-11" in line and "worse" in line
    assert "version of engine: 1.0 then, 2.0 now" in line


def test_noise_alone_is_no_change() -> None:
    rng = np.random.default_rng(1)
    noise = [[float(r) for r in 100 * (1 + 0.03 * rng.standard_normal(12))] for _ in range(40)]
    alarms = sum(bool(changes.changes(measured(rates, 99, ""), RATE)) for rates in noise)
    assert alarms <= 2


def test_few_runs_show_only_intervals_that_are_apart() -> None:
    slow = replace(ROW, output_throughput=Interval(mean=80.0, low=78.0, high=82.0, num=3))
    (found,) = all_series([facts(1), facts(2, slow, commit="d" * 40)])
    assert changes.changes(found, RATE) == []
    (line,) = told.altered(found, RATE)
    assert "-20.0%" in line and "commit: cccccccccccc then, dddddddddddd now" in line
    single = replace(ROW, output_throughput=Interval(mean=80.0, low=80.0, high=80.0, num=1))
    assert changes.steps(all_series([facts(1), facts(2, single)])[0], RATE) == []


def test_a_host_that_was_slower_itself_is_told_beside_the_figures() -> None:
    quick, slow = (replace(LABEL, cpu_mb_s=speed, memory_gb_s=10.0) for speed in (1000.0, 480.0))
    half = replace(ROW, output_throughput=Interval(mean=50.0, low=49.0, high=51.0, num=3))
    (found,) = all_series([facts(1, label=quick), facts(2, half, slow)])
    (line,) = told.altered(found, RATE)
    assert line.endswith("host's sha256: 1000 MB/s then, 480 now (-52%)")


def test_a_verdict_that_flips_is_told_and_its_speed_is_not_compared() -> None:
    wrong = replace(ROW, verdict="FAIL")
    died = LoggedRow(variant="a", scenario=ROW.scenario, status="failed")
    (found,) = all_series([facts(1), facts(2, wrong), facts(3), facts(4, died, DIED)])
    assert [(f.at, f.before, f.after) for f in changes.flips(found)] == [
        (1, "PASS", "FAIL"),
        (2, "FAIL", "PASS"),
        (3, "PASS", "failed"),
    ]
    assert len(changes.measured(found, RATE)) == 2
    assert any(line.startswith("PASS to FAIL with run-2") for line in told.verdicts(found))


def test_a_run_that_no_longer_proves_its_label_is_an_event_of_that_label() -> None:
    """Else it would begin a series of its own, and nobody would see it."""
    invalid = replace(ROW, invalid="dtype: label says 'bfloat16', engine runs 'float32'")
    (found,) = all_series([facts(1), facts(2, invalid, replace(LABEL, proven=False)), facts(3)])
    assert [point.state for point in found.points] == ["PASS", "INVALID", "PASS"]
    assert found.points[1].value(RATE) is None
    assert any("engine runs 'float32'" in line for line in told.verdicts(found))


def test_an_entry_that_nothing_proves_is_not_put_among_those_that_are() -> None:
    found = all_series([facts(1), facts(2, label=None), facts(3)])
    assert sorted(len(series.points) for series in found) == [1, 2]
    assert {series.key.label for series in found} == {"dtype bfloat16", UNPROVEN}


def test_the_log_keeps_labels_and_machine(tmp_path: Path) -> None:
    path = tmp_path / "LOG.md"
    log.append(path, log.entry(replace(COMPARISON, labels=(LABEL,)), ENVIRONMENT, RECIPE))
    kept = log.find(path, "last").facts
    assert kept is not None and kept.labels == (LABEL,)
    assert kept.machine is not None and kept.machine.kind == "A CPU, 2 cores"


def test_older_entries_are_completed_from_kept_results() -> None:
    past = records.past(log.entries(ROOT / "EXPERIMENT_LOG.md"), ROOT / "results")
    found = [s for s in all_series(past) if s.key.variant == "vllm-cpu" and "text-100-200" in s.key.workload]
    (series,) = [s for s in found if s.points[0].facts.run_id == "20261121-030948-all"]
    assert "dtype bfloat16" in series.key.label and "2 cores" in series.key.host
    assert [p.label.engine_version for p in series.points if p.label][:2] == ["0.32.0", "0.32.0"]


def test_the_verb_lists_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "LOG.md"
    monkeypatch.setenv("HARNESS_LOG", str(path))
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    assert "no such series" in verbs.history([])
    log.append(path, log.entry(COMPARISON, ENVIRONMENT, RECIPE))
    text = verbs.history(["variant=engine-b", "metric=output_throughput"])
    assert "1000-2000@c8" in text and "output tok/s 1000 [950-1050, n=3]" in text
    assert COMPARISON.run_id in text, "of one metric every run is listed"
    assert "engine-a" in verbs.history([]) and "engine-a" not in text
    for wrong in (["metric=speed"], ["colour=red"], ["vllm-cpu"]):
        with pytest.raises(InputError):
            verbs.history(wrong)
