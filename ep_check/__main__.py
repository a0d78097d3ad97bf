"""Entry point of every rank: parse, join the group, check, time, let rank 0 print and write JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

EXIT_RED, EXIT_USAGE, EXIT_UNAVAILABLE = 1, 2, 3
LADDER = ",".join(str(1 << power) for power in range(14))
PRESETS = {
    "full": {"hidden": 7168, "experts": 256, "top_k": 8, "tokens": LADDER},
    "small": {"hidden": 256, "experts": 32, "top_k": 4, "tokens": "1,8,64,256"},
}
NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line -> settings; a preset fills what was not given."""
    parser = argparse.ArgumentParser(prog="ep_check", description=__doc__)
    parser.add_argument("--backend", default="torch-gloo", help="torch-gloo, torch-nccl, mori or deep_ep")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--top-k", type=int)
    parser.add_argument(
        "--tokens", help="ladder of tokens per rank to time, e.g. 1,64,4096; empty = no timing"
    )
    parser.add_argument(
        "--check-tokens", type=int, default=64, help="tokens per rank of the check; 0 = no check"
    )
    parser.add_argument("--routings", default="uniform,zipf,all-to-one,empty-rank,one-token,local")
    parser.add_argument("--bench-routings", default="uniform")
    parser.add_argument("--dispatch-dtype", choices=["bf16", "fp8"], default="bf16")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fault",
        default="",
        help="wrong-reset, swapped-weights, dropped-rank, dispatched-ids or stale-handle: must turn red",
    )
    parser.add_argument(
        "--option", action="append", default=[], help="NAME=VALUE for one backend, repeatable"
    )
    parser.add_argument(
        "--timeout-s", type=int, default=300, help="a collective that takes longer has failed"
    )
    parser.add_argument("--out", default="", help="JSON file that rank 0 writes")
    settings = parser.parse_args(argv)
    for name, value in PRESETS[settings.preset].items():
        if getattr(settings, name) is None:
            setattr(settings, name, value)
    return settings


def main() -> int:
    """0 green, 1 red, 2 wrong use, 3 the backend cannot run here."""
    settings = parse()
    if "WORLD_SIZE" not in os.environ:
        print(
            "ep_check runs under torchrun: python -m torch.distributed.run --nproc-per-node 8 -m ep_check ..."
        )
        return EXIT_USAGE
    rank = int(os.environ["RANK"])
    for name, value in NO_MULTICAST.items():
        os.environ.setdefault(name, value)
    from ep_check import session
    from ep_check.seam import UnavailableError

    try:
        result = session.run(settings)
    except UnavailableError as reason:
        result = {"verdict": "skipped", "reason": str(reason), "backend": settings.backend}
    except ValueError as reason:
        if rank == 0:
            print(f"ep-check: {reason}")
        return EXIT_USAGE
    if rank == 0:
        publish(result, settings.out)
    return {"green": 0, "red": EXIT_RED, "skipped": EXIT_UNAVAILABLE}[result["verdict"]]


def publish(result: dict[str, Any], out: str) -> None:
    """Print the table and write the JSON."""
    from ep_check import table

    result = {
        "schema_version": 1,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **result,
    }
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(result, indent=1) + "\n")
    print(table.render(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
