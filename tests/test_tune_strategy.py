"""Screening, fitted effects and the search: pure, on figures that are known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harness.label.point import Point, Setting
from harness.tune import design, effects
from harness.tune.effects import Tried
from harness.tune.strategy import Search

SPACE = {
    "slots": Setting(values=(1, 2, 4, 8), flag="--slots"),
    "kv": Setting(values=("f32", "f16", "q8"), flag="--kv"),
    "flash": Setting(values=(False, True), flag="--flash"),
    "poison": Setting(values=("unset", "fast"), flag="--poison"),
}
USUAL: Point = {"slots": "4", "kv": "f32", "flash": "false", "poison": "unset"}
FACTORS = {
    **{("slots", word): factor for word, factor in zip("1248", (0.6, 0.8, 1.0, 1.3), strict=True)},
    **{("kv", "f16"): 1.05, ("kv", "q8"): 0.9, ("flash", "true"): 1.2, ("poison", "fast"): 3.0},
}


def figure(point: Point) -> float:
    """The true figure: a product of factors, and 1.25 where eight slots meet flash attention."""
    together = 1.25 if (point["slots"], point["flash"]) == ("8", "true") else 1.0
    return 100.0 * together * math.prod(FACTORS.get(item, 1.0) for item in point.items())


def tried(point: Point, noise: float = 0.0, seed: int = 0) -> Tried:
    """What a trial says: poison answers wrongly, q8 without flash does not start."""
    if point["poison"] == "fast":
        return Tried(point, None, "FAIL: other tokens")
    if (point["kv"], point["flash"]) == ("q8", "false"):
        return Tried(point, None, "failed: quantised keys need flash attention")
    rng = np.random.default_rng([seed, *map(ord, "".join(point.values()))])
    return Tried(point, figure(point) * math.exp(rng.normal(0, noise)))


def every() -> list[Point]:
    """All points of the space."""
    words = [setting.words for setting in SPACE.values()]
    return [dict(zip(SPACE, chosen, strict=True)) for chosen in itertools.product(*words)]


def searched(seed: int, num: int = 20, noise: float = 0.03) -> Search:
    """A search of `num` trials."""
    search = Search(SPACE, USUAL, seed, num)
    search.tell(tried(USUAL, noise, seed))
    while len(search.tried) < num:
        for point in search.ask(min(4, num - len(search.tried))):
            search.tell(tried(point, noise, seed))
    return search


@pytest.mark.parametrize("sizes, num", [((2,) * 7, 8), ((4, 3, 3, 2), 12), ((6, 5, 4, 2, 2), 15)])
def test_a_screening_design_shows_every_value_and_every_pair_about_equally_often(
    sizes: tuple[int, ...], num: int
) -> None:
    table = design.screening(sizes, num, seed=1)
    for column, size in enumerate(sizes):
        counts = np.bincount(table[:, column], minlength=size)
        assert counts.max() - counts.min() <= 1
    random = [design.unevenness(np.random.default_rng(i).permuted(table, axis=0), sizes) for i in range(50)]
    assert design.unevenness(table, sizes) < np.quantile(random, 0.1)
    assert len({tuple(row) for row in table.tolist()}) == num


def test_eight_points_screen_seven_settings_of_two_values_without_mixing_any_two_up() -> None:
    assert design.unevenness(design.screening((2,) * 7, 8, seed=3), (2,) * 7) == 0.0


def test_effects_are_the_factors_that_were_put_in_as_often_as_their_intervals_promise() -> None:
    held = 0
    for seed in range(40):
        plain = [tried(p, 0.02, seed) for p in every() if p["slots"] != "8"]
        found = {(e.setting, e.value): e for e in effects.effects(plain, USUAL)}
        assert found["slots", "1"].clear and found["poison", "fast"].ratio is None
        for name, factor in ((("slots", "1"), 0.6), (("kv", "f16"), 1.05), (("flash", "true"), 1.2)):
            ratio = found[name].ratio
            held += ratio is not None and ratio.low < factor < ratio.high
    assert 0.88 <= held / 120 <= 0.995


def test_a_value_that_never_counts_has_its_causes_instead_of_an_effect() -> None:
    found = {(e.setting, e.value): e for e in effects.effects([tried(p) for p in every()], USUAL)}
    poison = found["poison", "fast"]
    assert (poison.num, poison.failed) == (0, {"FAIL: other tokens": 24})
    assert "24 of 24 did not count: FAIL: other tokens" in effects.sentence(poison, "output tok/s")
    said = effects.sentence(found["slots", "8"], "output tok/s")
    assert said.startswith("slots 8 (against 4): 1.") and "copy it" in said


def test_two_settings_that_do_together_what_neither_does_alone_stand_out_and_no_other_pair() -> None:
    found = effects.interactions([tried(p, 0.01) for p in every()], USUAL)
    assert [set(each.settings) for each in found] == [{"slots", "flash"}]
    assert "1.2" in found[0].words and found[0].p_value < 1e-6


def test_effects_of_few_points_have_no_interval_and_are_called_nothing() -> None:
    few = [tried(p) for p in every()[::9]]
    assert not any(each.clear for each in effects.effects(few, USUAL))
    assert effects.interactions(few, USUAL) == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_search_comes_near_the_best_of_the_space_and_never_takes_the_poison(seed: int) -> None:
    best = max(figure(p) for p in every() if tried(p).value)
    found = searched(seed).best()
    assert found and figure(found.point) >= 0.95 * best
    assert found.point["poison"] == "unset"


def test_what_failed_twice_and_never_counted_is_left_alone() -> None:
    search = searched(0)
    poisoned = [one for one in search.tried if one.point["poison"] == "fast"]
    assert search.shunned({**USUAL, "poison": "fast"})
    assert len(poisoned) <= 8


def test_a_search_asks_each_point_once_and_ends_with_its_space() -> None:
    space = {key: SPACE[key] for key in ("kv", "flash")}
    search = Search(space, {"kv": "f32", "flash": "false"}, 0, 6)
    asked = search.ask(10)
    assert sorted(map(str, asked)) == sorted({str(point) for point in asked})
    assert len(asked) == 6


def test_equal_seeds_ask_equal_points() -> None:
    assert [one.point for one in searched(3).tried] == [one.point for one in searched(3).tried]
