"""What the reference plays, on outputs whose faults are known: rounding is the floor, a fault a direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from harness.correctness import faults
from harness.correctness.agreement import judge
from harness.correctness.floors import JudgeSettings
from harness.schema import Interval, Played, Score

ROUNDING = 0.014
SIZES = {"one expert fewer": 7.0, "int8 weights": 1.0, "fp8 keys and values": 1.3, "rms epsilon x 100": 0.4}
"""Fault -> what it does to a token, in roundings, as seen on real models."""


class Engine(NamedTuple):
    """How an engine differs from the reference: shares of named faults, and noise in roundings."""

    faults: Mapping[str, float] = {}
    noise: float = 1.0
    from_position: int = 0


HEALTHY = Engine()


def output(seed: int, engine: Engine = HEALTHY, num: int = 16, length: int = 100) -> list[Score]:
    """Outputs half of whose tokens are nearly certain, as looped ones are; half of the rounding is shared."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(num):
        logprob = -draw.exponential(1.0, length) * np.where(draw.random(length) < 0.5, 1e-3, 1.0)
        doubt = -np.expm1(logprob)
        shared, own, theirs = (draw.normal(0, ROUNDING * 0.5**0.5, length) * doubt for _ in range(3))
        played = {name: draw.normal(0, ROUNDING * size, length) * doubt for name, size in SIZES.items()}
        broken = sum(share * played[name] for name, share in engine.faults.items())
        broken = np.where(np.arange(length) >= engine.from_position, broken, 0.0)
        near_tie = np.where(draw.random(length) < 0.01, 0.03, 0.0)
        made.append(
            Score(
                request_id=f"r{i}",
                reference="oracle",
                token_ids=tuple(draw.integers(0, 999, length).tolist()),
                logprob=tuple(logprob.tolist()),
                rank=(1,) * length,
                margin=tuple((near_tie * draw.random(length)).tolist()),
                emitted_logprob=tuple((logprob + (shared + own) * engine.noise + broken).tolist()),
                played=Played(
                    precision="bfloat16",
                    logprob=tuple((logprob + shared + theirs).tolist()),
                    margin=tuple((near_tie * draw.random(length)).tolist()),
                    faults={name: tuple(f.tolist()) for name, f in played.items()},
                ),
            )
        )
    return made


@pytest.mark.parametrize("seed", range(20))
def test_healthy_output_passes_and_says_what_would_have_been_seen(seed: int) -> None:
    found = judge(output(seed), ())
    assert (found.verdict, found.reason) == ("PASS", "")
    assert found.floor_source == "what rounding to bfloat16 does to this model on 1600 of these tokens"
    assert found.statistics["noise_ratio"].mean == pytest.approx(1.0, abs=0.15)
    assert found.num_effective is not None and found.num_effective < 0.7 * found.num_tokens
    seen, _, unseen = found.power.partition("; could not have seen: ")
    assert seen.startswith("would have seen (95 %): ") and "one expert fewer" in seen
    assert "one expert fewer" not in unseen
    assert all(abs(share.mean) < faults.LIKE for share in found.likeness.values())


def test_more_tokens_see_more() -> None:
    few, many = judge(output(1, num=8), ()), judge(output(1, num=96), ())
    assert "int8 weights" in few.power.partition("could not have seen: ")[2]
    assert "int8 weights" not in many.power.partition("could not have seen: ")[2]


def test_noise_beyond_rounding_but_below_every_known_fault_is_no_pass() -> None:
    noisy = output(1, Engine(noise=1.45), num=64)
    found = judge(noisy, ())
    assert found.verdict == "CANNOT TELL" and found.reason.startswith("noise_ratio 1.4")
    assert judge(noisy, (), settings=JudgeSettings(eight_bit=True)).verdict == "PASS"


@pytest.mark.parametrize("name", SIZES)
def test_each_fault_fails_by_name_though_most_are_no_larger_than_the_rounding(name: str) -> None:
    found = judge(output(1, Engine({name: 1.0}), num=32), ())
    assert found.verdict == "FAIL"
    assert found.reason.startswith(f"as if with {name}: ")
    assert found.likeness[name].mean == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("low", "high", "surely", "perhaps"),
    [(0.4, 1.4, 1, 0), (0.25, 1.1, 0, 1), (0.37, 2.79, 0, 1), (2.1, 2.9, 0, 0), (-0.1, 1.9, 0, 0)],
)
def test_a_fault_is_named_where_it_is_surely_there_and_surely_not_more_than_itself(
    low: float, high: float, surely: int, perhaps: int
) -> None:
    share = Interval(mean=(low + high) / 2, low=low, high=high, num=8)
    named, possible = faults.like({"rms epsilon x 100": faults.Shown(share, size=3.0)})
    assert (len(named), len(possible)) == (surely, perhaps)


def test_an_unnamed_fault_fails_as_noise_beyond_the_rounding() -> None:
    found = judge(output(1, Engine(noise=3.0)), ())
    assert found.verdict == "FAIL" and found.reason.startswith("noise_ratio 3.")


def test_a_fault_of_the_later_positions_is_placed() -> None:
    found = judge(output(1, Engine({"one expert fewer": 1.0}, from_position=512), length=1024), ())
    assert found.verdict == "FAIL" and found.first_bad_position == 512


def test_tokens_in_which_a_lost_expert_would_not_show_cannot_tell() -> None:
    def faint(score: Score) -> Score:
        assert score.played is not None
        lost = {"one expert fewer": tuple(0.005 * f for f in score.played.faults["one expert fewer"])}
        return msgspec.structs.replace(score, played=msgspec.structs.replace(score.played, faults=lost))

    found = judge([faint(s) for s in output(1, num=5, length=60)], ())
    assert found.verdict == "CANNOT TELL"
    assert "one expert fewer would not show in these tokens" in found.reason
    assert "could not have seen: one expert fewer" in found.power


def test_identical_restarts_are_no_further_evidence() -> None:
    once, thrice = judge(output(1), ()), judge(output(1) * 3, ())
    assert thrice.statistics["noise_ratio"] == once.statistics["noise_ratio"]
    assert thrice.likeness == once.likeness


def test_without_logprobs_the_margins_are_held_against_those_of_rounding() -> None:
    def silent(score: Score, times: float) -> Score:
        margin = tuple(m * times for m in score.margin)
        return msgspec.structs.replace(score, emitted_logprob=None, margin=margin)

    healthy = judge([silent(s, 1.0) for s in output(1, num=32)], ())
    broken = judge([silent(s, 60.0) for s in output(1, num=32)], ())
    assert healthy.verdict == "PASS" and healthy.power.startswith("judged by margins alone")
    assert broken.verdict == "FAIL" and "margin_ratio" in broken.reason


def test_output_of_which_nothing_was_played_has_no_likeness_and_the_default_floor() -> None:
    plain = [msgspec.structs.replace(s, played=None) for s in output(1)]
    found = judge(plain, (), settings=JudgeSettings())
    assert found.verdict == "PASS" and found.likeness == {}
    assert found.floor_source.startswith("default for bfloat16")
    assert found.power.startswith("would have seen (95 %): differences of 2.")
