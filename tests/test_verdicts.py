"""Ratios against the baseline: paired, learned from the whole run, corrected together, and in words."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from harness.numbers import spread
from harness.numbers.figures import Figure, figures, ranking
from harness.numbers.hosts import combined
from harness.numbers.intervals import ratio
from harness.numbers.verdicts import Sample, contrasts, decided, words
from harness.schema import Comparison, Contrast, Interval, Load

RATE = Figure("output_throughput", "output tok/s", lambda seen: seen.metrics.output_throughput)


def samples(values: Mapping[tuple[str, str], Mapping[int, float]], figure: Figure = RATE) -> list[Sample]:
    return [Sample(scenario, variant, figure, known) for (scenario, variant), known in values.items()]


def test_words() -> None:
    contrast = Contrast(
        scenario="s", baseline="B", variant="A", ratio=Interval(mean=1.18, low=1.12, high=1.25, num=3)
    )
    assert words(contrast) == "A is 1.18x B (1.12-1.25) in output tok/s, on this host"
    assert decided(contrast)
    assert words(Contrast(scenario="s", baseline="B", variant="A")).startswith("A and B: no ratio")
    slower = msgspec.structs.replace(contrast, title="TTFT p50", lower_is_better=True, num_hosts=2)
    assert words(slower) == "A is 1.18x B (1.12-1.25) in TTFT p50, less is better, over 2 hosts"


def test_loads_are_ranked_by_their_own_figures() -> None:
    def names(load: Load, slo: bool = False) -> list[str]:
        return [figure.name for figure in ranking(load, slo)]

    assert names(Load(max_concurrency=8)) == []
    assert names(Load(request_rate=10.0, arrival="poisson")) == ["due_e2el_p50"]
    assert names(Load(request_rate=10.0, arrival="poisson"), slo=True) == ["goodput", "due_e2el_p50"]
    assert names(Load(request_rate=10.0, search="goodput"), slo=True) == ["goodput_rate"]


def test_an_exploratory_figure_is_shown_and_never_decided() -> None:
    clear = Interval(mean=2.0, low=1.9, high=2.1, num=3)
    contrast = Contrast(scenario="s", baseline="B", variant="A", primary=False, ratio=clear, p_value=1e-9)
    assert words(contrast).startswith("exploratory: A is 2.00x B") and not decided(contrast)


def test_contrasts_pair_by_restart_and_correct_together() -> None:
    found = contrasts(
        samples(
            {
                ("s", "B"): {1: 100.0, 2: 130.0, 3: 90.0},
                ("s", "A"): {1: 120.0, 2: 155.0, 3: 109.0},
                ("s", "C"): {1: 103.0, 2: 128.0, 3: 93.0},
                ("t", "B"): {1: 50.0},
                ("t", "A"): {1: 60.0},
                ("u", "A"): {1: 60.0},
            }
        ),
        "B",
    )
    got = {(c.scenario, c.variant): c.words for c in found}
    assert got[("s", "A")].startswith("A is 1.20x B (1.1")
    assert got[("s", "C")].startswith("C and B are too close to call in output tok/s (")
    assert "would have been seen" in got[("s", "C")]
    assert got[("t", "A")] == "A was seen at 1.20x B in output tok/s: one run, no interval"
    assert ("u", "A") not in got


def test_a_difference_as_large_as_detectable_would_be_decided() -> None:
    noise = np.array([0.02, -0.015, -0.005])
    base = {r: 100.0 for r in (1, 2, 3)}
    level = contrasts(samples({("s", "B"): base, ("s", "A"): _moved(base, noise, 1.0)}), "B")[0]
    assert level.detectable is not None and not decided(level)
    moved = contrasts(samples({("s", "B"): base, ("s", "A"): _moved(base, noise, level.detectable)}), "B")[0]
    assert decided(moved)


def _moved(base: Mapping[int, float], noise: np.ndarray, factor: float) -> dict[int, float]:
    return {r: value * factor * float(np.exp(noise[r - 1])) for r, value in base.items()}


def test_borderline_contrast_falls_to_the_correction() -> None:
    rng = np.random.default_rng(1)
    base = {r: 100.0 for r in range(1, 5)}
    edge = {1: 101.0, 2: 103.5, 3: 105.5, 4: 103.0}
    alone = contrasts(samples({("s", "B"): base, ("s", "A"): edge}), "B")[0]
    assert alone.words.startswith("A is 1.03x B")
    crowd = {("s", f"V{i}"): {r: 100 * np.exp(rng.normal(0, 0.03)) for r in base} for i in range(12)}
    among = contrasts(samples({("s", "B"): base, ("s", "A"): edge, **crowd}), "B")[0]
    assert "not after correcting for 13 comparisons" in among.words


def test_restarts_that_do_not_pair_get_welchs_interval() -> None:
    a, b = {1: 100.0, 2: 104.0}, {3: 90.0, 4: 91.0, 5: 89.0}
    found = contrasts(samples({("s", "B"): b, ("s", "A"): a}), "B")[0]
    assert found.ratio == ratio(list(a.values()), list(b.values()), paired=False)


def test_the_spread_of_one_cell_alone_is_students() -> None:
    cell = np.array([0.11, 0.05, 0.16])
    (alone,) = spread.learn([cell])
    half = 4.302652729911275 * cell.std(ddof=1) / np.sqrt(3)
    assert alone.reach(0.05) == pytest.approx(half, rel=0.02)
    assert alone.tail(half) == pytest.approx(0.05, rel=0.05)


def test_quiet_neighbours_narrow_a_cell_and_a_loud_cell_keeps_its_own_interval() -> None:
    rng = np.random.default_rng(5)
    quiet = [rng.normal(0, 0.01, 3) for _ in range(8)]
    found = spread.learn(quiet)
    alone = [spread.learn([cell])[0].reach(0.05) for cell in quiet]
    assert np.median([f.reach(0.05) for f in found]) < 0.75 * np.median(alone)
    loud = np.array([0.3, -0.2, -0.1])
    last = spread.learn([*quiet, loud])[-1]
    assert last.apart and last.reach(0.05) >= 4.3 * loud.std(ddof=1) / np.sqrt(3) * 0.99


def test_cells_that_repeat_each_other_count_as_fewer() -> None:
    rng = np.random.default_rng(6)
    life = rng.normal(0, 0.03, 4)
    same = [life * factor for factor in (1.0, 1.1, 0.9, 1.2)]
    assert 0.25 <= spread.independence(same) < 0.35
    assert spread.independence([rng.normal(0, 0.03, 4) for _ in range(40)]) > 0.5


@pytest.mark.parametrize(
    ("load", "slo", "expected"),
    [
        (Load(max_concurrency=64), True, ["output_throughput", "speed_per_user"]),
        (Load(request_rate=10.0, arrival="poisson"), False, ["due_ttft_p50", "tpot_p50", "due_e2el_p50"]),
        (
            Load(request_rate=10.0, arrival="poisson"),
            True,
            ["due_ttft_p50", "tpot_p50", "due_e2el_p50", "goodput"],
        ),
        (Load(search="goodput"), True, ["goodput_rate"]),
    ],
)
def test_primary_figures_are_those_that_the_load_asks_for(load: Load, slo: bool, expected: list[str]) -> None:
    found = figures(load, slo, {"ttft": 0.99, "due_ttft": 0.99, "tpot": 0.9})
    assert [f.name for f in found if f.primary] == expected
    assert load.search or any(f.name.endswith("ttft_p99") for f in found if not f.primary)


def test_several_hosts_are_several_samples() -> None:
    def asked(host: str, mean: float, width: float = 1.02) -> Comparison:
        ratio = Interval(mean=mean, low=mean / width, high=mean * width, num=3)
        contrast = Contrast(scenario="s", baseline="B", variant="A", ratio=ratio, p_value=0.001)
        return Comparison(run_id=host + str(mean), host=host, question="q", rows=(), contrasts=(contrast,))

    (two,) = combined([asked("one", 1.44), asked("two", 1.56), asked("two", 1.56)])
    assert two.num_hosts == 2 and two.ratio is not None and two.ratio.num == 2
    assert two.ratio.mean == pytest.approx(np.sqrt(1.44 * 1.56))
    half = 12.706 * np.log(1.56 / 1.44) / np.sqrt(2) / np.sqrt(2)
    assert np.log(two.ratio.high / two.ratio.mean) == pytest.approx(half, rel=0.01)
    assert "too close to call" in two.words and "over 2 hosts" in two.words
    alike = combined([asked(str(h), 1.5, width=1.10) for h in range(6)])[0]
    assert alike.ratio is not None and alike.ratio.low < 1.46, (
        "no narrower than the hosts' own intervals allow"
    )
    assert combined([asked("one", 1.44), asked("one", 1.56)]) == ()
