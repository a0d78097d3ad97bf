"""AITER's fused MoE kernel against a dense oracle, under an expert mask: one process, one rank of a group.

    python -m ep_check.fused_moe --kernel aiter            on an AMD GPU, where the package aiter is
    python -m ep_check.fused_moe --kernel torch [--fault unmasked]    the same interface in torch, anywhere

The interface is that of aiter.fused_moe.fused_moe as op_tests/test_moe_ep.py (ROCm/aiter 094f6d3) and vLLM's
_aiter_ops.py call it: global ids, a 0/1 mask of all experts and one more that is always 0 (padding is sent
there), weights of this rank's experts only; an expert's slot is the number of ones before it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ep_check.oracle import TOLERANCE, worst_error
from ep_check.routing import seeded
from ep_check.seam import UnavailableError

CASES = ("uniform", "all-local", "none-local", "one-token", "padded")
"""Which experts tokens choose; padded: some choices are the extra expert, as in AITER's own test."""


@dataclass(frozen=True)
class Layer:
    """One layer on one rank: L of E experts, of intermediate size I.

    x [T, H], ids [T, K] global (E = the extra one), weights [T, K], mask [E + 1], w1 [L, 2I, H], w2 [L, H, I]
    """

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor
    w1: torch.Tensor
    w2: torch.Tensor

    def on(self, device: torch.device) -> Layer:
        """The same on another device."""
        return Layer(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def slots(self) -> torch.Tensor:
        """[E + 1] where an expert's weights lie: the number of ones before it."""
        return self.mask.cumsum(0) - self.mask


Kernel = Callable[[Layer], torch.Tensor]


def build(case: str, sizes: argparse.Namespace, seed: int) -> Layer:
    """A seeded layer of the group's last rank, bf16. Weights scale so that outputs stay near 1."""
    random = seeded(seed, CASES.index(case))
    local = sizes.experts // sizes.ranks
    mine = range(sizes.experts - local, sizes.experts)
    num = 1 if case == "one-token" else sizes.tokens
    scores = torch.rand(num, sizes.experts, generator=random)
    if case == "all-local":
        scores[:, : mine.start] = -1.0
    if case == "none-local":
        scores[:, mine.start :] = -1.0
    ids = scores.topk(min(sizes.top_k, local if case == "all-local" else sizes.top_k), dim=1).indices
    if case == "padded":
        ids[::2, -1] = sizes.experts
    mask = torch.zeros(sizes.experts + 1, dtype=torch.int64)
    mask[mine.start : mine.stop] = 1
    normal = {"generator": random}
    return Layer(
        x=torch.randn(num, sizes.hidden, **normal).to(torch.bfloat16),
        ids=ids,
        weights=torch.softmax(torch.randn(ids.shape, **normal), dim=1),
        mask=mask,
        w1=(torch.randn(local, 2 * sizes.inter, sizes.hidden, **normal) / sizes.hidden**0.5).to(
            torch.bfloat16
        ),
        w2=(torch.randn(local, sizes.hidden, sizes.inter, **normal) / sizes.inter**0.5).to(torch.bfloat16),
    )


def _scaled(weights: torch.Tensor) -> torch.Tensor:
    return (weights / weights.shape[-1] ** 0.5).to(torch.bfloat16)


def dense(layer: Layer) -> torch.Tensor:
    """[T, H] float32: sum over local experts of weight x w2 (silu(gate) * up); gate is the first half."""
    out = torch.zeros(layer.x.shape, dtype=torch.float32, device=layer.x.device)
    slots = layer.slots
    for expert in layer.mask.nonzero()[:, 0].tolist():
        token, choice = (layer.ids == expert).nonzero(as_tuple=True)
        slot = int(slots[expert])
        gate, up = (layer.x[token].float() @ layer.w1[slot].float().t()).chunk(2, dim=1)
        rows = (torch.nn.functional.silu(gate) * up) @ layer.w2[slot].float().t()
        out.index_add_(0, token, rows * layer.weights[token, choice][:, None])
    return out


def in_torch(layer: Layer) -> torch.Tensor:
    """The kernel's arithmetic token by token, in bf16 between the two products, as a kernel rounds."""
    if bool((layer.mask < 0).any()):
        raise UnavailableError("Memory access fault: the mask holds -1, which the kernel uses as an address")
    slots = layer.slots[layer.ids].clamp_max(len(layer.w1) - 1)
    inner = torch.einsum("th,tkih->tki", layer.x.float(), layer.w1[slots].float())
    gate, up = inner.chunk(2, dim=2)
    hidden = (torch.nn.functional.silu(gate) * up).to(torch.bfloat16).float()
    rows = torch.einsum("tki,tkhi->tkh", hidden, layer.w2[slots].float())
    active = (layer.mask[layer.ids] == 1) * layer.weights
    return (rows * active[:, :, None]).sum(dim=1).to(torch.bfloat16)


def in_aiter(layer: Layer) -> torch.Tensor:
    """aiter.fused_moe.fused_moe without quantization. Raises UnavailableError where it is not."""
    try:
        from aiter import ActivationType, QuantType
        from aiter.fused_moe import fused_moe
        from aiter.ops.shuffle import shuffle_weight
    except ImportError as reason:
        raise UnavailableError(
            f"the package aiter is not in this environment ({reason}): use a ROCm image of vLLM or SGLang"
        ) from None
    out = fused_moe(
        layer.x,
        shuffle_weight(layer.w1, layout=(16, 16)),
        shuffle_weight(layer.w2, layout=(16, 16)),
        layer.weights.to(torch.float32),
        layer.ids.to(torch.int32),
        layer.mask.to(torch.int32),
        ActivationType.Silu,
        QuantType.No,
    )
    return torch.as_tensor(out)


def _mask_value_as_index(layer: Layer) -> Layer:
    return replace(layer, w1=layer.w1[1:2].expand_as(layer.w1), w2=layer.w2[1:2].expand_as(layer.w2))


def _map_as_mask(layer: Layer) -> Layer:
    return replace(layer, mask=torch.where(layer.mask == 1, layer.slots, -1))


def _local_ids(layer: Layer) -> Layer:
    first = int(layer.mask.nonzero()[0, 0])
    return replace(layer, ids=(layer.ids - first).clamp_min(0))


def _swapped_halves(layer: Layer) -> Layer:
    return replace(layer, w1=torch.cat(layer.w1.chunk(2, dim=1)[::-1], dim=1))


FAULTS: dict[str, Callable[[Layer], Layer]] = {
    "mask-value-as-index": _mask_value_as_index,
    "map-as-mask": _map_as_mask,
    "local-ids": _local_ids,
    "unmasked": lambda layer: replace(layer, mask=torch.ones_like(layer.mask)),
    "empty-mask": lambda layer: replace(layer, mask=torch.zeros_like(layer.mask)),
    "swapped-halves": _swapped_halves,
}
"""What a caller gets wrong, by the debug notes and around them: each must turn red."""
KERNELS: dict[str, Kernel] = {"aiter": in_aiter, "torch": in_torch}


def check(kernel: Kernel, sizes: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """One result a case: passed, worst error, what failed."""
    results = []
    for case in CASES:
        layer = build(case, sizes, sizes.seed)
        want = dense(layer)
        try:
            got = kernel(FAULTS[sizes.fault](layer).on(device) if sizes.fault else layer.on(device)).cpu()
        except UnavailableError as fault:
            if not sizes.fault:
                raise
            results.append({"case": case, "passed": False, "worst_error": None, "failure": str(fault)})
            continue
        away = want.abs().amax(dim=1) == 0
        error = worst_error(got[~away], want[~away])
        failure = f"off by {error:.3g} (allowed {TOLERANCE:.3g})" if error > TOLERANCE else ""
        if bool((got[away] != 0).any()):
            failure = "tokens without an expert here are not zero"
        results.append({"case": case, "passed": not failure, "worst_error": error, "failure": failure})
    return results


def main() -> int:
    """0 green, 1 red, 2 wrong use, 3 the kernel cannot run here."""
    sizes = _parse()
    if sizes.fault and sizes.fault not in FAULTS:
        print(f"unknown fault {sizes.fault!r}: choose one of {', '.join(FAULTS)}")
        return 2
    if sizes.experts % sizes.ranks:
        print(f"{sizes.experts} experts do not split over {sizes.ranks} ranks: choose a multiple")
        return 2
    device = torch.device("cuda" if sizes.kernel == "aiter" else "cpu")
    try:
        if sizes.kernel == "aiter" and not (torch.cuda.is_available() and torch.version.hip):
            raise UnavailableError(
                "AITER's kernels need an AMD GPU and torch sees none here: use kernel=torch"
            )
        results = check(KERNELS[sizes.kernel], sizes, device)
    except UnavailableError as reason:
        print(f"fused MoE {sizes.kernel}: skipped: {reason}")
        return 3
    verdict = "green" if all(result["passed"] for result in results) else "red"
    print(f"fused MoE {sizes.kernel}: rank {sizes.ranks - 1} of {sizes.ranks}, {sizes.experts} experts, "
          f"top-{sizes.top_k}, hidden {sizes.hidden}, intermediate {sizes.inter}")  # fmt: skip
    for result in results:
        shown = "ok    " if result["passed"] else "FAIL  "
        error = "" if result["worst_error"] is None else f"worst error {result['worst_error']:.2e} "
        print(f"  {result['case']:<12}{shown}{error}{result['failure']}".rstrip())
    print(f"verdict: {verdict}")
    if sizes.out:
        kept = {"verdict": verdict, "config": vars(sizes), "tolerance": TOLERANCE, "checks": results}
        Path(sizes.out).write_text(json.dumps(kept, indent=1) + "\n")
    return 0 if verdict == "green" else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ep_check.fused_moe", description=__doc__)
    parser.add_argument("--kernel", choices=sorted(KERNELS), default="aiter")
    numbers = {"ranks": 8, "experts": 64, "top_k": 8, "hidden": 512, "inter": 256, "tokens": 64, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--fault", default="", help=", ".join(FAULTS))
    parser.add_argument("--out", default="", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
