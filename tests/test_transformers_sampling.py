"""The reference's processors against those of transformers itself, and the noise it repeats."""

import json
import subprocess
from typing import Any

import pytest

from harness import registry
from harness.host import engine_env

CODE = """
import json, torch
from transformers.generation import logits_process as theirs
from engines import transformers_sampling as ours
torch.manual_seed(0)
rows = torch.randn(6, 300) * 3
ids = [7, 9, 9, 11] + torch.randint(300, (8,)).tolist()
history = torch.tensor([ids[:6 + r] for r in range(1)])

def asked(earlier=None, **fields):
    return ours.processed(rows, ours.Choice(**fields), earlier, [0, 2]).exp()

def warped(*processors, logits=rows):
    for one in processors:
        logits = one(history, logits)
    return logits.double().softmax(-1)

def off(a, b):
    return float((a - b).abs().max())

hot = theirs.TemperatureLogitsWarper(0.7)
after = ours.before(ids, 4, range(6, 7), 300)
penalised = ours.processed(rows[:1], ours.Choice(repetition_penalty=1.3), after, []).exp()
found = {
    "temperature": off(asked(temperature=0.7), warped(hot)),
    "top_k": off(asked(top_k=20), warped(theirs.TopKLogitsWarper(20))),
    "top_p": off(asked(top_p=0.8), warped(theirs.TopPLogitsWarper(0.8))),
    "min_p": off(asked(min_p=0.1), warped(theirs.MinPLogitsWarper(0.1))),
    "in order": off(
        asked(temperature=0.7, top_k=20, top_p=0.8),
        warped(hot, theirs.TopKLogitsWarper(20), theirs.TopPLogitsWarper(0.8)),
    ),
    "repetition": off(penalised, warped(theirs.RepetitionPenaltyLogitsProcessor(1.3), logits=rows[:1])),
}
joint = asked(top_k=20, top_p=0.8, joint=True) > 0
whole = (asked(top_k=20) > 0) & (asked(top_p=0.8) > 0)
counted = ours.before(ids, 4, range(6, 12), 300)
fewer = ours.processed(rows, ours.Choice(presence_penalty=0.5, frequency_penalty=0.25), counted, [])
expected = rows.double().clone()
for r in range(6):
    for token in set(ids[4:6 + r]):
        expected[r, token] -= 0.5 + 0.25 * ids[4:6 + r].count(token)
found["presence and frequency"] = off(fewer.exp(), expected.softmax(-1))
found["joint"] = float((joint != whole).sum())
found["ends"] = float(asked(no_end=True)[:, [0, 2]].sum())
noise = torch.cat([ours.NOISES["vllm-cpu"](seed, 0, rows) for seed in range(400)]).flatten()
found["gumbel mean"] = float(noise.mean()) - 0.5772
found["gumbel deviation"] = float(noise.std()) - 1.2825
found["later rows"] = off(
    ours.NOISES["vllm-cpu"](3, 2, rows[2:]), ours.NOISES["vllm-cpu"](3, 0, rows)[2:]
)
three = torch.tensor([[0.5, 0.1, 0.2, 0.2]], dtype=torch.float64)
shared = torch.rand(200000, 2, dtype=torch.float64).repeat(1, 2)
played = torch.bincount((three.log() - torch.log(-torch.log(shared))).argmax(-1), minlength=4)
found["gumbel that repeats"] = off(ours.repeating(three, 2)[0], played / 200000)
targets = torch.tensor([1, 2, 3, 4, 5, 6])
how = ours.Drawn(choice=ours.Choice(temperature=0.7, top_p=0.8), beside=((1,), (), (3, 4), (), (), ()))
columns, faults = ours.measured(ours.Rows(rows, rows, targets, None, [0, 2]), how, 0)
found["drift"] = max(map(abs, columns["drift"]))
found["stray"] = max(columns["stray"])
print(json.dumps([found, columns, faults]))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    python = engine_env.ensure("transformers", registry.ROOT, print)
    done = subprocess.run(
        [str(python), "-c", CODE], cwd=registry.ROOT, text=True, capture_output=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.engine
def test_processors_are_those_of_transformers_and_the_noise_is_gumbels_or_one_that_repeats(
    found: Any,
) -> None:
    assert {name: off for name, off in found[0].items() if abs(off) > 0.01} == {}
    assert max(off for name, off in found[0].items() if "gumbel" not in name) < 1e-5


@pytest.mark.engine
def test_a_fault_that_only_adds_tokens_shows_as_mass_beyond_and_others_as_a_ratio(found: Any) -> None:
    _, columns, faults = found
    ratio, mean, variance, stray = faults["top_p ignored"]
    assert (ratio, mean, variance) == pytest.approx((0, 0, 0), abs=1e-6) and stray > 0.1
    _, mean, variance, _ = faults["temperature x 0.9"]
    assert mean > 0 and variance > 0
    assert set(columns) >= {"logprob", "entropy", "low", "high", "end", "met", "stray", "drift"}
    assert all(high >= low for low, high in zip(columns["low"], columns["high"], strict=True))
