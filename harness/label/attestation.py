"""Is what runs what the label says? Every expectation of a variant against what the engine shows."""

from __future__ import annotations

from harness.errors import InputError
from harness.label.dialect import is_branch, is_commit, version_key
from harness.schema import Attestation, Claim, Effective, Scalar, Variant

_SHORT = 7
"""Digits of a commit that engines show at least."""
_FIELDS = frozenset(Effective.__struct_fields__) - {"proof"}


def attest(effective: Effective, variant: Variant) -> Attestation:
    """One claim per expectation, and one for the version. What the engine does not show is not held.

    Raises InputError when `expect` names a field that Effective does not have.
    """
    if unknown := sorted(set(variant.expect) - _FIELDS):
        raise InputError(
            f"{variant.engine}.toml [{variant.name}] expects {', '.join(unknown)}, which no engine can show; "
            f"use fields of Effective: {', '.join(sorted(_FIELDS))}."
        )
    claims = [_claim(field, expected, effective) for field, expected in variant.expect.items()]
    return Attestation(effective=effective, claims=(*_version(effective, variant), *claims))


def _claim(field: str, expected: Scalar, effective: Effective) -> Claim:
    actual: Scalar = getattr(effective, field)
    return Claim(
        field=field,
        expected=expected,
        actual=actual,
        held=actual is not None and actual == expected and type(actual) is type(expected),
        proof=effective.proof.get(field, ""),
    )


def _version(effective: Effective, variant: Variant) -> tuple[Claim, ...]:
    """The flags were spelt for one version; another one may mean something else by them.

    A build named after its branch (no digits) claims no version.
    """
    if is_branch(variant.version) or "engine_version" in variant.expect:
        return ()
    actual = effective.engine_version
    return (
        Claim(
            field="engine_version",
            expected=variant.version,
            actual=actual,
            held=actual is not None and _same(actual, variant.version),
            proof=effective.proof.get("engine_version", ""),
        ),
    )


def _same(shown: str, meant: str) -> bool:
    """A commit is shown behind the release it stands on: 0.32.1.dev12+g1a2b3c4d5."""
    if is_commit(meant):
        return f"g{meant[:_SHORT]}" in shown
    return version_key(shown) == version_key(meant)
