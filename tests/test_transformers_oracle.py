"""The oracle on the real tiny MoE: a prompt read in pieces is the same prompt."""

import json
import subprocess

import pytest

from harness import registry
from harness.host import engine_env

SCRIPT = """
import json
from engines import transformers_oracle as oracle
model = oracle.Oracle("models/tiny-moe", "float32", "cpu")
text = "The expert is chosen by the router, and the router is chosen by the token. " * 9
ids = model.tokenizer(text).input_ids

def view():
    scores = [tuple(t) for t in model.score(ids, 2)]
    steps = model.generate(ids, oracle.Sampling(), 8, 2)
    return scores + [tuple(next(steps)) for _ in range(8)]

def routes():
    model.score(ids, 2)
    model.routes.on = True
    next(model.generate(ids, oracle.Sampling(), 8, 2))
    model.routes.on = False
    return model.routes.take()

fresh = model.generate(ids, oracle.Sampling(), 8, 2)
generated = [tuple(next(fresh)) for _ in range(8)]
whole, routed = view(), routes()
oracle._SCORES_AT_ONCE = 37 * len(ids)
pieces, rerouted = view(), routes()
oracle._SCORES_AT_ONCE = 2**26
other = ids[:-40] + ids[-80:-40]
model.score(ids, 2)
behind = [tuple(t) for t in model.score(other, 2, len(ids) - 40)]
num_known = model._known(other[:-50])[0]
model.score(ids[:3], 2)
afresh = [tuple(t) for t in model.score(other, 2)][-40:]
repeats = [next(model.generate(other, oracle.Sampling(), 8, 2)).token_id for _ in range(2)]
print(json.dumps({"tokens": len(ids), "scored": len(whole) - 8,
    "same": [a[0] == b[0] and a[2] == b[2] for a, b in zip(whole, pieces)],
    "routed": len(routed), "rerouted": routed == rerouted,
    "continued": [t[0] for t in generated] == [t[0] for t in whole[-8:]],
    "known": num_known == len(other) - 50,
    "behind": [a[0] == b[0] and a[2] == b[2] for a, b in zip(behind, afresh)],
    "behind_apart": max(abs(a[1] - b[1]) for a, b in zip(behind, afresh)), "repeats": repeats,
    "apart": max(abs(a[1] - b[1]) for a, b in zip(whole, pieces))}))
"""


@pytest.mark.engine
def test_a_prompt_read_in_pieces_is_the_same_prompt() -> None:
    python = engine_env.ensure("transformers", registry.ROOT, print)
    done = subprocess.run(
        [str(python), "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        cwd=registry.ROOT,
        timeout=300,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens"] > 3 * 37 and found["scored"] == found["tokens"] - 1
    assert found["routed"] == found["tokens"] and found["rerouted"]
    assert found["known"] and len(found["behind"]) == 40 and all(found["behind"])
    assert found["behind_apart"] < 1e-4 and len(set(found["repeats"])) == 1
    assert found["continued"] and all(found["same"]) and found["apart"] < 1e-4
