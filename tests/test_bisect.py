"""A bisection names the planted release, and says "undecided" where it cannot know. Simulated but for one."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness import registry, store
from harness.bisect import evidence, search, verbs, words
from harness.bisect.drift import Fit, Point
from harness.bisect.evidence import METRICS
from harness.bisect.judging import MOST, Judge, Seen
from harness.errors import InputError
from harness.extras import bisect
from harness.host import engine_env
from harness.schema import Options, Recipe, TrialResult, WorkloadSpec
from tests import planted
from tests.runs import RECIPE, write_run
from tests.test_run import Desk

NOISE, SLOWDOWN = 0.03, math.log(0.92)
NAMES = tuple(f"engine@1.{minor}" for minor in range(9))


def simulated(seed: int, num: int, guilty: int, effect: float = SLOWDOWN, broken: int = -1) -> search.Outcome:
    """A bisection of releases on a host that drifts from round to round as much as a restart's noise."""
    chance = random.Random(seed)
    drift: dict[int, float] = {}

    def showing(version: int, number: int) -> Seen:
        if version == broken:
            return Seen(version, number, problem="does not start", final=True)
        drift.setdefault(number, chance.gauss(0, NOISE))
        level = effect if version >= guilty else 0.0
        return Seen(version, number, 7.0 + level + drift[number] + chance.gauss(0, NOISE))

    return search.driven(num, MOST, showing)


def test_a_slowdown_of_8_percent_is_found_20_times_of_20_at_3_percent_noise() -> None:
    found = [simulated(seed, 9, 1 + seed % 8) for seed in range(20)]
    assert [(o.status, o.bad) for o in found] == [("guilty", 1 + seed % 8) for seed in range(20)]
    assert all(o.good == o.bad - 1 for o in found)


@pytest.mark.parametrize("effect", [0.0, math.log(0.99)])
def test_an_effect_below_the_noise_is_undecided_and_never_wrong(effect: float) -> None:
    found = [simulated(100 + seed, 9, 1 + seed % 8, effect) for seed in range(20)]
    assert {o.status for o in found} == {"undecided"}


def test_a_release_that_does_not_start_is_passed_over() -> None:
    found = simulated(1, 9, 6, broken=4)
    assert (found.status, found.bad) == ("guilty", 6)
    assert [(t.version, t.side, t.why) for t in found.turns if t.side == "out"] == [
        (4, "out", "does not start")
    ]


def test_where_the_neighbour_cannot_be_judged_the_blame_is_not_put_on_one() -> None:
    found = simulated(1, 9, 4, broken=4)
    assert (found.status, found.good, found.bad) == ("undecided", 3, 5)
    told = words.lines(found, NAMES, "output_throughput")
    assert told[0].startswith("Bisect: undecided between engine@1.3 and engine@1.5")


def test_a_broken_end_ends_it() -> None:
    found = simulated(1, 9, 4, broken=8)
    assert (found.status, found.why) == ("undecided", "bad end: does not start")


@pytest.mark.parametrize("guilty", range(1, 9))
def test_a_wrong_release_is_found_by_its_answers(guilty: int) -> None:
    asked: list[int] = []

    def showing(version: int, number: int) -> Seen:
        asked.append(version)
        return Seen(version, number, "FAIL" if version >= guilty else "PASS")

    found = search.driven(9, MOST, showing)
    assert (found.status, found.bad, found.good) == ("guilty", guilty, guilty - 1)
    assert len(asked) <= 8


def test_answers_that_change_from_restart_to_restart_blame_nobody() -> None:
    found = search.driven(2, MOST, lambda v, n: Seen(v, n, "FAIL" if v and n % 2 else "PASS"))
    assert found.status == "undecided"


def test_the_evidence_is_told_with_interval_and_restarts() -> None:
    found = simulated(3, 9, 5)
    first, *turns = words.lines(found, NAMES, "output_throughput")
    assert first.startswith("Bisect: 1.5 is the release: output tok/s -") and "restarts" in first
    assert any(line.startswith("engine@1.4 is with the good end (round ") for line in turns)
    assert turns[-1].startswith("not needed: ")


def test_where_candidates_run_back_in_time_the_change_came_with_the_newer_neighbour() -> None:
    found = search.driven(4, MOST, lambda v, n: Seen(v, n, "starts" if v < 2 else "does not start"))
    told = words.lines(found, tuple(f"engine@1.{minor}" for minor in (9, 8, 7, 6)), "start")
    assert told[0] == (
        "Bisect: 1.8 is the release: whether it starts: does not start instead of starts in engine@1.7 "
        "against engine@1.8, its neighbour"
    )


def test_what_was_not_measured_to_its_end_is_unfinished() -> None:
    found = search.driven(9, MOST, lambda v, n: Seen(v, n, 1.0) if n < 3 else None)
    assert found.status == "unfinished"


def test_drift_common_to_a_round_does_not_move_a_difference() -> None:
    """Two versions 0.1 apart, rounds 5 apart, and one version alone in a round, which says nothing."""
    points = [
        Point(v, r, 5.0 * r + 0.1 * v + 0.001 * (v + r))
        for r in range(1, 5)
        for v in (0, 1)
        if (v, r) != (1, 4)
    ]
    found = Fit(points).contrast({1: 1.0, 0: -1.0}, 0.05)
    assert found.mean == pytest.approx(0.101) and found.half < 1e-6 and found.side == 1
    assert Fit(points[:2]).contrast({1: 1.0, 0: -1.0}, 0.05).half == math.inf


