"""What caches and drafts did in a row, by the answers and by the engine's own counters. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.schema import Reuse, TrialResult

TOLERANCE = 0.01


def reuse(trials: Sequence[TrialResult], ideal: float) -> Reuse | None:
    """Over all finished trials of a row; None where nothing was cached or drafted, or nobody tells.

    `ideal`: share of prompt tokens that a cache which forgets nothing would reuse; 0 = nothing repeats.
    """
    told, counted = _sums([t.told for t in trials]), _sums([t.counters for t in trials])
    read = told.get("prompt_tokens", 0.0)
    hits = told.get("cached_tokens", 0.0), counted.get("prefix_cache_hits", 0.0)
    if not read or not (any(hits) or counted.get("drafts") or told.get("accepted_tokens") or _steps(counted)):
        return None
    by_answers, by_counters = hits[0] / read, hits[1] / read
    lengths = _length(counted, told)
    drafts = counted.get("drafts", 0.0)
    proposed = counted.get("draft_tokens", 0.0)
    return Reuse(
        hit_share=by_answers if any(hits) else None,
        hit_share_counted=by_counters if "prefix_cache_hits" in counted and any(hits) else None,
        hit_share_ideal=ideal or None,
        acceptance_length=lengths[0],
        acceptance_length_told=lengths[1],
        acceptance_rate=counted.get("accepted_tokens", 0.0) / proposed if proposed else None,
        rate_at=_rates(counted, drafts),
        doubt="; ".join(
            _doubts(by_answers, by_counters if "prefix_cache_hits" in counted else None, lengths)
        ),
    )


def words(found: Reuse) -> str:
    """One sentence: "reused 94.5% of prompt tokens (counters 94.5%, ideal 94.5%); ..."."""
    parts = []
    if found.hit_share is not None:
        beside = [f"counters {found.hit_share_counted:.1%}"] if found.hit_share_counted is not None else []
        beside += [f"ideal {found.hit_share_ideal:.1%}"] if found.hit_share_ideal is not None else []
        parts.append(f"reused {found.hit_share:.1%} of prompt tokens" + _in_brackets(beside))
    if found.acceptance_length is not None:
        beside = []
        if found.acceptance_length_told is not None:
            beside.append(f"answers {found.acceptance_length_told:.2f}")
        if found.rate_at:
            beside.append("by position " + " ".join(f"{rate:.0%}" for rate in found.rate_at))
        length = f"{found.acceptance_length:.2f} tokens a verification"
        rate = (
            f", {found.acceptance_rate:.0%} of drafts accepted" if found.acceptance_rate is not None else ""
        )
        parts.append(length + rate + _in_brackets(beside))
    if found.doubt:
        parts.append(found.doubt)
    return "; ".join(parts)


def _in_brackets(parts: Sequence[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""


def _sums(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of entries that all rows have."""
    common = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {name: sum(row[name] for row in rows) for name in common}


def _steps(counted: dict[str, float]) -> float:
    return counted.get("verifications", 0.0)


def _length(counted: dict[str, float], told: dict[str, float]) -> tuple[float | None, float | None]:
    """Tokens per verification by (counters, answers); None where that side does not say.

    The answers do not say how many verifications there were: their accepted tokens stand over the counters'.
    """
    drafts, accepted = counted.get("drafts", 0.0), counted.get("accepted_tokens")
    if drafts and accepted is not None:
        said = told.get("accepted_tokens") or told.get("run_tokens")
        return 1.0 + accepted / drafts, 1.0 + said / drafts if said else None
    if steps := _steps(counted):
        # Every token but the first of an answer comes of a verification.
        made = counted.get("generation_tokens", 0.0)
        runs = told.get("run_tokens", 0.0)
        return made / steps, (steps + runs) / steps if runs else None
    return None, None


def _rates(counted: dict[str, float], drafts: float) -> tuple[float, ...]:
    places = sorted(int(n.removeprefix("accepted_at_")) for n in counted if n.startswith("accepted_at_"))
    return tuple(counted[f"accepted_at_{place}"] / drafts for place in places) if drafts else ()


def _doubts(
    by_answers: float, by_counters: float | None, lengths: tuple[float | None, float | None]
) -> list[str]:
    found = []
    if by_counters is not None and _apart(by_answers, by_counters):
        found.append(
            f"hit rates disagree by over 1 %: {by_answers:.2%} by the answers, {by_counters:.2%} by the "
            "counters"
        )
    ours, theirs = lengths
    if ours is not None and theirs is not None and _apart(ours, theirs):
        found.append(
            f"acceptance lengths disagree by over 1 %: {ours:.3f} by the counters, {theirs:.3f} by the "
            "answers"
        )
    return found


def _apart(a: float, b: float) -> bool:
    return abs(a - b) > TOLERANCE * max(a, b)
