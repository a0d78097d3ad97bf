"""Verdicts again, from stored records and through other references, as a user asks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.client import Target
from harness.correctness import preflight, verification
from harness.correctness.known_answers import KnownAnswer
from harness.correctness.promises import Conformance
from harness.correctness.replay import Sample
from harness.correctness.retokenise import sample
from harness.correctness.tokenizer_identity import difference
from harness.registry import ROOT
from harness.schema import Comparison, Model, Request, RequestRecord, Score
from harness.tokens import Vocabulary
from tests.completions_server import Flaws, serving
from tests.test_run import Desk

RUN = "20260101-000000-verify"
TINY = ROOT / "models" / "tiny-moe"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run of a right and a wrong engine, judged by the right one."""
    desk = Desk(tmp_path_factory.mktemp("original"))
    done = desk.run(
        *("bench", "mock,mock-wrong", "32/40", "concurrency=2", "num_prompts=8", "repeats=1"),
        *("reference=mock", f"run_id={RUN}"),
    )
    assert done.returncode == 3, done.stderr
    return desk


@pytest.fixture
def finished(original: Desk, desk: Desk) -> Desk:
    """A copy of it that a test may change."""
    shutil.copytree(original.results, desk.results)
    return desk


def verdicts(desk: Desk) -> dict[str, str]:
    comparison = store.read(desk.results / RUN / "comparison.json", Comparison)
    return {r.variant: r.agreement.verdict if r.agreement else "none" for r in comparison.rows}


def test_verdicts_are_recomputed_from_stored_records(finished: Desk) -> None:
    (finished.results / RUN / "comparison.json").unlink()
    again = finished.run("verify", RUN)
    assert again.returncode == 3, again.stderr
    assert verdicts(finished) == {"mock": "PASS", "mock-wrong": "FAIL"}


