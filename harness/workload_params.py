"""Reading a workload's parameters, with a sentence for the user when one is wrong."""

from __future__ import annotations

from harness.errors import InputError
from harness.schema import WorkloadSpec


def positive(spec: WorkloadSpec, name: str, default: int) -> int:
    """A whole number of at least 1. Raises InputError."""
    value = spec.params.get(name, default)
    number = _number(value)
    if number is None or number < 1 or number != int(number):
        raise InputError(
            f"workload {spec.name}: {name}={value!r} is not a whole number above 0: give {name}={default}"
        )
    return int(number)


def share(spec: WorkloadSpec, name: str, default: float) -> float:
    """A number from 0 to 1. Raises InputError."""
    value = spec.params.get(name, default)
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise InputError(f"workload {spec.name}: {name}={value!r} is not a share from 0 to 1")
    return number


def text(spec: WorkloadSpec, name: str, default: str = "") -> str:
    """A string, as given."""
    return str(spec.params.get(name, default))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
