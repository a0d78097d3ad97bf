"""results/<run_id>/ -> Comparison: everything is recomputed from stored records, no engine needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from harness import extras, registry, samples, store
from harness.correctness import affected, agreement, peers, task_accuracy
from harness.correctness.floors import JudgeSettings
from harness.correctness.promises import broken, cached
from harness.errors import StoreError
from harness.host import calibration
from harness.label import fairness, provenance, slots
from harness.numbers import energy, hosts, intervals, load_search, reuse, silences, strict, validity, verdicts
from harness.numbers.measured import Measured, calibrations, load, sampled
from harness.numbers.metrics import over_restarts
from harness.reporting import opinions
from harness.schema import (
    Agreement,
    Comparison,
    Difference,
    Effective,
    Environment,
    Interval,
    Launch,
    Noun,
    Opinion,
    Recipe,
    RequestRecord,
    Reuse,
    Row,
    SecondOpinion,
    TrialResult,
)

N = TypeVar("N", bound=Noun)

_OF_OLD = (
    "sharegpt-sample: 18 short dialogues of this project's own writing, called sharegpt when this was "
    "measured; ShareGPT itself needs its file (w.path=)"
)


def compare(run: Path, baseline: str = "") -> Comparison:
    """The comparison of one run. Bad files cost their row, with a note; the good rows stay.

    `baseline`: the variant that ratios are against, instead of the recipe's.
    """
    recipe = store.read_recipe(run)
    notes: list[str] = []
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for path in sorted(run.glob("*/r*/*/trial.json")):
        try:
            measured = load(path.parent, recipe)
        except StoreError as error:
            notes.append(error.message)
            continue
        trial = measured.result.trial
        groups[(trial.variant, trial.scenario)].append(measured)
    said, searches = _opinions(groups, notes), _searches(groups, notes)
    rates = _rates(searches)
    judged = [_row(key, groups, recipe, rates) for key in _ordered(groups, recipe)]
    rows = peers.compared(judged, _precisions(groups))
    found = samples.samples(groups, rows, recipe, rates)
    return Comparison(
        run_id=run.name,
        host=_host(run),
        question=recipe.question,
        rows=rows,
        contrasts=verdicts.contrasts(found, baseline or recipe.baseline or _baseline(recipe, rows)),
        differences=_differences(groups),
        opinions=said,
        limits=tuple(
            load_search.limit(key, list(found.values()), recipe) for key, found in searches.items() if found
        ),
        ran=provenance.ran(run),
        labels=provenance.labels(run),
        notes=(
            *(line for hook in extras.offered("remarks", recipe.options) for line in hook(run, recipe, rows)),
            *notes,
            *([_OF_OLD] if any(spec.of_old for spec in recipe.workloads) else []),
            *calibration.drift(calibrations(run)),
            *_host_bound(rows, groups),
            *slots.remarks(rows, _launches(groups), recipe.options.tuning),
            *samples.sampling_costs(groups, recipe),
            *task_accuracy.remarks(run, recipe.baseline or recipe.variants[0]),
        ),
    )


def _launches(groups: dict[tuple[str, str], list[Measured]]) -> dict[str, Launch]:
    """The first launch of each variant."""
    return {v: t.launch for (v, _), trials in groups.items() for t in reversed(trials) if t.launch}


def _host_bound(rows: Iterable[Row], groups: dict[tuple[str, str], list[Measured]]) -> Iterator[str]:
    for row in rows:
        offered = groups[row.variant, row.scenario][0].result.trial.load
        if said := energy.host_bound(row.energy, offered):
            yield f"{row.variant} at {row.scenario}: {said}"


def _searches(
    groups: dict[tuple[str, str], list[Measured]], notes: list[str]
) -> dict[tuple[str, str], dict[int, load_search.SearchResult]]:
    """What searches for the largest rate within the SLO found, by restart."""
    return {
        key: {
            trial.result.trial.restart: result
            for trial in trials
            if (trial.folder / "search.json").exists()
            for result in _stored(trial.folder / "search.json", load_search.SearchResult, notes)
        }
        for key, trials in groups.items()
    }


def _rates(
    searches: dict[tuple[str, str], dict[int, load_search.SearchResult]],
) -> dict[tuple[str, str], dict[int, float]]:
    return {key: {restart: one.rate for restart, one in found.items()} for key, found in searches.items()}


def _opinions(groups: dict[tuple[str, str], list[Measured]], notes: list[str]) -> tuple[SecondOpinion, ...]:
    """What other tools said after our trials."""
    return tuple(
        opinions.beside(opinion, trial.metrics, trial.result.trial)
        for trials in groups.values()
        for trial in trials
        for path in sorted((trial.folder / "opinions").glob("*.json"))
        for opinion in _stored(path, Opinion, notes)
    )


def _stored(path: Path, kind: type[N], notes: list[str]) -> tuple[N, ...]:
    """The noun of a file; () and a note where it cannot be read."""
    try:
        return (store.read(path, kind),)
    except StoreError as error:
        notes.append(error.message)
        return ()


def without_records(run: Path) -> Comparison | None:
    """The stored comparison of a run kept without its request records; None for a run that has them.

    Raises StoreError when such a run has no comparison.json either.
    """
    kept = [p.parent for p in run.glob("*/r*/*/trial.json") if store.read(p, TrialResult).status == "done"]
    if not kept or any(store.present(folder / "requests.jsonl") for folder in kept):
        return None
    stored = store.read(run / "comparison.json", Comparison)
    note = (
        f"{run.name} is kept without requests.jsonl: this is the comparison as it was stored, not recomputed"
    )
    return msgspec.structs.replace(stored, ran=provenance.ran(run), notes=(note, *stored.notes))


def _ordered(groups: Iterable[tuple[str, str]], recipe: Recipe) -> list[tuple[str, str]]:
    """By scenario as the recipe lists them, then by variant as the recipe lists them."""
    rank = {name: i for i, name in enumerate(recipe.scenarios)}
    order = {name: i for i, name in enumerate(recipe.variants)}
    return sorted(groups, key=lambda k: (rank.get(k[1], len(rank)), order.get(k[0], len(order)), k))


def _row(
    key: tuple[str, str],
    groups: dict[tuple[str, str], list[Measured]],
    recipe: Recipe,
    rates: samples.Rates,
) -> Row:
    variant, scenario = key
    trials = groups[key]
    done = [t for t in trials if t.result.status == "done" and t.metrics]
    launch = next((t.launch for t in trials if t.launch), None)
    last = trials[-1]
    row = Row(
        variant=variant,
        scenario=scenario,
        status=last.result.status,
        reason=last.result.reason,
        num_gpus=launch.num_gpus if launch else 0,
        metrics=last.metrics,
        labels=launch.labels if launch else (),
    )
    if not done:
        return row
    steady = scenario in samples.steady_scenarios(groups)
    by_rate = sorted(done, key=lambda t: samples.rate(t, steady))
    rate = intervals.interval([samples.rate(t, steady) for t in by_rate])
    median = by_rate[len(by_rate) // 2]
    row = msgspec.structs.replace(
        row,
        status="done",
        reason="",
        metrics=over_restarts([t.metrics for t in done if t.metrics], median.metrics),
        output_throughput=rate,
        plateau=steady if samples.closed(last.result.trial.load) else None,
        ranked_by=samples.ranked_by(row, done, recipe, rates),
        tails=samples.row_tails(done, recipe),
        within=samples.within(done, recipe),
        silences=silences.silences(median.table) if median.table else None,
        energy=median.energy,
        cost_per_million_tokens=_cost(recipe, launch, rate),
        agreement=_with_populations(_agreement(done, groups, recipe), done, recipe),
        reuse=(told := _reuse(done)),
        attested=all(t.attestation and t.attestation.valid for t in done),
        invalid=_invalid(done),
        notes=(*_notes(trials), *([told.doubt] if told and told.doubt else ())),
    )
    strictly = strict.reasons(row, recipe.slo) if recipe.options.strict else ""
    return msgspec.structs.replace(row, invalid="; ".join(filter(None, (row.invalid, strictly))))


def _reuse(done: list[Measured]) -> Reuse | None:
    return reuse.reuse([t.result for t in done], validity.ideal_hit_share(done[0].result))


def _notes(trials: list[Measured]) -> tuple[str, ...]:
    """Of all restarts, each once; then why some failed."""
    points = {id(t): t.conformance.points if t.conformance else () for t in trials}
    found = (n for t in trials for n in (*t.result.notes, *t.notes, *broken(points[id(t)])))
    failed = (t.result.reason for t in trials if t.result.status == "failed")
    return (*dict.fromkeys(found), *failed)


def _cost(recipe: Recipe, launch: Launch | None, rate: Interval) -> float | None:
    """`price` in the recipe's options is per accelerator (per host where none is used) and hour."""
    price = recipe.options.price
    if price is None:
        return None
    return energy.cost_per_million_tokens(price, max(1, launch.num_gpus if launch else 1), rate.mean)


