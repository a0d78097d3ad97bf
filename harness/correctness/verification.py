"""After the timed parts: the reference scores the very tokens that were timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec

from harness import client, models, registry, server, store
from harness.client import acceptance
from harness.correctness import (
    affected,
    agreement,
    conformance,
    determinism,
    floors,
    foreign_reference,
    known_answers,
    promises,
    replay,
    response_cache,
    retokenise,
    tokenizer_identity,
)
from harness.correctness.replay import Part, ReplayOptions, Sample
from harness.errors import HarnessError, InputError, LaunchError
from harness.planned import Planned, launching
from harness.progress import Progress
from harness.schema import (
    Arithmetic,
    Attestation,
    Effective,
    Launch,
    Model,
    Recipe,
    Request,
    Sampler,
    Score,
    TrialResult,
)
from harness.tokens import Vocabulary

PREFLIGHT_S = 300.0
"""Longest the pre-flight may take in all, unless a single timed request may take longer."""
PROMPT_TOKENS = 4096
"""Of a trial, what a reference on a CPU reads before it has seen enough."""
PLAYED_REQUESTS, PLAYED_OUTPUT = 8, 800
"""Requests and output tokens of a trial on which the engine's precision and named faults are played."""
CONFORMANCE = "conformance.json"
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


def replay_through(run: Path, oracle: Planned | None, running: server.Running, progress: Progress) -> None:
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


def asked(recipe: Recipe) -> tuple[int, int]:
    """(requests per trial whose logprobs are asked for, alternatives per token). Raises InputError."""
    num = recipe.options.top_logprobs
    if not 0 <= num <= replay.MAX_TOP:
        raise InputError(
            f"top_logprobs={num} is not a number of alternatives; give 0 (none) to {replay.MAX_TOP}, "
            "the most that every engine grants."
        )
    return recipe.verify_requests, num


def keep(trial: Path, scores: list[Score]) -> None:
    """Write scores.jsonl."""
    with store.RecordWriter(trial / "scores.jsonl") as write:
        for score in scores:
            write(score)


def _keep_unscored(samples: dict[Path, list[Sample]], cause: str, reference: str) -> None:
    for trial, chosen in samples.items():
        keep(trial, replay.unscored(chosen, cause, reference))


def preflight(visit: Path, running: server.Running, planned: Planned, request_s: float) -> None:
    """Ask what the engine takes of a request, then write which promises of its API it keeps.

    Those it breaks become notes of its rows. What follows from command and version, which all lives of a
    variant have in common, is asked of the first; known answers of each. A server that somebody else runs is
    asked everything, and whether it answers from memory: what lies before its engine is not known.

    `request_s`: longest that a timed request may take. Raises LaunchError when not all is answered in time.
    """
    limit_s = max(PREFLIGHT_S, request_s)
    engine = registry.engine(running.launch.engine)
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        extras=dict(getattr(engine, "EXTRAS", {})),
        sampler=getattr(engine, "SAMPLER", Sampler()),
        api_key_env=running.launch.api_key_env,
        ends_at_s=time.monotonic() + limit_s,
    )
    running.accepted = acceptance.ask(target, planned.ways, planned.sampling)
    way = running.accepted.prompts
    target = acceptance.applied(target, running.accepted)
    others = (path for path in visit.parent.glob(f"r*/{CONFORMANCE}") if path.parent != visit)
    asked_before = planned.own_server and any(others)
    points = () if asked_before else conformance.preflight(target, way=way)
    if way == "ids":
        points = (*points, *known(target, model_of(visit)))
    if not planned.own_server:
        points = (*points, response_cache.ask(target, way))
    store.write(visit / CONFORMANCE, promises.Conformance(points=points))
    _in_time(running, target, limit_s)
    if asked_before:
        return
    prompts = determinism.prompts(determinism.NUM_IN_PREFLIGHT, way=way)
    passes = determinism.passes(target, prompts, (1, 1, len(prompts)))
    _in_time(running, target, limit_s)
    store.write(visit / promises.DETERMINISM, promises.Determinism(passes=passes))


def _in_time(running: server.Running, target: client.Target, limit_s: float) -> None:
    if time.monotonic() > target.ends_at_s:
        raise LaunchError(
            f"{running.launch.variant}: the pre-flight's small questions were not all answered within "
            f"{limit_s:g} s: it stalls, or trickles; mend it, or wait longer with timeout={2 * limit_s:g}."
        )


def known(target: client.Target, model: Model) -> tuple[promises.Point, ...]:
    """Whether it gives the answers that are known of this model; () where none are."""
    answers = known_answers.of(model)
    if not answers:
        return ()
    compared = [r for r in known_answers.ask(target, answers) if r.held is not None]
    if not compared:
        return ()
    wrong = [r for r in compared if not r.held]
    found = f"{len(wrong)} of {len(compared)} wrong"
    return (
        promises.Point(
            name=answers[0].prompt or "known greedy answers",
            held=not wrong,
            found=f"{found}, first: {wrong[0].found}" if wrong else found,
            consequence="this engine computes this model wrongly, or runs another one",
        ),
    )


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
