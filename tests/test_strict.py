"""What strict=true asks of a row."""

from __future__ import annotations

import msgspec
import pytest

from harness.numbers import strict
from harness.schema import Agreement, Ranked, Row, Tail, Within
from tests.examples import row

ASKED = Tail(
    metric="due_ttft", asked=0.99, share=0.99, value=0.1, bound=0.2, num=2000, num_effective=2000.0,
    pooled=True, needed=0,
)  # fmt: skip


def whole(**fields: object) -> Row:
    """A row that lacks nothing, but for `fields`."""
    good = row("engine-a", 1000.0)
    assert good.metrics is not None
    long = msgspec.structs.replace(good.metrics, window_s=70.0)
    return msgspec.structs.replace(good, **{"metrics": long, "tails": (ASKED,), **fields})  # type: ignore[arg-type]


LIMITS = {"ttft_s": 0.5, "tpot_s": 0.02}
WAIT = (Ranked(title="E2EL p50 from due", value=1.0, lower_is_better=True),)


def test_a_row_that_lacks_nothing_is_ranked() -> None:
    assert strict.reasons(whole(), {}) == ""
    assert strict.reasons(whole(plateau=True, tails=()), {}) == ""
    held = Within(asked=0.99, share=0.999, num=2000, certified=True)
    assert strict.reasons(whole(ranked_by=WAIT, within=held), LIMITS) == ""


def test_an_open_loop_holds_its_limits_jointly_and_has_both() -> None:
    missed = whole(ranked_by=WAIT, within=Within(asked=0.99, share=0.9825, num=2000, certified=False))
    assert strict.reasons(missed, LIMITS) == (
        "strict: 99% of requests within ttft_s <= 0.5 and tpot_s <= 0.02 at once is not shown (98.2% of 2000 "
        "did; 662 without a miss are the fewest that can show it, and requests slow together count less)"
    )
    assert strict.reasons(whole(ranked_by=WAIT), {"ttft_s": 0.5}).endswith("limits to hold (slo.tpot_s=)")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"output_throughput": None}, "0 of at least 3 restarts"),
        ({"attested": False}, "its label is not proven"),
        ({"agreement": Agreement(verdict="CANNOT TELL")}, "not judged right (CANNOT TELL)"),
        ({"agreement": None}, "not judged right (not verified)"),
        ({"plateau": False}, "has a plateau"),
        ({"metrics": row("engine-a", 1000.0).metrics}, "took 10 s of at least 60"),
        ({"tails": (msgspec.structs.replace(ASKED, needed=512),)}, "p99 is not certified: 512 requests more"),
    ],
)
def test_what_is_missing_is_said(fields: dict[str, object], reason: str) -> None:
    said = strict.reasons(whole(**fields), {})
    assert said.startswith("strict: ") and reason in said