def _invalid(done: list[Measured]) -> str:
    reasons = [t.result.invalid for t in done if t.result.invalid]
    reasons += filter(None, (cached(t.conformance.points) for t in done if t.conformance))
    reasons += [
        f"label not proven: {t.attestation.reason}" for t in done if t.attestation and not t.attestation.valid
    ]
    return "; ".join(dict.fromkeys(reasons))


def _agreement(
    done: list[Measured], groups: dict[tuple[str, str], list[Measured]], recipe: Recipe
) -> Agreement | None:
    """The verdict over all restarts. The floor is the reference's own timed output at the same load."""
    scores = [s for t in done for s in t.scores]
    records = [r for t in done for r in t.records]
    if not scores:
        settings = JudgeSettings(usual=_usual(done, groups, ""))
        return agreement.judge((), records, settings=settings) if records else None
    trial = done[0].result.trial
    # Held against itself, the reference could not fail: it gets its dtype's default floor.
    floor_name = scores[0].reference if scores[0].reference != trial.variant else ""
    floor = groups.get((floor_name, trial.scenario), [])
    settings = JudgeSettings(
        dtype=_dtype(done),
        reference_dtype=_dtype(floor) or _intended_dtype(scores[0].reference),
        seed=recipe.seed,
        eight_bit=_eight_bit(done),
        expected_len=_expected_len(done[0]),
        usual=_usual(done, groups, scores[0].reference),
    )
    own = [s for t in floor for s in t.scores] or None
    healthy = [r for t in floor for r in t.records]
    return agreement.judge(scores, records, own, settings, healthy)


