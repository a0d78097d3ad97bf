"""After the timed parts: the reference scores the very tokens that were timed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec

from harness import models, registry, server, store
from harness.correctness import (
    affected,
    agreement,
    floors,
    foreign_reference,
    replay,
    retokenise,
    tokenizer_identity,
)
from harness.correctness.replay import Part, ReplayOptions, Sample
from harness.errors import HarnessError
from harness.planned import Planned, launching
from harness.progress import Progress
from harness.schema import (
    Arithmetic,
    Attestation,
    Effective,
    Launch,
    Model,
    Request,
    Sampler,
    Score,
    TrialResult,
)
from harness.tokens import Vocabulary

PROMPT_TOKENS = 4096
"""Of a trial, what a reference on a CPU reads before it has seen enough."""
PLAYED_REQUESTS, PLAYED_OUTPUT = 8, 800
"""Requests and output tokens of a trial on which the engine's precision and named faults are played."""
FP8 = ("fp8", "fp8_e4m3", "float8_e4m3fn")
"""What engines call keys and values in e4m3."""
ENOUGH_OUTPUT = 300
"""Output tokens, half as many again as a verdict needs."""


def replay_run(run: Path, oracle: Planned | None, progress: Progress) -> None:
    """Score every finished trial that has no scores yet. A reference that fails is recorded as the reason."""
    samples = _waiting(run)
    if oracle is None or not samples:
        return
    name = oracle.variant.name
    if oracle.skip:
        progress.note(f"reference {name} cannot run: {oracle.skip}")
        _keep_unscored(samples, f"the reference {name} cannot run here: {oracle.skip}", name)
        return
    try:
        _replay(run, oracle, samples, progress)
    except HarnessError as error:
        progress.note(f"reference {name}: {error.message}")
        left = {f: s for f, s in samples.items() if not store.present(f / "scores.jsonl")}
        _keep_unscored(left, f"the reference {name} failed: {error.message}", name)


def replay_through(run: Path, oracle: Planned | None, progress: Progress, running: server.Running) -> None:
    """The same through a server of the run's own that was launched just as the reference would be.

    After its timed parts: it need not be started again. Nothing where it is another or has ended; what it
    cannot score is left to replay_run().
    """
    if oracle is None or running.dead() or not oracle.own_server:
        return
    if launching(oracle, running.launch.port, running.log_path.parent).launch != running.launch:
        return
    samples = _same_tokenizer(_waiting(run), oracle, progress)
    try:
        _score_all(samples, oracle, running.launch, progress)
    except HarnessError as error:
        progress.note(f"reference {oracle.variant.name}: {error.message}")


def _waiting(run: Path) -> dict[Path, list[Sample]]:
    """The samples of trials without scores."""
    folders = [f for f in trial_folders(run) if not store.present(f / "scores.jsonl")]
    return {f: s for f in folders if (s := samples_of(run, f))}


def _replay(run: Path, oracle: Planned, samples: dict[Path, list[Sample]], progress: Progress) -> None:
    folder = run / "reference"
    chosen = launching(oracle, server.port_for(oracle.launch), folder)
    folder.mkdir(exist_ok=True)
    samples = _same_tokenizer(samples, chosen, progress)
    if not samples:
        return
    with server.serving(chosen.launch, folder / "server.log", run.name, progress.stage):
        _score_all(samples, chosen, chosen.launch, progress)


def _score_all(
    samples: dict[Path, list[Sample]], oracle: Planned, launch: Launch, progress: Progress
) -> None:
    """scores.jsonl of each trial, from the reference that answers at `launch`."""
    engine = registry.engine(oracle.variant.engine)
    at_once = getattr(engine, "SCORES_AT_ONCE", replay.CONCURRENCY)
    options = ReplayOptions(
        reference=oracle.variant.name, concurrency=at_once, api_key_env=launch.api_key_env
    )
    shares = getattr(engine, "SHARES_PROMPTS", False)
    rounds = _by_scenario(samples) if shares else [[trial] for trial in samples]
    affordable = cheap if oracle.variant.accelerator == "cpu" else list

    def ask(chosen: dict[Path, list[Sample]]) -> dict[Path, list[Score]]:
        pairs = [(trial, sample) for trial, its in chosen.items() for sample in its]
        # Outputs that followed the same prompt come one after the other: it is read once.
        pairs.sort(key=lambda pair: pair[1].prompt_token_ids)
        asked = [sample for _, sample in pairs]
        scores = _scores(oracle, launch, asked, options)
        by_id = {(trial, s.request_id): s for (trial, _), s in zip(pairs, scores, strict=True)}
        return {trial: [by_id[trial, s.request_id] for s in its] for trial, its in chosen.items()}

    for number, trials in enumerate(rounds, start=1):
        variants = ", ".join(dict.fromkeys(t.parent.parent.name for t in trials))
        progress.stage(f"replay {number}/{len(rounds)}: {variants} {trials[0].name}")
        scores = ask({trial: affordable(samples[trial]) for trial in trials})
        left = {t: samples[t][len(s) :] for t, s in scores.items() if _undecided(s)}
        more = ask({trial: rest for trial, rest in left.items() if rest})
        for trial in trials:
            keep(trial, [*scores[trial], *more.get(trial, ())])


def _undecided(scores: list[Score]) -> bool:
    """Whether more tokens could decide: those at hand were too few, or beyond a limit by what may be luck."""
    return not any(s.error for s in scores) and agreement.judge(scores, ()).verdict == "CANNOT TELL"


