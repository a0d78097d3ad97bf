"""The mori backend's calls against the interface of mori_library, four gloo ranks; prints failures as JSON.

python -m torch.distributed.run --nproc-per-node 4 -m tests.torch_cases.mori_cases OUT GPUS_PER_NODE
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ep_check import bench, check
from ep_check.backends.mori_ep import MoriEp
from ep_check.faults import Faulty
from ep_check.shape import Shape
from tests.torch_cases import mori_library

ONE_NODE = (
    "",
    "zero_copy=1",
    "call_reset=1",
    "init=unique-id",
    "standard_moe=1",
    "standard_moe=1 call_reset=1",
    "num_qp_per_pe=2 max_token_type_size=4",
    "quant_type=fp8_direct_cast",
    "max_total_recv_tokens=96",
    "dtype=fp8",
    "viz={folder}",
)
TWO_NODES = ("priority=throughput", "priority=latency standard_moe=1", "priority=overlap split=1")
PATTERNS = ("uniform", "zipf", "all-to-one", "empty-rank", "one-token")


def case(words: str, gpus_per_node: int, fault: str = "") -> list[str]:
    """Failures and skips of one set of options, with a seeded fault if named."""
    options = dict(word.split("=") for word in words.split())
    shape = Shape(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        hidden=256,
        num_experts=32,
        top_k=4,
        max_tokens=32,
        dispatch_dtype=options.pop("dtype", "bf16"),
        gpus_per_node=gpus_per_node,
        options=options,
    )
    device = torch.device("cpu")
    backend = MoriEp(shape, device)
    checked = Faulty(backend, shape, fault) if fault else backend
    results = check.run(checked, shape, device, PATTERNS, 32)
    if not fault and "max_total" not in words:
        rows = bench.run(backend, shape, device, bench.Ladder((8,), warmup=0, iterations=1))
        results.append(
            {"failures": [f"identity {r['identity_error']}" for r in rows if r["identity_error"] > 0.03]}
        )
    backend.close()
    if "unique-id" not in words:
        torch._C._distributed_c10d._unregister_process_group("default")
    return [f for result in results for f in (*result["failures"], result.get("skipped", "")) if f]


def main() -> None:
    """All cases of one topology."""
    torch.set_num_threads(1)
    mori_library.install()
    dist.init_process_group("gloo")
    gpus_per_node = int(sys.argv[2])
    sets = ONE_NODE if gpus_per_node == int(os.environ["WORLD_SIZE"]) else TWO_NODES
    found = {words: case(words.format(folder=f"{sys.argv[1]}.viz"), gpus_per_node) for words in sets}
    for fault in ("dispatched-ids", "stale-handle", "dropped-rank"):
        found[f"fault {fault}"] = case(sets[0], gpus_per_node, fault)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
