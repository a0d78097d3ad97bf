"""Another endpoint as the reference: by prompt logprobs, else by a test that is named weaker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import msgspec
import pytest

from harness import plan, registry
from harness.client.acceptance import PROMPT_IDS
from harness.correctness import foreign_reference
from harness.correctness.replay import ReplayOptions, Sample
from harness.errors import AttestationError
from harness.host.machine import probe
from harness.tokens import Vocabulary
from tests.answering import Answering, listening

VOCABULARY = Vocabulary(registry.ROOT / "models" / "tiny-moe")
OPTIONS = ReplayOptions(reference="elsewhere", concurrency=2)
SILENT = 380
"""Behind this token and behind PROMPT_IDS the endpoint would say a part of a character."""
Gives = Literal["prompt_logprobs", "named", "ids", "nothing", "locked"]


@contextmanager
def endpoint(gives: Gives, most: int = 5) -> Iterator[str]:
    """A server whose model says 300 + (last + 1) mod 100, at logprob -0.1; the next in line at -3, -4 ..."""

    class Handler(Answering):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/completions":
                return self._send(404, {})
            if gives == "locked" and self.headers["authorization"] != "Bearer theirs":
                return self._send(401, {"message": "no key"})
            if asked.get("logprobs", 0) > most:
                return self._send(400, {"message": f"logprobs is at most {most}"})
            self._send(200, {"choices": [_choice(gives, asked)]})

        def _send(self, status: int, content: object) -> None:
            self.write(status, json.dumps(content).encode())

    with listening(Handler) as url:
        yield url


def following(token: int, number: int = 1) -> list[int]:
    return [300 + (token + 1 + i) % 100 for i in range(number)]


def _choice(gives: Gives, asked: dict[str, Any]) -> dict[str, Any]:
    ids = asked["prompt"]
    plain = {"text": "x", "finish_reason": "length"}
    if gives == "prompt_logprobs" and "prompt_logprobs" in asked:
        rows: list[dict[str, Any] | None] = [None]
        for before, token in pairwise(ids):
            best = following(before)[0]
            row = {str(best): {"logprob": -0.1, "rank": 1}}
            rows.append(
                row
                | {
                    str(token): {
                        "logprob": -0.1 if token == best else -3.0,
                        "rank": 1 if token == best else 2,
                    }
                }
            )
        return {**plain, "prompt_logprobs": rows}
    if ids[-1] in (SILENT, PROMPT_IDS[-1]):
        return {**plain, "text": "\N{REPLACEMENT CHARACTER}", "logprobs": None}
    if gives in ("named", "ids", "locked") and asked.get("logprobs"):
        logprobs = [-0.1, *(-2.0 - i for i in range(1, asked["logprobs"]))]
        tokens = following(ids[-1], len(logprobs))
        names = [VOCABULARY.decode([t]) if gives != "ids" else f"token_id:{t}" for t in tokens]
        top = dict(zip(names, logprobs, strict=True))
        return {**plain, "logprobs": {"token_logprobs": [-0.1], "tokens": [names[0]], "top_logprobs": [top]}}
    return plain


def said(prompt: tuple[int, ...], num: int, wrong_at: int = -1, by: int = 1) -> Sample:
    """An output that follows the model, but for one token that is `by` places down its list."""
    out: list[int] = []
    for i in range(num):
        last = (*prompt, *out)[-1]
        out.append(following(last, by + 1)[by if i == wrong_at else 0])
    return Sample(
        request_id=f"r{wrong_at}",
        prompt_token_ids=prompt,
        output_token_ids=tuple(out),
        emitted_logprobs=(-0.1,) * num,
    )


def test_prompt_logprobs_score_the_whole_output() -> None:
    with endpoint("prompt_logprobs") as url:
        (score,) = foreign_reference.score(url, "m", [said((310, 311), 24, wrong_at=20)], OPTIONS, VOCABULARY)
    assert score.reference == "elsewhere" and len(score.rank) == 24
    assert [i for i, rank in enumerate(score.rank) if rank > 1] == [20]


@pytest.mark.parametrize("gives", ["named", "ids"])
def test_logprobs_of_one_token_are_the_weaker_test_and_named_so(gives: Gives) -> None:
    with endpoint(gives) as url:
        right, wrong, far = foreign_reference.score(
            url,
            "m",
            [said((310, 311), 24), said((310, 311), 24, wrong_at=3), said((310, 311), 24, wrong_at=3, by=40)],
            OPTIONS,
            VOCABULARY,
        )
    assert right.reference == "elsewhere (weaker test: first 16 tokens, 5 alternatives)"
    assert set(right.rank) == {1} and len(right.token_ids) == len(right.emitted_logprob or ()) == 16
    assert wrong.rank[3] == 2 and wrong.margin[3] == pytest.approx(2.9)
    assert far.rank[3] == 6 and far.margin[3] == pytest.approx(5.9), "a bound: no worse than the fifth"
    assert (right.error, wrong.error) == ("", "")


def test_an_endpoint_without_any_logprobs_cannot_be_a_reference() -> None:
    with endpoint("nothing") as url, pytest.raises(AttestationError, match="cannot be a reference"):
        foreign_reference.score(url, "m", [said((310,), 4)], OPTIONS, VOCABULARY)


def test_an_endpoint_that_names_nothing_for_parts_of_characters_is_asked_up_to_there() -> None:
    """llama.cpp answers `logprobs: null` where the one token asked for is not yet a character."""
    whole, cut = said((310, 311), 24), said((310, 311), 24, wrong_at=3, by=SILENT - 315)
    with endpoint("named") as url:
        first, second = foreign_reference.score(url, "m", [whole, cut], OPTIONS, VOCABULARY)
        assert foreign_reference.score(url, "m", [], OPTIONS, VOCABULARY) == []
    assert (len(first.rank), first.error) == (16, "")
    assert (len(second.rank), len(second.token_ids), second.error) == (4, 4, "")


def test_a_reference_may_be_an_address() -> None:
    with endpoint("named") as url:
        words = ["attach", "32/8", "model=tiny-moe", f"reference={url}"]
        recipe, _ = plan.recipe_of([*words, "url=http://127.0.0.1:9"], probe())
        chosen = plan.reference(recipe, probe())
    assert chosen is not None and not chosen.own_server
    assert (chosen.variant.name, chosen.launch.base_url) == (url, url)


def test_a_reference_has_an_api_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "ours")
    monkeypatch.setenv("THEIR_KEY", "theirs")
    with endpoint("locked") as url:
        words = ["attach", "32/8", "model=tiny-moe", f"reference={url}", "url=http://127.0.0.1:9"]
        words = [*words, "api_key_env=OUR_KEY", "reference_api_key_env=THEIR_KEY"]
        chosen = plan.reference(plan.recipe_of(words, probe())[0], probe())
        assert chosen is not None and chosen.launch.api_key_env == "THEIR_KEY"
        unlocked = msgspec.structs.replace(OPTIONS, api_key_env=chosen.launch.api_key_env)
        (score,) = foreign_reference.score(url, "m", [said((310, 311), 4)], unlocked, VOCABULARY)
        assert score.error == "" and set(score.rank) == {1}
        with pytest.raises(AttestationError, match=r"asks for an API key .* reference_api_key_env="):
            foreign_reference.score(url, "m", [said((310,), 4)], OPTIONS, VOCABULARY)
