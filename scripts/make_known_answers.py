"""Write known_answers.json beside a model's weights: greedy continuations that every healthy engine repeats.

python -m harness serve transformers MODEL        (in another terminal; note its port)
python scripts/make_known_answers.py http://127.0.0.1:PORT SERVED_NAME MODEL_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import workload
from harness.correctness import known_answers
from harness.schema import Load, Request, RequestRecord, WorkloadSpec
from harness.tokens import Vocabulary

SPEC = WorkloadSpec(
    name="text_tokens", num_prompts=256, seed=4711, params={"input_len": 24, "output_len": 16}
)
NUM_KEPT = 12


def answered(base_url: str, name: str, request: Request) -> tuple[RequestRecord, list[float]]:
    """The greedy continuation, and each token's lead over its runner-up in nats."""
    body = {
        "model": name,
        "prompt": request.prompt_token_ids,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 2,
        "return_token_ids": True,
    }
    answer = requests.post(f"{base_url}/v1/completions", json=body, timeout=300)
    answer.raise_for_status()
    choice = answer.json()["choices"][0]
    leads = []
    for top in choice["logprobs"]["top_logprobs"]:
        best = sorted(top.values(), reverse=True)
        leads.append(best[0] - best[1] if len(best) > 1 else 0.0)
    ids = tuple(choice["token_ids"])
    return RequestRecord(request_id=request.request_id, output_token_ids=ids), leads


def main(base_url: str, name: str, folder: Path) -> None:
    """Ask, keep the longest sure continuations, write."""
    asked, _ = workload.build(SPEC, Load(max_concurrency=1), Vocabulary(folder))
    found = [answered(base_url, name, r) for r in asked]
    records, leads = zip(*found, strict=True)
    made = known_answers.fingerprints([r.prompt_token_ids or () for r in asked], records, leads)
    kept = sorted(made, key=lambda a: len(a.output_token_ids), reverse=True)[:NUM_KEPT]
    path = folder / known_answers.FILE
    lines = [{k: v for k, v in msgspec.to_builtins(answer).items() if v} for answer in kept]
    path.write_text(
        "[\n" + ",\n".join(msgspec.json.encode(line).decode() for line in lines) + "\n]\n", encoding="utf-8"
    )
    print(f"{path}: {len(kept)} answers of {[len(a.output_token_ids) for a in kept]} tokens")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2], Path(sys.argv[3]))
