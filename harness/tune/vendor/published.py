"""A published recipe in this harness's terms: flags, variables and sizes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.errors import InputError
from harness.schema import Noun, Parallel

_SIZES = {
    "--tensor-parallel-size": "tensor",
    "--data-parallel-size": "data",
    "--pipeline-parallel-size": "pipeline",
}


class Published(Noun):
    """One recipe for one kind of hardware."""

    file: str
    """Path in the checkout."""
    model: str
    """Checkpoint on the Hub."""
    hardware: str
    name: str
    """Strategy or configuration."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    parallel: Parallel = Parallel()
    max_model_len: int = 0
    needs: str = ""
    """Engine version that it asks for, as published."""


class Wanted(Noun):
    """Which of a checkout's recipes."""

    model: str = ""
    hardware: str = ""
    name: str = ""
    """Strategy or configuration; "" = the one that the project recommends."""
    precision: str = "default"
    """Which of a recipe's checkpoints."""
    num_gpus: int = 0
    """0 = all of a node."""


def table(value: Any, where: str) -> dict[str, Any]:
    """A mapping; {} for nothing. Raises InputError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where} is no table: another layout than this reader knows.")
    return value


def words(value: Any, where: str) -> list[str]:
    """A list of arguments; [] for nothing. Raises InputError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or any(isinstance(word, list | dict) for word in value):
        raise InputError(f"{where} is no list of arguments: another layout than this reader knows.")
    return [str(word) for word in value]


def variables(*tables: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables, the later winning."""
    return {str(key): str(value) for each in tables for key, value in each.items()}


def last_wins(args: Sequence[str]) -> list[str]:
    """Each flag once, as it was said last: what a command line makes of it."""
    units: list[tuple[str, ...]] = []
    at = 0
    while at < len(args):
        valued = args[at].startswith("-") and at + 1 < len(args) and not args[at + 1].startswith("-")
        units.append(tuple(args[at : at + 1 + valued]))
        at += 1 + valued
    last = {unit[0]: number for number, unit in enumerate(units)}
    return [word for number, unit in enumerate(units) if last[unit[0]] == number for word in unit]


def split(args: Sequence[str]) -> tuple[list[str], dict[str, int], int]:
    """(other arguments, sizes of Parallel, longest context) of a command line."""
    rest: list[str] = []
    sizes: dict[str, int] = {}
    length, at = 0, 0
    while at < len(args):
        flag, _, joined = args[at].partition("=")
        value = joined or (args[at + 1] if at + 1 < len(args) else "")
        step = 1 if joined else 2
        if flag in _SIZES and value.isdigit():
            sizes[_SIZES[flag]] = int(value)
        elif flag == "--max-model-len" and value.isdigit():
            length = int(value)
        elif flag == "--enable-expert-parallel":
            sizes["expert"] = 0
            step = 1
        else:
            rest.append(args[at])
            step = 1
        at += step
    if "expert" in sizes:
        sizes["expert"] = sizes.get("tensor", 1) * sizes.get("data", 1)
    return rest, sizes, length
