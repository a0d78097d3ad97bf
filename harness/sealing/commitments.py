"""What a seal commits to, as hashes that can be made again from a run's files. Pure."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import Any

import msgspec

from harness.numbers.figures import figures
from harness.schema import Launch, Recipe, Sampling
from harness.sealing.nouns import Hypothesis
from harness.secrets import redacted_launch, redacted_recipe

_ENCODER = msgspec.json.Encoder(order="deterministic")
_PORT = re.compile(r"((?:[\w.{}\]]:|port=))\d{4,5}$")
"""The port of an address, HOST:PORT, or of a flag, --port=PORT."""
_ASKED = ("model", "reference", "args", "env", "settings", "image", "launcher", "url", "python")


def sha256(value: Any) -> str:
    """Of a value's JSON, keys in order."""
    return hashlib.sha256(_ENCODER.encode(value)).hexdigest()


def public(recipe: Recipe) -> Recipe:
    """The recipe as a seal shows it: no secret, and no seed yet."""
    unseeded = tuple(
        msgspec.structs.replace(spec, seed=0, sampling=_unseeded(spec.sampling)) for spec in recipe.workloads
    )
    return redacted_recipe(msgspec.structs.replace(recipe, seed=0, workloads=unseeded))


def _unseeded(sampling: Sampling | None) -> Sampling | None:
    if sampling is None or sampling.seed is None:
        return sampling
    return msgspec.structs.replace(sampling, seed=0)


def matter(recipe: Recipe) -> str:
    """Hash of what is asked: who, of which model, doing what. Another seed asks the same once more."""
    shown = public(recipe)
    work = sorted(
        (spec.name, sorted(spec.params.items(), key=str), sha256(spec.sampling), load.label)
        for spec, load in shown.offered
    )
    asked = {name: getattr(shown, name) for name in _ASKED}
    return sha256([sorted(shown.variants), work, asked])


def seeds(recipe: Recipe, salt: str) -> str:
    """Commits to every seed of a recipe; the salt keeps small numbers from being tried out."""
    return sha256([salt, recipe.seed, [(spec.seed, spec.sampling) for spec in recipe.workloads]])


def launched(launch: Launch, run: str) -> str:
    """Hash of a launch's command, variables, option files and image; ports and run folder are left out."""
    shown = redacted_launch(launch)
    return sha256(
        [
            [_lasting(word, before, launch.port, run) for before, word in pairwise(("", *shown.argv))],
            {name: _lasting(value, name, launch.port, run) for name, value in shown.env.items()},
            shown.files,
            (shown.engine, shown.image, shown.model, shown.revision, shown.url),
        ]
    )


def _lasting(word: str, before: str, port: int, run: str) -> str:
    """A word without what every launch gets anew; `before` is its flag or its variable."""
    if run and f"/{run}/" in word:
        return "RUN"
    if word == str(port) or (word.isdigit() and before.lower().endswith("port")):
        return "PORT"
    return _PORT.sub(r"\1PORT", word)


def hypotheses(recipe: Recipe) -> tuple[Hypothesis, ...]:
    """Every primary figure that the recipe's loads ask for, of each variant against the baseline."""
    baseline = recipe.baseline or recipe.variants[0]
    others = tuple(name for name in recipe.variants if name != baseline)
    return tuple(
        Hypothesis(
            scenario=name,
            figure=figure.title,
            better="less" if figure.lower_is_better else "more",
            baseline=baseline,
            variants=others,
        )
        for name, (_, load) in zip(recipe.scenarios, recipe.offered, strict=True)
        for figure in figures(load, bool(recipe.slo), {})
        if figure.primary and others
    )