def _with_populations(found: Agreement | None, done: list[Measured], recipe: Recipe) -> Agreement | None:
    """The verdict beside those on the tokens that a cache or a draft had a hand in."""
    if found is None or not any(t.scores for t in done):
        return found
    outputs = [one for t in done for one in affected.outputs(t.scores, t.records, affected.turns(sampled(t)))]
    settings = JudgeSettings(dtype=_dtype(done), seed=recipe.seed, eight_bit=_eight_bit(done))
    shown = [t.attestation.effective.speculative for t in done if t.attestation]
    drafting = any(method not in (None, "none") for method in shown)
    return affected.joined(found, affected.populations(outputs, settings, drafting=drafting))


def _usual(
    done: list[Measured], groups: dict[tuple[str, str], list[Measured]], reference: str
) -> tuple[RequestRecord, ...]:
    """Whose text shows what is usual here: the reference's; where it was not timed, the others'."""
    trial = done[0].result.trial
    there = {variant: found for (variant, scenario), found in groups.items() if scenario == trial.scenario}
    chosen = [reference] if reference in there else [name for name in there if name != trial.variant]
    return tuple(record for name in chosen for one in there[name] for record in one.records)


def _intended_dtype(variant: str) -> str:
    """What a variant claims to compute in; "" when it does not say."""
    known = registry.known_variant(variant)
    dtype = str((known and known.expect.get("dtype")) or "")
    return "tensorfloat32" if known and known.accelerator != "cpu" and dtype == "float32" else dtype


def _expected_len(trial: Measured) -> dict[str, int]:
    """Request id -> tokens that had to come, of the verified sample's requests that ignore the end token."""
    return {r.request_id: r.max_tokens for r in sampled(trial) if r.ignore_eos}


