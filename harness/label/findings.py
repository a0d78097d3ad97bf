"""Reading what an engine shows of itself: values of Effective, each with the line or key that proves it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from harness.schema import Effective

_LONGEST_PROOF = 240


class Findings:
    """Collects fields of Effective. The first value found for a field stays; None is no value."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._proof: dict[str, str] = {}

    def take(self, field: str, value: Any, proof: str) -> None:
        """Keep `value` for `field`, unless it is None or an earlier source gave one."""
        if value is not None and field not in self._values:
            self._values[field] = value
            self._proof[field] = proof.strip()[:_LONGEST_PROOF]

    def get(self, field: str) -> Any:
        """The value found so far, else None."""
        return self._values.get(field)

    def effective(self) -> Effective:
        """All that was found. Raises msgspec.ValidationError if a value has the wrong type."""
        return msgspec.convert({**self._values, "proof": self._proof}, Effective)


def dig(tree: Any, path: str) -> Any:
    """tree["a"]["b"] for path "a.b"; None where a key is missing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def search(pattern: str, lines: Iterable[str]) -> re.Match[str] | None:
    """The first match in the first line that has one."""
    compiled = re.compile(pattern)
    return next((match for match in map(compiled.search, lines) if match), None)


def literal(word: str) -> Any:
    """A value as Python prints it: True, False, None (nothing, too), a whole number, a word in quotes."""
    if word in ("True", "False"):
        return word == "True"
    number = re.fullmatch(r"-?\d+", word)
    return None if word in ("", "None") else int(word) if number else word.strip("'")


def samples(metrics: str, name: str) -> list[tuple[dict[str, str], float]]:
    """(labels, value) of every Prometheus sample called `name`; [] when the text is none or has none."""
    return [(dict(s.labels), float(s.value)) for s in _samples(metrics) if s.name == name]


def counters(metrics: str, names: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Canonical name -> value, where the first of its engine names that occurs is summed over its labels.

    kv_usage is the largest instead: engines behind one port each report their own. A name without a
    sample is left out.
    """
    wanted = {name for spellings in names.values() for name in spellings}
    values: dict[str, list[float]] = {}
    for sample in _samples(metrics):
        if sample.name in wanted:
            values.setdefault(sample.name, []).append(float(sample.value))
    found: dict[str, float] = {}
    for canonical, spellings in names.items():
        known = next((values[s] for s in spellings if s in values), None)
        if known:
            found[canonical] = max(known) if canonical == "kv_usage" else sum(known)
    return found


def by_position(found: Sequence[tuple[Mapping[str, str], float]]) -> dict[str, float]:
    """accepted_at_0, accepted_at_1 ...: samples by their position in the draft, summed over engines."""
    sums: dict[str, float] = {}
    for labels, value in found:
        name = f"accepted_at_{labels.get('position', '')}"
        sums[name] = sums.get(name, 0.0) + value
    return sums


def _samples(metrics: str) -> list[Sample]:
    """All samples of Prometheus text; [] for any other text."""
    try:
        return [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    except ValueError:
        return []


def canonical_dtype(dtype: Any) -> str | None:
    """bfloat16 for torch.bfloat16 and bf16, fp8_e4m3 for every spelling of FP8 with 4 exponent bits."""
    if dtype is None:
        return None
    name = str(dtype).rsplit(".", 1)[-1].lower()
    spellings = {
        "bf16": "bfloat16",
        "half": "float16",
        "fp16": "float16",
        "float": "float32",
        "fp32": "float32",
    }
    name = name.replace("float8_", "fp8_")
    spellings |= {"fp8": "fp8_e4m3", "fp8_e4m3fn": "fp8_e4m3", "fp8_e4m3fnuz": "fp8_e4m3"}
    spellings |= {"fp8_e5m2fnuz": "fp8_e5m2"}
    return spellings.get(name, name)
