"""Every point of a space measured, and searches replayed against that truth.

usage: python -m benchmarks.tune_grid make NAME VARIANT [workload] [only=a,b] [values.SETTING=x,y] [key=...]
       python -m benchmarks.tune_grid keep NAME [PART ...]
       python -m benchmarks.tune_grid keep-lines NAME VARIANT FILE
       python -m benchmarks.tune_grid replay [trials=20] [seeds=5] [NAME ...]

make measures the points as one ordinary run, results/grid-NAME; stop it whenever, the same line goes on. keep
writes what it found to benchmarks/grids/NAME.json. replay needs no engine: each search is told the grid's
figure of the point it asks for, and its loss is how far the best it saw lies below the grid's best.

The figure is output tokens per second of the engine's own CPU time in the timed part: on a machine that
others use too, the clock says how busy they were, CPU time what the settings cost. It has noise, so the
grid's best is partly luck: `noise` is the spread between restarts of one point.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from harness import bench, claim, compare, store
from harness import recipe as recipes
from harness.host.machine import probe
from harness.label import point
from harness.label.point import Point, Setting
from harness.progress import Progress
from harness.run import visits
from harness.schema import Noun, Row, Spent, Trial, TrialResult
from harness.tune import campaign, outcomes
from harness.tune.campaign import Campaign
from harness.tune.effects import Tried
from harness.tune.strategy import Search

FOLDER = Path(__file__).parent / "grids"
CLOSE = 0.05
"""Loss within which a search counts as having found the best."""


class Metered(Progress):
    """Keeps, beside each trial, the CPU seconds that the processes below this one took from begin to end."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run
        self.begun_s = 0.0

    def trial_begin(self, trial: Trial, total: int) -> None:
        """Just before the timed part."""
        super().trial_begin(trial, total)
        self.begun_s = _below_s()

    def trial_end(self, result: TrialResult) -> None:
        """The engine still runs."""
        if result.status == "done":
            cpu = Spent(seconds=_below_s() - self.begun_s)
            store.write(store.trial_folder(self.run, result.trial) / "cpu.json", cpu)
        super().trial_end(result)


def _below_s() -> float:
    """CPU seconds of all living processes below this one."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


class GridPoint(Noun):
    """One point: what it gave, or why it gave nothing."""

    point: dict[str, str]
    value: float | None
    why: str = ""
    verdict: str = ""
    spent_s: float = 0.0


class Grid(Noun):
    """benchmarks/grids/NAME.json."""

    variant: str
    scenario: str
    run: str
    host: str
    settings: dict[str, tuple[str, ...]]
    default: dict[str, str]
    noise: float
    """Standard deviation between restarts of one point, as a share; 0 = none was repeated."""
    points: tuple[GridPoint, ...]

    @property
    def best(self) -> float:
        """The largest figure that counts."""
        return max(one.value or 0.0 for one in self.points)


class Asked(Noun):
    """asked.json of a grid's run."""

    campaign: Campaign
    values: dict[str, tuple[str, ...]]


def make(name: str, given: Sequence[str]) -> None:
    """Measure all points of the grid that are not measured yet; restarts=2 measures each twice."""
    words = recipes.Words(given)
    restarts = int(words.take("restarts", "1"))
    values = {
        key[7:]: tuple(words.take(key).split(",")) for key in list(words.pairs) if key.startswith("values.")
    }
    rest = [*words.plain, *(f"{key}={value}" for key, value in words.pairs.items()), "budget_s=1"]
    asked = Asked(campaign=campaign.from_words(rest), values=values)
    run = store.run_folder(f"grid-{name}")
    base = asked.campaign.bases[0]
    points = [campaign.named(asked.campaign, base, each) for each in _points(asked)]
    recipe = campaign.stage(asked.campaign, "shortlist", points)
    recipe = msgspec.structs.replace(recipe, options=msgspec.structs.replace(recipe.options, tuning=""))
    with Metered(run) as progress, claim.alone(run, progress.note):
        store.write(run / "asked.json", asked)
        bench.bench(recipe, probe(), run, progress, lambda planned: visits(planned, range(1, restarts + 1)))


def _points(asked: Asked) -> list[Point]:
    settings = _settings(asked)
    return [dict(zip(settings, words, strict=True)) for words in itertools.product(*settings.values())]


def _settings(asked: Asked) -> dict[str, tuple[str, ...]]:
    space = campaign.space_of(asked.campaign, asked.campaign.bases[0])
    return {key: asked.values.get(key, setting.words) for key, setting in space.items()}


def keep(name: str, runs: Sequence[str]) -> Path:
    """The grid as a small file: of results/grid-NAME, or of several runs that hold a part of it each."""
    parts = [_part(f"grid-{run}") for run in runs or (name,)]
    first = parts[0]
    settings = {
        key: tuple(dict.fromkeys(word for part in parts for word in part.settings[key]))
        for key in first.settings
    }
    figures = [part.noise for part in parts if part.noise]
    grid = msgspec.structs.replace(
        first,
        run=", ".join(part.run for part in parts),
        settings=settings,
        noise=round(math.sqrt(statistics.fmean(x * x for x in figures)), 4) if figures else 0.0,
        points=tuple(point for part in parts for point in part.points),
    )
    FOLDER.mkdir(exist_ok=True)
    store.write(FOLDER / f"{name}.json", grid)
    return FOLDER / f"{name}.json"


