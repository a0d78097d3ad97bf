"""Is what every rank runs what the label says? The first rank is asked, the others are read. Pure.

A rank after the first has no endpoint: its log tells. What it shows must be what the first one shows; that it
joined, and what its node sent meanwhile, its agent says there (harness/launchers/slurm.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from harness.label.attestation import attest
from harness.schema import Attestation, Claim, Effective, Evidence, Scalar, Variant

_JOINED = re.compile(r"\[harness\] rank \d+ on (\S+): (joined|not joined), sent (\d+) bytes over (\S+)")
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def attest_all(parse: Callable[[Evidence], Effective], evidence: Evidence, variant: Variant) -> Attestation:
    """The first rank's claims, then each rank's; `parse` is the engine's own effective()."""
    attested = attest(parse(evidence), variant)
    logs = (evidence.log, *evidence.other_logs)
    if len(logs) == 1:
        return attested
    claims = [claim for rank, log in enumerate(logs) for claim in _met(rank, log)]
    for rank, log in enumerate(logs[1:], 1):
        own = parse(Evidence(log=log, environ=evidence.environ))
        claims += _agrees(rank, own, attested.effective, variant)
    return msgspec.structs.replace(attested, claims=(*attested.claims, *claims))


def _met(rank: int, log: tuple[str, ...]) -> Iterator[Claim]:
    found = next((m for m in map(_JOINED.search, reversed(log)) if m), None)
    joined, sent, line = (found[2] == "joined", int(found[3]), found[0]) if found else (None, None, "")
    yield _claim(f"rank {rank} joined", True, joined, line)
    yield _claim(f"rank {rank} sent to other nodes", True, None if sent is None else sent > 0, line)


def _agrees(rank: int, own: Effective, first: Effective, variant: Variant) -> Iterator[Claim]:
    """What it shows is what the first shows; a size must be shown, and the all2all that the label names."""
    shown = [
        f for f in (*_SIZES, "expert_parallel_size", "engine_version", *variant.expect) if _shows(own, f)
    ]
    asked = ["all2all"] if variant.expect.get("all2all") not in (None, "none") else []
    for field in dict.fromkeys([*shown, *asked]):
        proof = own.proof.get(field, "")
        yield _claim(f"{field} of rank {rank}", getattr(first, field), getattr(own, field), proof)
    if not any(f in shown for f in _SIZES):
        yield _claim(f"sizes of rank {rank}", "shown", None, "")


def _shows(own: Effective, field: str) -> bool:
    return getattr(own, field) is not None


def _claim(field: str, expected: Scalar, actual: Scalar, proof: str) -> Claim:
    held = actual is not None and actual == expected
    return Claim(field=field, expected=expected, actual=actual, held=held, proof=proof)
