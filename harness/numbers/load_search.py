"""Goodput search: the largest request rate at which an SLO is met, in few trials, with its interval.

The rate is doubled (or halved) until one trial meets the SLO and one does not, then the gap is halved on a
logarithmic scale until it is narrower than `precision`. The answer is the last rate that met it; the truth
lies between that and the first that did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from harness.errors import InputError
from harness.schema import GoodputLimit, Load, Noun, Recipe

FLOOD = 64
"""Requests in flight while a search looks for the rate to begin with."""


class SearchPlan(Noun):
    """Where to begin and when to stop."""

    start_rate: float
    """Requests/s of the first trial."""
    attained_share: float = 0.99
    """Share of all requests, failed ones included, that must meet every limit."""
    precision: float = 0.1
    """Stop when (first rate that failed / last that passed) - 1 is below this."""
    max_trials: int = 10
    min_rate: float = 0.01
    max_rate: float = 10_000.0


class Probe(Noun):
    """One trial of the search."""

    rate: float
    attained: float
    """Share of requests that met every limit."""
    passed: bool


class SearchResult(Noun):
    """The largest passing rate and what is known around it."""

    rate: float
    """Largest rate that passed; 0 when none did."""
    low: float
    high: float | None
    """The true limit lies in low .. high; None when even max_rate passed."""
    probes: tuple[Probe, ...]
    reason: str
    """Why the search stopped."""


def search(measure: Callable[[float], float], plan: SearchPlan) -> SearchResult:
    """`measure(rate)` fires one trial and returns the share within the SLO. Rates are requests/s.

    Raises InputError for a plan that leads nowhere.
    """
    if plan.start_rate <= 0 or plan.precision <= 0:
        raise InputError("a goodput search needs a start rate and a precision above 0")
    probes: list[Probe] = []
    low, high = 0.0, math.inf
    rate = plan.start_rate
    reason = "the number of trials is used up"
    for _ in range(plan.max_trials):
        share = measure(rate)
        probe = Probe(rate=rate, attained=share, passed=share >= plan.attained_share)
        probes.append(probe)
        low, high = (max(low, rate), high) if probe.passed else (low, min(high, rate))
        following = _next_rate(low, high, plan)
        if following is None:
            reason = _why(low, high, plan)
            break
        rate = following
    known = high if math.isfinite(high) else None
    return SearchResult(rate=low, low=low, high=known, probes=tuple(probes), reason=reason)


def _next_rate(low: float, high: float, plan: SearchPlan) -> float | None:
    if low == 0.0:
        return high / 2 if high / 2 >= plan.min_rate else None
    if math.isinf(high):
        return low * 2 if low * 2 <= plan.max_rate else None
    return math.sqrt(low * high) if high / low - 1 > plan.precision else None


def _why(low: float, high: float, plan: SearchPlan) -> str:
    if low == 0.0:
        return f"even {high:g} requests/s does not meet the SLO"
    if math.isinf(high):
        return f"even {low:g} requests/s meets the SLO"
    return f"known within {plan.precision:.0%}"


def plan_of(recipe: Recipe, start_rate: float) -> SearchPlan:
    """Where the search begins and ends."""
    return SearchPlan(start_rate=start_rate, attained_share=recipe.options.slo_share)


def words(found: SearchResult, recipe: Recipe) -> str:
    """The result as a sentence."""
    slo = ", ".join(f"{name} <= {limit:g} s" for name, limit in recipe.slo.items())
    share = plan_of(recipe, 1.0).attained_share
    asked = f"{share:.0%} of requests within {slo}"
    if not found.rate:
        return f"no rate met {asked}: {found.reason} ({len(found.probes)} trials)"
    upper = f"{found.high:.4g}" if found.high is not None else "?"
    return (
        f"the largest rate with {asked} is {found.rate:.4g} requests/s, the limit lies in {found.low:.4g} .. "
        f"{upper} ({len(found.probes)} trials; {found.reason})"
    )


def limit(name: tuple[str, str], found: list[SearchResult], recipe: Recipe) -> GoodputLimit:
    """What the restarts of one (variant, scenario) found together."""
    highs = [one.high for one in found if one.high is not None]
    return GoodputLimit(
        variant=name[0],
        scenario=name[1],
        rate=sum(one.rate for one in found) / len(found),
        low=min(one.low for one in found),
        high=max(highs) if len(highs) == len(found) else None,
        num_trials=sum(len(one.probes) for one in found),
        num_restarts=len(found),
        words="; ".join(dict.fromkeys(words(one, recipe) for one in found)),
    )


def flood(load: Load) -> int | None:
    """Requests in flight at most while a search looks for its first rate; None for another load."""
    return FLOOD if load.search and not load.request_rate else None
