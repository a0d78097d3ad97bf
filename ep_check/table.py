"""The result as text. No torch."""

from __future__ import annotations

from typing import Any


def render(result: dict[str, Any]) -> str:
    """Checks, timings, formula and verdict, ready to print."""
    if result["verdict"] == "skipped":
        return f"ep-check {result['backend']}: skipped: {result['reason']}"
    environment, config = result["environment"], result["config"]
    head = (
        f"ep-check {result['backend']}: {environment['world_size']} ranks on {environment['device']}, hidden "
        f"{config['hidden']}, {config['experts']} experts, top-{config['top_k']}, "
        f"{config['dispatch_dtype']} dispatch"
    )
    fault = [f"seeded fault: {result['fault']}"] if result["fault"] else []
    lines = [head, *fault, *map(_check, result["checks"])]
    if result["timings"]:
        lines += ["", _HEADER, *map(_timing, result["timings"]), "", result["formula"]]
    wrong = [row for row in result["timings"] if row["identity_error"] > result["tolerance"]]
    lines += [
        f"FAIL: with identity experts {row['tokens']} tokens come home off by {row['identity_error']:.3g}"
        for row in wrong
    ]
    return "\n".join([*lines, f"verdict: {result['verdict']}"])


_HEADER = (
    f"{'routing':<11}{'tokens':>7}{'dispatch us (p99)':>22}{'combine us (p99)':>22}{'pair us (p99)':>22}"
    f"{'disp GB/s':>11}{'comb GB/s':>11}{'rows max/mean':>15}"
)


def _check(result: dict[str, Any]) -> str:
    name = f"  {result['routing']:<18}"
    if result["passed"] is None:
        return f"{name}skipped: {result['skipped']}"
    if "refused" in result:
        return f"{name}ok    refused: {result['refused']}"
    if result["passed"]:
        return f"{name}ok    worst error {result['worst_error']:.2e}"
    shown = "".join(f"\n      {failure}" for failure in result["failures"])
    return f"{name}FAIL  {result.get('num_failures', 1)} failures{shown}"


def _timing(row: dict[str, Any]) -> str:
    def cell(name: str) -> str:
        took = row[f"{name}_us"]
        return f"{took['median']:.0f} ({took['p99']:.0f})".rjust(22)

    balance = row["received_rows_max"] / row["received_rows_mean"] if row["received_rows_mean"] else 0.0
    return (
        f"{row['routing']:<11}{row['tokens']:>7}{cell('dispatch')}{cell('combine')}{cell('pair')}"
        f"{row['dispatch_gbps']:>11.2f}{row['combine_gbps']:>11.2f}{balance:>15.2f}"
    )