def _scores(oracle: Planned, launch: Launch, asked: list[Sample], options: ReplayOptions) -> list[Score]:
    """By the engine's own dialect; of an endpoint that nothing is known of, by the best that it answers."""
    engine, model = registry.engine(oracle.variant.engine), launch.served_model_name
    if hasattr(engine, "SCORING") or hasattr(engine, "scoring"):
        return replay.score(launch.base_url, engine, model, asked, options)
    vocabulary = Vocabulary(oracle.tokenizer)
    return foreign_reference.score(launch.base_url, model, asked, options, vocabulary)


def _by_scenario(trials: Iterable[Path]) -> list[list[Path]]:
    """Trials of one scenario together: their prompts are the same."""
    ordered = sorted(trials, key=lambda t: t.name)
    return [list(group) for _, group in groupby(ordered, key=lambda t: t.name)]


def cheap(samples: list[Sample]) -> list[Sample]:
    """The first of a sample, in the workload's order: all, unless its prompts are long for a CPU to read.

    At least MIN_REQUESTS, and ENOUGH_OUTPUT tokens of output where PROMPT_TOKENS twice over allow it.
    """
    prompt_len = output_len = 0
    for number, sample in enumerate(samples):
        enough = PROMPT_TOKENS if output_len >= ENOUGH_OUTPUT else 2 * PROMPT_TOKENS
        if number >= floors.MIN_REQUESTS and prompt_len >= enough:
            return samples[:number]
        prompt_len += len(sample.prompt_token_ids)
        output_len += len(sample.output_token_ids)
    return samples


def _same_tokenizer(
    samples: dict[Path, list[Sample]], oracle: Planned, progress: Progress
) -> dict[Path, list[Sample]]:
    """The trials whose ids mean the same to the reference; the others are recorded as refused, and named."""
    same = {}
    for trial, chosen in samples.items():
        variant = trial.parent.parent.name
        refused = tokenizer_identity.difference(model_of(trial.parent), oracle.model)
        if refused:
            cause = f"{oracle.variant.name} cannot judge {variant}: {refused}"
            keep(trial, replay.unscored(chosen, cause, oracle.variant.name))
            progress.note(cause)
        else:
            same[trial] = chosen
    return same


def keep(trial: Path, scores: list[Score]) -> None:
    """Write scores.jsonl."""
    with store.RecordWriter(trial / "scores.jsonl") as write:
        for score in scores:
            write(score)


def _keep_unscored(samples: dict[Path, list[Sample]], cause: str, reference: str) -> None:
    for trial, chosen in samples.items():
        keep(trial, replay.unscored(chosen, cause, reference))


def trial_folders(run: Path) -> list[Path]:
    """Folders of the trials that have records, in name order."""
    return sorted({p.parent for p in run.glob("*/r*/*/requests.jsonl*")})


def samples_of(run: Path, folder: Path) -> list[Sample]:
    """The verified sample of one trial: its stored prompts joined with the recorded output ids."""
    result_path = folder / "trial.json"
    if not result_path.exists():
        return []
    trial = store.read(result_path, TrialResult).trial
    path = store.sample_path(run, folder.name)
    if not store.present(path):
        return []
    prompts = {r.request_id: r for r in store.read_lines(path, Request)}
    model = model_of(folder.parent)
    vocabulary = Vocabulary(model.path or model.tokenizer)
    records = {r.request_id: r for r in store.records(folder) if r.request_id in prompts and not r.error}
    said = affected.conversations(tuple(prompts.values()), records)
    samples = [
        retokenise.sample(said[request_id], record, vocabulary) for request_id, record in records.items()
    ]
    # Records lie in the order in which they ended, which differs between restarts.
    order = {request_id: number for number, request_id in enumerate(prompts)}
    samples.sort(key=lambda s: order[s.request_id])
    if trial.workload.sampling:
        engine = store.read(folder.parent / "launch.json", Launch).engine
        samples = replay.drawn(samples, registry.fact(engine, "SAMPLER", Sampler()))
    return playing(samples, part_of(folder.parent))


def playing(samples: list[Sample], part: Part | None) -> list[Sample]:
    """The first of them with the engine's precision to be played, until that says enough."""
    output_len, asked = 0, []
    for number, sample in enumerate(samples):
        more = number < PLAYED_REQUESTS or output_len < PLAYED_OUTPUT
        asked.append(msgspec.structs.replace(sample, part=part if more else None))
        output_len += len(sample.output_token_ids)
    return asked


def part_of(visit: Path) -> Part | None:
    """The precision that an engine attests; None where that is the reference's own, or cannot be played."""
    path = visit / "attestation.json"
    shown = store.read(path, Attestation).effective if path.exists() else Effective()
    if shown.dtype not in ("bfloat16", "float16") or shown.quantization not in (None, "none"):
        return None
    engine = store.read(visit / "launch.json", Launch).engine
    arithmetic = registry.fact(engine, "arithmetic", lambda _: Arithmetic())(shown)
    kept = shown.kv_cache_dtype or ""
    if arithmetic.products or kept in ("", "auto", shown.dtype):
        return Part(dtype=shown.dtype, arithmetic=arithmetic)
    if kept in FP8:
        return Part(dtype=shown.dtype, kv_cache_dtype="fp8_e4m3", arithmetic=arithmetic)
    return None


def model_of(visit: Path) -> Model:
    """The model of a server life; one without files here when its name resolves to none."""
    launch = store.read(visit / "launch.json", Launch)
    name = launch.model or launch.served_model_name
    try:
        return models.resolve(name)
    except HarnessError:
        return Model(alias=name)
