"""Results of other tools in this harness's terms; what cannot be compared is marked, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.reporting.importers import aiperf, guidellm, inferencex, sglang_bench, vllm_bench
from harness.schema import Imported

FORMATS: dict[
    str, tuple[Callable[[dict[str, Any]], bool], Callable[[list[dict[str, Any]], str], list[Imported]]]
]
FORMATS = {
    "guidellm benchmarks.json": (guidellm.recognises, guidellm.convert),
    "aiperf profile_export": (aiperf.recognises, aiperf.convert),
    "InferenceX agg_*.json": (inferencex.recognises, inferencex.convert),
    "SGLang bench_serving JSONL": (sglang_bench.recognises, sglang_bench.convert),
    "vLLM bench serve JSON": (vllm_bench.recognises, vllm_bench.convert),
}
"""Format -> (whether an object is of it, conversion of a file's objects), the most particular first."""


def read(path: Path) -> list[Imported]:
    """All measurements of one file, one or several objects long.

    Raises InputError when it cannot be read or is of no known format.
    """
    found = objects(path)
    for recognises, convert in FORMATS.values():
        if recognises(found[0]):
            try:
                return convert(found, path.name)
            except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
                raise InputError(
                    f"{path} lacks what its format promises ({error!r}); export it again."
                ) from error
    raise InputError(f"{path} is of no format that can be imported: {', '.join(FORMATS)}.")


def objects(path: Path) -> list[dict[str, Any]]:
    """The file's JSON objects, by Python's parser: some tools write Infinity and NaN. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a JSON or JSON-lines file.") from error
    found = _whole(text) or _lines(text)
    kept = [value for value in found if isinstance(value, dict)]
    if not kept:
        raise InputError(f"{path} holds no JSON object; give a result file of {', '.join(FORMATS)}.")
    return kept


def _whole(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return value if isinstance(value, list) else [value]


def _lines(text: str) -> list[Any]:
    """Objects of a JSON-lines file; a cut-off last line is dropped."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
