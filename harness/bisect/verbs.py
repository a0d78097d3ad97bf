"""`just bisect`: its words as those of a bench whose variants are the candidates."""

from __future__ import annotations

from collections.abc import Sequence

from harness import registry, store
from harness.bisect import judging
from harness.bisect.evidence import METRICS
from harness.errors import InputError
from harness.host import engine_versions, package_index
from harness.label import release
from harness.label.dialect import version_key
from harness.recipe import Words

KNOWN = "just bisect VARIANT good=VERSION bad=VERSION [metric=METRIC] [workload] [key=value ...]"
_SMALL, _USUAL = "100/200", "1000/2000"


def as_bench(given: Sequence[str]) -> list[str]:
    """The words of the bench that a bisection is. Raises InputError for what is missing or does not exist."""
    words = Words(given)
    if words.pairs.get("run_id") and not words.plain:
        return list(given)
    if not words.plain:
        raise InputError(f"bisect needs a variant: {KNOWN}.")
    name, *workload = words.plain
    metric = words.take("metric", "output_throughput")
    if metric not in METRICS:
        raise InputError(
            f"metric={metric} is nothing that versions are told apart by; there are: {', '.join(METRICS)}."
        )
    names = _candidates(name, words)
    small = registry.variant(names[0]).accelerator == "cpu"
    shapes = workload or ([] if "recipe" in words.pairs else [_SMALL if small else _USUAL])
    usual = {"repeats": str(judging.MOST), "question": _question(names, metric)}
    if metric in ("start", "label", "output"):
        usual["reference"] = "none"
    usual["run_id"] = store.new_run_id(f"bisect {metric} {names[0]} {names[-1].rpartition(release.AT)[2]}")
    pairs = {**usual, **words.pairs, "bisect": metric}
    return [",".join(names), *shapes, *(f"{key}={value}" for key, value in pairs.items())]


def _candidates(name: str, words: Words) -> tuple[str, ...]:
    """Variants in their order: listed as such, versions= listed, or all released between good= and bad=."""
    good, bad, listed = words.take("good"), words.take("bad"), words.take("versions")
    if "," in name:
        return tuple(registry.variant(one).name for one in name.split(",") if one)
    if listed:
        versions = tuple(one for one in listed.split(",") if one)
        if good in versions and bad in versions:
            versions = _from_to(versions, good, bad)
        elif good or bad:
            raise InputError(f"good= and bad= must be among versions={listed}; or leave them out.")
    elif not (good and bad):
        raise InputError(f"bisect needs good= and bad=, or versions= in their order: {KNOWN}.")
    else:
        versions = released(name, good, bad)
    return tuple(registry.variant(release.named(name, version)).name for version in versions)


def released(name: str, good: str, bad: str) -> tuple[str, ...]:
    """Every release of the package index from good to bad, whichever is older. Raises InputError."""
    variant = registry.variant(name)
    if not variant.environment:
        raise InputError(
            f"{name} is not made from a package index, so its releases are not known; list them in their "
            "order: versions=TAG,TAG,..."
        )
    package = engine_versions.engine(release.base(variant.environment), registry.ROOT).package
    candidates = any(_is_candidate(version) for version in (good, bad))
    known = package_index.versions(package, candidates=candidates)
    for end in (good, bad):
        if end not in known:
            engine_versions.refuse_unknown(release.named(variant.environment, end), registry.ROOT)
            raise InputError(f"{package} {end} is not in the package index any more; name another version.")
    return _from_to(tuple(sorted(known, key=version_key)), good, bad)


def _is_candidate(version: str) -> bool:
    return any(mark in version for mark in ("rc", "a", "b", "dev"))


def _from_to(versions: tuple[str, ...], good: str, bad: str) -> tuple[str, ...]:
    """Backwards where the bad one is the older."""
    first, last = versions.index(good), versions.index(bad)
    return versions[first : last + 1] if first <= last else versions[last : first + 1][::-1]


def _question(names: Sequence[str], metric: str) -> str:
    return f"Which of {len(names)} versions changed {METRICS[metric].words}, from {names[0]} to {names[-1]}?"
