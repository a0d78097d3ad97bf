"""The fairness ledger: on which settings the compared engines differ, and why."""

from __future__ import annotations

from collections.abc import Mapping

from harness.schema import Difference, Effective, Scalar

_IDENTITY = ("engine_version", "proof")
"""Differs between engines by nature; stands in the environment, not in the ledger."""

_LABEL_FIELDS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "attention_data_parallel_size",
    "expert_parallel_size",
    "all2all",
    "moe_kernel",
)
"""What a variant's very name is about."""


def differences(
    effectives: Mapping[str, Effective], reasons: Mapping[str, Mapping[str, str]]
) -> tuple[Difference, ...]:
    """One Difference per field of Effective whose values are not all equal, in the order of the fields.

    `effectives` and `reasons` are by variant; a value nobody shows (None) on one side is a difference too.
    The reason is that of the variants that state one, else "the variants compare it" for layout and kernel,
    else "unexplained".
    """
    found = []
    for field in Effective.__struct_fields__:
        values: dict[str, Scalar] = {name: getattr(e, field) for name, e in effectives.items()}
        if field not in _IDENTITY and len({repr(v) for v in values.values()}) > 1:
            found.append(Difference(field=field, values=values, reason=_reason(field, reasons)))
    return tuple(found)


def _reason(field: str, reasons: Mapping[str, Mapping[str, str]]) -> str:
    stated: dict[str, list[str]] = {}
    for variant, why in reasons.items():
        if field in why:
            stated.setdefault(why[field], []).append(variant)
    if stated:
        return "; ".join(f"{', '.join(names)}: {text}" for text, names in stated.items())
    return "the variants compare it" if field in _LABEL_FIELDS else "unexplained"
