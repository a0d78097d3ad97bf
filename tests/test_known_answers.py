"""Known answers: patterns and fingerprints against a real endpoint, and the file beside the weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.client import Target
from harness.correctness import known_answers
from harness.correctness.known_answers import KnownAnswer
from harness.errors import ModelError
from harness.schema import Model, RequestRecord
from tests.completions_server import Flaws, serving

COUNTS_ON = KnownAnswer(prompt_token_ids=(5, 6), output_token_ids=(7, 8, 9, 10))


def test_right_and_wrong_answers_are_told_apart() -> None:
    wrong = KnownAnswer(prompt_token_ids=(5, 6), output_token_ids=(7, 8, 9, 11))
    pattern = KnownAnswer(prompt="What follows 2?", pattern=r"\b3\b")
    with serving() as url:
        found = known_answers.ask(Target(base_url=url, model="m"), [COUNTS_ON, wrong, pattern])
    assert [r.held for r in found] == [True, False, True]
    assert found[1].found == "ids (7, 8, 9, 10)"


def test_a_failed_request_is_not_a_right_answer() -> None:
    with serving(Flaws(text_only=True)) as url:
        (found,) = known_answers.ask(Target(base_url=url, model="m"), [COUNTS_ON])
    assert not found.held and "400" in found.found


def test_an_answer_without_ids_cannot_be_compared_with_ids() -> None:
    with serving(Flaws(no_ids=True)) as url:
        (found,) = known_answers.ask(Target(base_url=url, model="m"), [COUNTS_ON])
    assert (found.held, found.found) == (None, "no token ids")


@pytest.mark.parametrize(("text", "held"), [("2+2 is 4.", True), ("It is Four", True), ("42 and 24", False)])
def test_the_smoke_question_wants_the_number_alone(text: str, held: bool) -> None:
    record = RequestRecord(request_id="known-0", text=text)
    assert known_answers.judged(known_answers.SMOKE[0], record).held is held


def test_only_large_published_models_and_those_with_fingerprints_have_known_answers(tmp_path: Path) -> None:
    (tmp_path / known_answers.FILE).write_bytes(msgspec.json.encode((COUNTS_ON,)))
    assert known_answers.of(Model(alias="m", path=str(tmp_path))) == (COUNTS_ON,)
    assert known_answers.of(Model(alias="r1", hf_id="x/y", num_params_b=671.0)) == known_answers.SMOKE
    assert known_answers.of(Model(alias="small", hf_id="x/y", num_params_b=0.1)) == ()
    assert known_answers.of(Model(alias="own", num_params_b=1.7)) == ()


def test_fingerprints_stop_before_the_first_near_tie() -> None:
    record = RequestRecord(request_id="r", output_token_ids=(1, 2, 3, 4, 5, 6))
    sure, near = (3.0, 2.0, 5.0, 2.0, 0.1, 9.0), (3.0, 0.1, 5.0, 2.0, 9.0, 9.0)
    (found,) = known_answers.fingerprints([(9, 9), (8, 8)], [record, record], [sure, near])
    assert found == KnownAnswer(prompt_token_ids=(9, 9), output_token_ids=(1, 2, 3, 4))


def test_the_file_beside_the_weights(tmp_path: Path) -> None:
    assert known_answers.load(tmp_path) == ()
    (tmp_path / known_answers.FILE).write_bytes(msgspec.json.encode((COUNTS_ON,)))
    assert known_answers.load(tmp_path) == (COUNTS_ON,)
    (tmp_path / known_answers.FILE).write_text('[{"promt": "x"}]')
    with pytest.raises(ModelError, match="is damaged"):
        known_answers.load(tmp_path)