def test_the_references_own_visit_scores_what_was_measured_before_it(desk: Desk) -> None:
    words = ("32/40", "concurrency=2", "num_prompts=8", "reference=mock", f"run_id={RUN}")
    done = desk.run("bench", "mock-wrong,mock", *words, "repeats=1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("starting mock\n") == 1
    assert not (desk.results / RUN / "reference").exists()
    assert verdicts(desk) == {"mock": "PASS", "mock-wrong": "FAIL"}


def test_another_reference_is_asked_and_the_old_scores_are_kept(finished: Desk) -> None:
    again = finished.run("verify", RUN, "--reference", "mock-slow")
    assert again.returncode == 3, again.stderr
    (folder,) = (finished.results / RUN / "mock" / "r1").glob("*@c2")
    assert next(store.read_lines(folder / "scores.jsonl", Score)).reference == "mock-slow"
    assert next(store.read_lines(folder / "scores.mock.jsonl", Score)).reference == "mock"


def test_a_reference_that_dies_half_way_leaves_cannot_tell_with_the_cause(finished: Desk) -> None:
    again = finished.run("verify", RUN, "--reference", "mock-dies")
    assert again.returncode == 4, again.stderr
    comparison = store.read(finished.results / RUN / "comparison.json", Comparison)
    reasons = [r.agreement.reason for r in comparison.rows if r.agreement]
    assert any("unreachable in mid-verification" in reason for reason in reasons)
    assert all(r.metrics and r.metrics.output_throughput > 0 for r in comparison.rows)


LOST = {
    "mock-dies": "unreachable in mid-verification",
    "mock-exits": "the reference mock-exits failed: mock-exits ended while starting",
    "mock-oom": 'reference answered HTTP 507: {"error": {"message": "CUDA out of memory"}}',
    "mock-silent": "returned prompt logprobs for 0 of 72 tokens: it does not support prompt_logprobs",
    "mock-other-tokenizer": "mock-other-tokenizer cannot judge mock: the tokenizers differ: tiny-moe has",
}


@pytest.mark.parametrize("reference", LOST)
def test_a_bench_keeps_its_throughput_when_the_reference_is_lost(desk: Desk, reference: str) -> None:
    words = ("32/40", "concurrency=2", "num_prompts=8", f"reference={reference}", f"run_id={RUN}")
    done = desk.run("bench", "mock", *words)
    assert done.returncode == 0, done.stderr
    (row,) = store.read(desk.results / RUN / "comparison.json", Comparison).rows
    assert row.agreement is not None and row.agreement.verdict == "CANNOT TELL"
    assert LOST[reference] in row.agreement.reason
    assert row.metrics is not None and row.metrics.output_throughput > 0
    assert LOST[reference] in (desk.results / RUN / "report.md").read_text().replace("\\", "")
    started = (desk.results / RUN / "reference" / "server.log").exists()
    assert started == (reference != "mock-other-tokenizer")


def test_a_reference_with_another_tokenizer_is_refused_by_name(finished: Desk) -> None:
    again = finished.run("verify", RUN, "--reference", "mock-other-tokenizer")
    assert again.returncode == 4, again.stderr
    assert "mock-other-tokenizer cannot judge mock-wrong: the tokenizers differ" in again.stderr
    assert set(verdicts(finished).values()) == {"CANNOT TELL"}


def test_top_logprobs_give_a_kl_against_the_reference(desk: Desk) -> None:
    words = ("32/40", "concurrency=2", "num_prompts=8", "reference=mock", f"run_id={RUN}")
    assert desk.run("bench", "mock,mock-wrong", *words, "top_logprobs=3", "repeats=2").returncode == 3
    rows = {
        r.variant: r.agreement for r in store.read(desk.results / RUN / "comparison.json", Comparison).rows
    }
    right, wrong = rows["mock"], rows["mock-wrong"]
    assert right is not None and wrong is not None
    assert right.statistics["mean_kl"].mean == pytest.approx(0.0, abs=1e-9)
    assert right.outside_mass == pytest.approx(0.1, abs=1e-3)
    assert wrong.statistics["mean_kl"].mean > 0.1
    assert right.self_noise["mean_kl"] == pytest.approx(0.0, abs=1e-9)
    assert "mean_kl" in (desk.results / RUN / "report.html").read_text()


def test_too_many_top_logprobs_are_refused_before_anything_starts(desk: Desk) -> None:
    done = desk.run("bench", "mock", "32/8", "top_logprobs=50")
    assert done.returncode == 2
    assert "top_logprobs=50 is not a number of alternatives; give 0 (none) to 20" in done.stderr


def test_a_reference_that_does_not_start_leaves_cannot_tell_with_the_cause(finished: Desk) -> None:
    again = finished.run("verify", RUN, "--reference", "mock-exits")
    assert again.returncode == 4, again.stderr
    assert set(verdicts(finished).values()) == {"CANNOT TELL"}


@pytest.mark.parametrize(
    ("input_len", "output_len", "num"),
    [(100, 200, 16), (1000, 50, 6), (3000, 10, 4), (1000, 2000, 5), (9000, 9, 4)],
)
def test_a_reference_on_a_cpu_reads_no_more_long_prompts_than_it_needs(
    input_len: int, output_len: int, num: int
) -> None:
    sample = Sample(request_id="r", prompt_token_ids=(1,) * input_len, output_token_ids=(1,) * output_len)
    assert len(verification.cheap([sample] * 16)) == num
    assert verification.cheap([sample] * 3) == [sample] * 3


def test_an_unknown_reference_is_refused_by_name(finished: Desk) -> None:
    again = finished.run("verify", RUN, "--reference", "mock-slo")
    assert again.returncode == 2
    assert "mock-slow" in again.stderr


def test_a_run_without_samples_cannot_be_replayed(desk: Desk) -> None:
    words = ("bench", "mock", "32/8", "num_prompts=2", "verify=0", f"run_id={RUN}")
    assert desk.run(*words).returncode == 0
    again = desk.run("verify", RUN, "--reference", "mock")
    assert again.returncode == 1
    assert "holds no verified sample" in again.stderr


def test_other_tokenizers_are_named_and_the_same_one_in_other_words_is_not(tmp_path: Path) -> None:
    content = msgspec.json.decode((TINY / "tokenizer.json").read_bytes())
    ours = Model(alias="tiny-moe", path=str(TINY))
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "same" / "tokenizer.json").write_bytes(msgspec.json.encode({**content, "truncation": None}))
    content["model"]["vocab"].pop(next(iter(content["model"]["vocab"])))
    (tmp_path / "other" / "tokenizer.json").write_bytes(msgspec.json.encode(content))
    assert difference(ours, Model(alias="same", path=str(tmp_path / "same"))) == ""
    assert difference(ours, Model(alias="remote")) == ""
    named = difference(ours, Model(alias="other", path=str(tmp_path / "other")))
    assert named.startswith("the tokenizers differ: tiny-moe has sha256") and "other" in named