def _dtype(trials: list[Measured]) -> str:
    """What healthy noise depends on: the effective dtype; "tensorfloat32" for float32 on an accelerator."""
    shown = [t.attestation.effective for t in trials if t.attestation and t.attestation.effective.dtype]
    if not shown:
        return ""
    on_cpu = shown[0].device in (None, "cpu")
    return str(shown[0].dtype) if on_cpu or shown[0].dtype != "float32" else "tensorfloat32"


def _precisions(groups: dict[tuple[str, str], list[Measured]]) -> dict[str, str]:
    """Variant -> what it attests of dtype, weights, keys and values; without those that attest no dtype."""
    shown = {v: t.attestation.effective for (v, _), done in groups.items() for t in done if t.attestation}
    return {v: f"{e.dtype} {e.quantization} {e.kv_cache_dtype}" for v, e in shown.items() if e.dtype}


def _eight_bit(trials: list[Measured]) -> bool:
    """Whether 8-bit keys and values or weights are attested: their rounding is no fault, and wider."""
    shown = [t.attestation.effective for t in trials if t.attestation]
    return any("8" in f"{e.kv_cache_dtype or ''} {e.quantization or ''}" for e in shown)


def _baseline(recipe: Recipe, rows: tuple[Row, ...]) -> str:
    """The first variant of the recipe that has a ranked row."""
    have = {row.variant for row in rows if row.rankable}
    return next((v for v in recipe.variants if v in have), "")


def _differences(groups: dict[tuple[str, str], list[Measured]]) -> tuple[Difference, ...]:
    effectives: dict[str, Effective] = {}
    reasons: dict[str, dict[str, str]] = {}
    for (variant, _), trials in groups.items():
        attested = next((t.attestation for t in trials if t.attestation), None)
        if attested:
            effectives[variant] = attested.effective
            known = registry.known_variant(variant)
            reasons[variant] = known.reasons if known else {}
    return fairness.differences(effectives, reasons)


def comparable(runs: list[Path]) -> tuple[list[Path], list[str]]:
    """The runs that may stand in one comparison, and a sentence for each that is left out.

    That is a run named twice, another folder of the same run id, and runs of another model than the first.
    """
    kept: list[Path] = []
    left_out: list[str] = []
    for run in runs:
        if run.resolve() in [k.resolve() for k in kept]:
            left_out.append(f"{run.name} was named twice; it is shown once")
        elif run.name in [k.name for k in kept]:
            left_out.append(f"{run} has the run id of another folder and is left out; rename one of them")
        elif kept and _model(kept[0]) and _model(run) and _model(run) != _model(kept[0]):
            left_out.append(
                f"{run.name} is left out: it ran {_model(run)}, {kept[0].name} ran {_model(kept[0])}, and "
                "speeds of different models do not compare"
            )
        else:
            kept.append(run)
    return kept, left_out


def _host(run: Path) -> str:
    """Hash of the name of the host it ran on; "" where its environment cannot be read."""
    try:
        return store.read(run / "environment.json", Environment).hostname_hash
    except StoreError:
        return ""


def _model(run: Path) -> str:
    """The served name of its first launch; "" when nothing was launched."""
    launches = sorted(run.glob("*/r*/launch.json"))
    return store.read(launches[0], Launch).served_model_name if launches else ""


def merged(comparisons: list[Comparison]) -> Comparison:
    """Several runs side by side: each row carries its run id as a label.

    What several hosts were asked alike is combined over them; runs of one host are not.
    """
    rows = tuple(
        msgspec.structs.replace(row, labels=(*row.labels, c.run_id)) for c in comparisons for row in c.rows
    )
    return Comparison(
        run_id=", ".join(c.run_id for c in comparisons),
        question=" / ".join(dict.fromkeys(c.question for c in comparisons)),
        rows=rows,
        contrasts=hosts.combined(comparisons),
        opinions=tuple(o for c in comparisons for o in c.opinions),
        limits=tuple(one for c in comparisons for one in c.limits),
        ran=tuple(dict.fromkeys(one for c in comparisons for one in c.ran)),
        notes=tuple(n for c in comparisons for n in c.notes),
    )