def test_ends_are_looked_at_only_after_the_rounds_that_were_planned() -> None:
    far = [Seen(v, r, 1.0 * v + 0.001 * r * v) for r in (1, 2) for v in (0, 1)]
    assert Judge(far, 2).ends() == "more"
    far += [Seen(v, 3, 1.0 * v + 0.002 * v) for v in (0, 1)]
    assert Judge(far, 2).ends() == "apart"


def test_an_output_that_ended_early_is_an_answer_and_no_speed(tmp_path: Path) -> None:
    """llama.cpp#21203: `ignore_eos` was taken and had no effect, which is what a bisection is to find."""
    early = "3 outputs ended before max_tokens although ignore_eos was asked for"
    run = write_run(tmp_path / "run")
    place = RECIPE.variants.index("fast")
    for metric, answered in (("output", True), ("output_throughput", False)):
        asked = msgspec.structs.replace(RECIPE, loads=RECIPE.loads[:1], options=Options(bisect=metric))
        trial = evidence.trial_of(asked, place, 1)
        ended = TrialResult(trial=trial, status="done", invalid=early)
        store.write(store.trial_folder(run, trial) / "trial.json", ended)
        shown = evidence.seen(run, asked, place, 1)
        assert shown is not None and shown.problem == early and (shown.value is not None) == answered


def test_its_words_are_those_of_a_bench() -> None:
    given = ["vllm-ep", "versions=0.30.0,0.31.0,0.32.0", "metric=tpot", "1000/100", "rate=5", "run_id=x"]
    told = verbs.as_bench(given)
    assert told[:2] == ["vllm-ep@0.30.0,vllm-ep@0.31.0,vllm-ep@0.32.0", "1000/100"]
    assert {"bisect=tpot", f"repeats={MOST}", "rate=5", "run_id=x"} <= set(told)
    listed = verbs.as_bench(["vllm-ep,vllm-mori", "metric=start"])
    assert listed[:2] == ["vllm-ep,vllm-mori", "1000/2000"] and "reference=none" in listed
    assert verbs.as_bench(["run_id=x"]) == ["run_id=x"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["vllm-ep", "good=0.30.0", "bad=0.32.0"], "not made from a package index"),
        (["vllm-ep", "good=0.30.0"], "needs good= and bad="),
        (["vllm-ep", "good=1", "bad=3", "versions=2,3"], "must be among"),
        (["vllm-ep", "metric=beauty", "versions=1,2"], "metric=beauty is nothing"),
        ([], "needs a variant"),
        (["run_id="], "needs a variant"),
    ],
)
def test_words_that_are_no_bisection_are_refused(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        verbs.as_bench(given)


def test_a_recipe_that_is_no_bisection_is_refused() -> None:
    two = (WorkloadSpec(name="a"), WorkloadSpec(name="b"))
    for variants, metric, loads in (
        (("a",), "tpot", two[:1]),
        (("a", "b"), "x", two[:1]),
        (("a", "b"), "ttft", two),
    ):
        with pytest.raises(InputError):
            bisect.check(
                Recipe(question="", variants=variants, workloads=loads, options=Options(bisect=metric))
            )
    assert set(METRICS) >= {"output_throughput", "ttft", "tpot", "verdict", "label", "start"}


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Desk]:
    """Wheels of two releases, the second with wrong output."""
    desk = Desk(tmp_path)
    engine_env.ensure(engine_env.UV, registry.ROOT, lambda _: None)
    sound, wrong = planted.Release(), planted.Release(wrong=True)
    planted.write(tmp_path / "wheels", {"1.8": sound, "1.9": wrong})
    desk.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    _forget_wheels()
    yield desk
    _forget_wheels()
    for made in ("planted", "planted.*", "planted@1.*"):  # others are a campaign's that runs beside this
        for left in (registry.ROOT / ".engines").glob(made):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _forget_wheels() -> None:
    """Of an earlier test: uv knows a release by its name and version."""
    folder = str(engine_env.downloads(registry.ROOT))
    subprocess.run(
        [engine_env.uv(), "cache", "clean", "planted", "--cache-dir", folder, "--quiet"], check=True
    )


@pytest.mark.engine
def test_releases_of_a_package_folder_are_installed_measured_and_the_wrong_one_is_named(
    releases: Desk,
) -> None:
    asked = ("planted", "good=1.8", "bad=1.9", "metric=output", "32/8", "concurrency=2", "num_prompts=4")
    started = releases.start("bisect", *asked)
    _, said = started.communicate(timeout=280)
    assert started.returncode == 0, said
    first, *_ = releases.comparison().notes
    assert first.startswith("Bisect: 1.9 is the release: the very tokens of the output")
    run = releases.runs[0]
    kept = (run / "environments" / "planted@1.8.txt").read_text()
    assert kept.startswith("# planted 1.8, resolved") and kept.endswith("\nplanted==1.8\n")
    assert store.read(run / bisect.STEPS, bisect.Steps).steps[0].variant == "planted@1.8"
    assert releases.log.read_text().count(f" {run.name}\n") == 1
    unknown = releases.run("bench", "planted@2.0", "32/8")
    assert unknown.returncode == 2
    assert "There is no version 2.0 of planted" in unknown.stderr and "1.8, 1.9" in unknown.stderr