def _part(run_id: str) -> Grid:
    run = store.find_run(run_id)
    asked = store.read(run / "asked.json", Asked)
    base = asked.campaign.bases[0]
    comparison = compare.compare(run)
    figures = {row.variant: _figures(run, row) for row in comparison.rows}
    verdicts = {row.variant: row.agreement.verdict for row in comparison.rows if row.agreement}
    return Grid(
        variant=base,
        scenario=asked.campaign.scenario,
        run=run.name,
        host=comparison.host,
        settings=_settings(asked),
        default=campaign.whole_point(asked.campaign, base, point.default(base)),
        noise=_noise(list(figures.values())),
        points=tuple(
            GridPoint(
                point=one.point,
                value=_rounded(figures.get(variant, [])),
                why=one.why,
                verdict=verdicts.get(variant, ""),
                spent_s=round(sum(_lives(run, variant)), 1),
            )
            for variant, one in outcomes.tried(asked.campaign, base, comparison).items()
        ),
    )


def keep_lines(name: str, variant: str, path: Path) -> Path:
    """The same of measurements outside the harness, a JSON object a line (benchmarks/llamacpp_grid.py)."""
    asked = campaign.from_words([variant, "60/60", "budget_s=1", "concurrency=8"])
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    by_point: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        by_point.setdefault(tuple(line["point"].values()), []).append(line)
    keys = tuple(lines[0]["point"])
    figures = {key: [line["value"] for line in found if "value" in line] for key, found in by_point.items()}
    grid = Grid(
        variant=variant,
        scenario=asked.scenario,
        run=path.name,
        host="",
        settings={key: tuple(dict.fromkeys(line["point"][key] for line in lines)) for key in keys},
        default=campaign.whole_point(asked, variant, point.default(variant)),
        noise=_noise(list(figures.values())),
        points=tuple(
            GridPoint(
                point=dict(zip(keys, words, strict=True)),
                value=_rounded(figures[words]),
                why=next((line["why"] for line in found if "why" in line), ""),
            )
            for words, found in sorted(by_point.items())
        ),
    )
    FOLDER.mkdir(exist_ok=True)
    store.write(FOLDER / f"{name}.json", grid)
    return FOLDER / f"{name}.json"


def _lives(run: Path, variant: str) -> list[float]:
    return [store.read(path, Spent).seconds for path in run.glob(f"{variant}/r*/spent.json")]


def _rounded(values: Sequence[float]) -> float | None:
    """Their geometric mean; None where nothing counted."""
    return float(f"{statistics.geometric_mean(values):.5g}") if values else None


def _figures(run: Path, row: Row) -> list[float]:
    """Output tokens per CPU second of each restart of a row that counts."""
    tokens = row.metrics.total_output_tokens if row.metrics and row.rankable else 0
    return [
        tokens / store.read(path, Spent).seconds
        for path in sorted(run.glob(f"{row.variant}/r*/*/cpu.json"))
        if tokens
    ]


def _noise(figures: Sequence[Sequence[float]]) -> float:
    """Pooled over the points that were measured more than once."""
    spreads = [statistics.variance([math.log(v) for v in each]) for each in figures if len(each) > 1]
    return round(math.sqrt(statistics.fmean(spreads)), 4) if spreads else 0.0


def losses(grid: Grid, trials: int, seeds: Sequence[int]) -> list[float]:
    """For each seed how far the best point that the search saw lies below the grid's best, as a share."""
    space = {key: Setting(values=words, flag=f"--{key}") for key, words in grid.settings.items()}
    truth = {tuple(one.point.items()): one for one in grid.points}
    found = []
    for seed in seeds:
        search, todo = Search(space, grid.default, seed, trials), [grid.default]
        while todo and len(search.tried) < trials:
            for asked in todo[: trials - len(search.tried)]:
                seen = truth.get(tuple((key, asked[key]) for key in grid.settings))
                search.tell(
                    Tried(asked, seen.value if seen else None, seen.why if seen else "not in the grid")
                )
            todo = search.ask(4)
        best = search.best()
        found.append(1 - (best.value or 0.0) / grid.best if best else 1.0)
    return found


def replay(names: Sequence[str], trials: int, num_seeds: int) -> None:
    """Print a line for each grid."""
    headers = ("grid", "points", "count", "trials", "median loss", f"worst of {num_seeds}")
    print(f"| {' | '.join(headers)} | within {CLOSE:.0%} | noise |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for path in sorted(FOLDER.glob("*.json")):
        if names and path.stem not in names:
            continue
        grid = store.read(path, Grid)
        found = losses(grid, trials, range(num_seeds))
        counted = sum(one.value is not None for one in grid.points)
        close = sum(loss <= CLOSE for loss in found)
        print(
            f"| {path.stem} | {len(grid.points)} | {counted} | {trials} | {statistics.median(found):.1%} | "
            f"{max(found):.1%} | {close} of {num_seeds} | {grid.noise:.1%} |"
        )


def main(given: Sequence[str]) -> None:
    """The command line."""
    verb, *rest = given or ["replay"]
    if verb == "make":
        make(rest[0], rest[1:])
    elif verb == "keep":
        print(keep(rest[0], rest[1:]))
    elif verb == "keep-lines":
        print(keep_lines(rest[0], rest[1], Path(rest[2])))
    else:
        words = recipes.Words(rest)
        replay(words.plain, int(words.take("trials", "20")), int(words.take("seeds", "5")))


if __name__ == "__main__":
    main(sys.argv[1:])
