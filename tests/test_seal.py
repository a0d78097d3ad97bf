"""What breaks a seal in the log is named. The run is a kept one; its log is cut out of the real one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.errors import InputError
from harness.extras import seal as extra
from harness.registry import ROOT
from harness.reporting import log, logbook
from harness.schema import Contrast, Environment, Interval, Options, Recipe, Row, TrialResult, WorkloadSpec
from harness.sealing import claims, closing, commitments, order, promise
from harness.sealing.nouns import ENGINE_FILES, SEAL_FILE, WEIGHTS_AFTER, EngineFiles, SealFile

NAME = "sealed"
HERE = ROOT / "tests" / "golden" / "sealed"
KEPT = HERE / "results" / NAME
TRIAL = "mock/r1/text-32-16@c4"


class Desk:
    """A copy of the run, and a log with its seal and entry after the entry of another run."""

    def __init__(self, folder: Path) -> None:
        self.results, self.log = folder / "results", folder / "LOG.md"
        self.run = self.results / NAME
        shutil.copytree(KEPT, self.run)
        self.earlier = next(log.about(HERE / "LOG.md", "earlier"))
        self.seal, self.entry = log.about(HERE / "LOG.md", NAME)
        self.write(self.earlier, self.seal, self.entry)

    def check(self) -> str:
        found = logbook.check(self.log, self.results)
        return "\n".join(line for line in found if not line.startswith("earlier: "))

    def write(self, *blocks: str) -> None:
        self.log.unlink(missing_ok=True)
        for block in blocks:
            log.append(self.log, block)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def recipe_changed(desk: Desk) -> None:
    edited(desk.run / "recipe.toml", "repeats = 3", "repeats = 2")


def weights_swapped(desk: Desk) -> None:
    path = desk.run / "environment.json"
    environment = store.read(path, Environment)
    weights = {**environment.weights, "tiny-moe/model.safetensors": "0" * 64}
    store.write(path, msgspec.structs.replace(environment, weights=weights))


def weights_swapped_while_it_ran(desk: Desk) -> None:
    path = desk.run / WEIGHTS_AFTER
    weights = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**weights, "tiny-moe/model.safetensors": "0" * 64}))


def engine_patched(desk: Desk) -> None:
    path = desk.run / "mock" / "r2" / ENGINE_FILES
    files = store.read(path, EngineFiles)
    store.write(path, msgspec.structs.replace(files, skipped="", changed=("mock/__init__.py",)))


def launched_otherwise(desk: Desk) -> None:
    edited(desk.run / "mock" / "r2" / "launch.json", '"OMP_NUM_THREADS": "1"', '"OMP_NUM_THREADS": "2"')


def environment_forged(desk: Desk) -> None:
    edited(desk.run / "environment.json", '"num_cpus": 2', '"num_cpus": 64')


def trial_deleted(desk: Desk) -> None:
    shutil.rmtree(desk.run / "mock" / "r3")


def restart_of_another_run(desk: Desk) -> None:
    other = ROOT / "results" / "20261121-030948-all" / "vllm-cpu" / "r1"
    source = next(path.parent for path in sorted(other.glob("*/trial.json")))
    target = desk.run / TRIAL
    mine = store.read(target / "trial.json", TrialResult)
    shutil.rmtree(target)
    shutil.copytree(source, target)
    theirs = store.read(target / "trial.json", TrialResult)
    store.write(target / "trial.json", msgspec.structs.replace(theirs, trial=mine.trial))


def restarts_reordered(desk: Desk) -> None:
    one, two = desk.run / "mock" / "r1", desk.run / "mock" / "r2"
    one.rename(desk.run / "aside")
    two.rename(one)
    (desk.run / "aside").rename(two)


def never_closed(desk: Desk) -> None:
    desk.write(desk.earlier, desk.seal)


def sealed_afterwards(desk: Desk) -> None:
    desk.write(desk.earlier, desk.entry, desk.seal)


def seal_taken_out(desk: Desk) -> None:
    desk.write(desk.earlier, desk.entry)


def failure_taken_out_of_the_log(desk: Desk) -> None:
    desk.write(desk.seal, desk.entry)


def old_seal_replayed(desk: Desk) -> None:
    log.append(desk.log, desk.seal.replace(f"seal of {NAME}", "seal of other", 1))


def run_until_lucky(desk: Desk) -> None:
    again = (
        desk.entry.replace(f"Z {NAME}\n", "Z luckier\n")
        .replace('"run_id":"sealed"', '"run_id":"luckier"')
        .replace('"seed":0', '"seed":5')
    )
    log.append(desk.log, again.replace('"seal":true', '"seal":false'))


def result_replaced(desk: Desk) -> None:
    facts = log.entries(desk.log)[-1].facts
    assert facts
    name, digest = next(iter(facts.kept.items()))
    log.append(desk.log, desk.entry.replace(f'"{name}":"{digest}"', f'"{name}":"{"0" * 64}"'))


ATTEMPTS: dict[str, tuple[Callable[[Desk], None], str]] = {
    "the recipe is changed afterwards": (recipe_changed, "recipe is not the one that was sealed (repeats)"),
    "weights are swapped": (
        weights_swapped,
        "weights tiny-moe/model.safetensors: sealed 74f8ec39d1eafe73, now 0000",
    ),
    "weights are swapped during the run": (weights_swapped_while_it_ran, "when the last engine had stopped"),
    "an engine file is patched": (engine_patched, "mock/r2: the installed engine is not the one"),
    "the engine is launched otherwise": (
        launched_otherwise,
        "mock/r2: the engine was launched otherwise",
    ),
    "the environment is forged": (environment_forged, "its results changed since they were logged"),
    "a failed trial is deleted": (trial_deleted, "mock/r3/text-32-16@c4 was sealed and has no result"),
    "a restart of another run is put in": (
        restart_of_another_run,
        "its requests are not those that were sealed",
    ),
    "restarts are reordered": (restarts_reordered, "its trial.json is of mock restart 2"),
    "the seal is never closed": (never_closed, "was sealed and never closed"),
    "the seal comes after the result": (sealed_afterwards, "was logged before it was sealed"),
    "the seal is taken out": (seal_taken_out, "says that it was sealed, and the log has no seal of it"),
    "an earlier entry is taken out": (failure_taken_out_of_the_log, "were removed, changed or put in later"),
    "an old seal is used again": (old_seal_replayed, f"its seal is that of {NAME}"),
    "the run is repeated until it is lucky": (run_until_lucky, "was measured 2 times"),
    "a result is replaced and logged again": (result_replaced, "was replaced after it was first logged"),
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_an_attempt_on_a_sealed_run_is_named(what: str, desk: Desk) -> None:
    attempt, named = ATTEMPTS[what]
    assert desk.check() == ""
    attempt(desk)
    assert named in desk.check()


def test_notes_and_words_between_the_entries_break_no_seal(desk: Desk) -> None:
    logbook.note(desk.log, NAME, "the fan was loud")
    text = desk.log.read_text()
    desk.log.write_text(text.replace("### Notes\n", "### Notes\n\nWritten by hand.\n", 1))
    assert desk.check() == ""


def test_what_a_client_process_left_behind_is_no_evidence(desk: Desk) -> None:
    left = desk.run / ".shares-x" / "share-0.jsonl"
    left.parent.mkdir()
    left.write_text("{}")
    assert desk.check() == ""


def test_an_end_without_results_is_said_in_the_log_and_closes_the_seal(desk: Desk) -> None:
    desk.write(desk.earlier, desk.seal)
    note = f"Sealed run {NAME} was not finished: the disk is full"
    log.append(desk.log, log.note_text("2026-11-27T00:00:00Z", "somebody", note, NAME))
    assert "never closed" not in desk.check()


def test_a_run_that_was_measured_before_is_not_sealed_afterwards(desk: Desk) -> None:
    (desk.run / SEAL_FILE).unlink()
    with pytest.raises(InputError, match="measured before it was sealed"):
        promise.seal(desk.log, store.read_recipe(desk.run), desk.run, ())


def test_a_broken_seal_stops_a_resumed_run(desk: Desk) -> None:
    recipe_changed(desk)
    with pytest.raises(InputError, match="cannot go on under its seal"):
        extra._hold(desk.run, store.read(desk.run / SEAL_FILE, SealFile).seal)


def test_an_entry_says_what_is_missing(desk: Desk) -> None:
    trial_deleted(desk)
    comparison = store.read(desk.run / "comparison.json", closing.Comparison)
    closed = closing.closing(desk.run, comparison)
    assert closed and closed.lines[0].startswith("not finished: 5 done; without a result: mock/r3/")


@pytest.mark.parametrize(
    ("low", "high", "p", "words"),
    [
        (1.10, 1.20, 0.001, "differs by more than 5%"),
        (0.70, 0.80, 0.001, "differs by more than 5%"),
        (0.98, 1.02, 0.5, "no difference of 5%"),
        (1.01, 1.20, 0.001, "neither shown nor excluded"),
        (1.10, 1.20, 0.2, "neither shown nor excluded"),
    ],
)
def test_a_hypothesis_is_told_by_its_interval_and_the_smallest_difference(
    low: float, high: float, p: float, words: str
) -> None:
    ratio = Interval(mean=(low + high) / 2, low=low, high=high, num=3)
    told = closing.outcome(Contrast(scenario="s", baseline="a", variant="b", ratio=ratio, p_value=p), 0.05)
    assert words in told


def test_another_seed_or_name_asks_the_same_question_and_another_load_does_not() -> None:
    work = WorkloadSpec(name="random_tokens", params={"input_len": 8, "output_len": 8})
    load = store.read_recipe(KEPT).loads[0]
    recipe = Recipe(question="q", variants=("a", "b"), workloads=(work,), loads=(load,))
    again = msgspec.structs.replace(
        recipe,
        question="another",
        variants=("b", "a"),
        seed=9,
        workloads=(msgspec.structs.replace(work, seed=4, num_prompts=9),),
        options=Options(seal=True),
    )
    other = msgspec.structs.replace(recipe, loads=(msgspec.structs.replace(load, max_concurrency=99),))
    assert commitments.matter(recipe) == commitments.matter(again) != commitments.matter(other)
    assert commitments.seeds(recipe, "salt") != commitments.seeds(again, "salt")
    assert commitments.public(again).workloads[0].seed == 0


def test_the_row_of_a_patched_engine_names_its_files() -> None:
    patched = EngineFiles(packages={"vllm 1": "aa"}, changed=tuple(f"vllm/{i}.py" for i in range(9)))
    assert "vllm/0.py (changed)" in patched.remark and "and 3 more" in patched.remark
    assert patched.sha256 != EngineFiles(packages={"vllm 1": "aa"}).sha256
    assert EngineFiles(skipped="why").sha256 == "" == EngineFiles().remark
    assert Row(variant="v", scenario="s", status="done").labels == ()


def test_trials_and_what_is_kept_are_read_off_the_run(desk: Desk) -> None:
    assert len(claims.trials(desk.run)) == 6
    assert len(claims.kept(desk.run)) == 12
    assert order.read(log.seals(desk.log)[0]) is not None