def test_outputs_without_ids_are_made_ids_again_and_flagged() -> None:
    vocabulary = Vocabulary(TINY)
    request = Request(request_id="r", max_tokens=9, prompt_token_ids=(5, 6))
    made = sample(request, RequestRecord(request_id="r", text="def read(self):"), vocabulary)
    assert made.retokenised and vocabulary.decode(made.output_token_ids) == "def read(self):"
    given = RequestRecord(request_id="r", text="x", output_token_ids=(7, 8), output_logprobs=(-1.0, -2.0))
    kept = sample(request, given, vocabulary)
    assert (kept.retokenised, kept.output_token_ids, kept.emitted_logprobs) == (False, (7, 8), (-1.0, -2.0))


def test_the_texts_of_tokens_give_exact_ids_where_one_id_alone_reads_like_that() -> None:
    vocabulary = Vocabulary(TINY)
    request = Request(request_id="r", max_tokens=9, prompt_token_ids=(5, 6))
    ids = vocabulary.encode("def read(self): return 'x'")
    # Cut otherwise than the tokenizer would, as engines do.
    texts = [vocabulary.decode([i]) for i in (*ids, *vocabulary.encode("r"), *vocabulary.encode("e"))]
    known = tuple(vocabulary.ids_by_text[t] for t in texts)
    given = RequestRecord(
        request_id="r",
        text="".join(texts),
        output_len=len(texts),
        output_tokens=tuple(texts),
        output_logprobs=(-1.0,) * len(texts),
        top_logprobs=({texts[0]: -0.5, "token_id:7": -1.0, "\ufffd": -2.0},) * len(texts),
    )
    made = sample(request, given, vocabulary)
    assert (made.output_token_ids, made.retokenised) == (known, False)
    assert made.emitted_top[0] == {known[0]: -0.5, 7: -1.0}
    broken = msgspec.structs.replace(given, output_tokens=(*texts[:-1], "\ufffd"))
    assert "\ufffd" not in vocabulary.ids_by_text
    assert sample(request, broken, vocabulary).retokenised
    assert sample(request, msgspec.structs.replace(given, output_len=99), vocabulary).retokenised


@pytest.mark.parametrize(
    ("request_", "record", "problem"),
    [
        (
            Request(request_id="r", max_tokens=9, prompt_token_ids=(5,)),
            RequestRecord(request_id="r", text=""),
            "does not survive",
        ),
        (
            Request(request_id="r", max_tokens=9, prompt="def read"),
            RequestRecord(request_id="r", text="x", output_token_ids=(7,), input_len=99),
            "99 in the engine",
        ),
        (
            Request(request_id="r", max_tokens=9, messages=({"role": "user", "content": "hi"},)),
            RequestRecord(request_id="r", text="x", output_token_ids=(7,)),
            "chat template",
        ),
    ],
)
def test_ids_that_cannot_be_known_are_a_problem_not_a_guess(
    request_: Request, record: RequestRecord, problem: str
) -> None:
    assert problem in sample(request_, record, Vocabulary(TINY)).problem


def test_without_a_tokenizer_an_output_without_ids_is_a_problem(tmp_path: Path) -> None:
    request = Request(request_id="r", max_tokens=9, prompt_token_ids=(5, 6))
    found = sample(request, RequestRecord(request_id="r", text="hi"), Vocabulary(tmp_path))
    assert "tokenizer.json" in found.problem


def test_the_pre_flight_of_every_server_life_is_kept(finished: Desk) -> None:
    for variant in ("mock", "mock-wrong"):
        kept = store.read(finished.results / RUN / variant / "r1" / "conformance.json", Conformance)
        assert [p.name for p in kept.points][:2] == [
            "completions with token-id prompts",
            "usage.prompt_tokens is exact",
        ]
    comparison = store.read(finished.results / RUN / "comparison.json", Comparison)
    notes = [note for row in comparison.rows for note in row.notes]
    assert any(note.startswith("stream equals whole answer: differ from character 0") for note in notes)


def test_known_answers_are_a_point_where_the_weights_have_them(tmp_path: Path) -> None:
    answer = KnownAnswer(prompt_token_ids=(5, 6), output_token_ids=(7, 8, 9, 10))
    (tmp_path / "known_answers.json").write_bytes(msgspec.json.encode((answer,)))
    model = Model(alias="m", path=str(tmp_path))
    with serving() as url:
        (right,) = preflight.known(Target(base_url=url, model="m"), model)
        assert preflight.known(Target(base_url=url, model="m"), Model(alias="remote")) == ()
    with serving(Flaws(unstable=True)) as url:
        (wrong,) = preflight.known(Target(base_url=url, model="m"), model)
    assert (right.held, right.found) == (True, "0 of 1 wrong")
    assert not wrong.held and wrong.found.startswith("1 of 1 wrong, first: ids (8, 9")
