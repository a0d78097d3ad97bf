"""Pairs in the report: what an option brings, what was really reused, whose tokens were judged."""

from harness.numbers import verdicts
from harness.numbers.figures import Figure
from harness.reporting import pairs, report
from harness.schema import Agreement, Comparison, Interval, Metrics, Population, Reuse, Row

RATE = Figure("output_throughput", "output tok/s", lambda seen: None)
METRICS = Metrics(
    completed=8,
    failed=0,
    window_s=1.0,
    total_input_tokens=1,
    total_output_tokens=1,
    request_throughput=1.0,
    output_throughput=1.0,
    total_token_throughput=1.0,
)


def row(variant: str, populations: tuple[Population, ...] = (), reuse: Reuse | None = None) -> Row:
    return Row(
        variant=variant,
        scenario="s@c4",
        status="done",
        metrics=METRICS,
        output_throughput=Interval(mean=1.0, low=1.0, high=1.0, num=3),
        agreement=Agreement(verdict="PASS", populations=populations),
        reuse=reuse,
        attested=True,
    )


def contrasts(rates: dict[str, tuple[float, ...]]) -> tuple[verdicts.Contrast, ...]:
    found = [
        verdicts.Sample("s@c4", variant, RATE, dict(enumerate(values, start=1)))
        for variant, values in rates.items()
    ]
    return verdicts.contrasts(found, "a")


def test_a_switched_variant_is_held_against_itself_and_others_against_the_baseline() -> None:
    rates = {"a": (10.0, 10.1, 9.9), "b": (20.0, 20.2, 19.9), "b+prefix": (60.0, 61.0, 59.5)}
    found = {c.variant: c.baseline for c in contrasts(rates)}
    assert found == {"b": "a", "b+prefix": "b"}


def test_without_its_partner_a_switched_variant_is_held_against_the_baseline() -> None:
    assert [c.baseline for c in contrasts({"a": (10.0, 10.1), "b+prefix": (30.0, 30.2)})] == ["a"]


def test_the_report_tells_each_pair() -> None:
    cached = Population(
        name="behind a cache hit", verdict="PASS", num_requests=5, num_tokens=240, noise_ratio=1.02
    )
    late = Population(name="behind a cache hit, turn 4", verdict="PASS", num_requests=4, num_tokens=200)
    told = Reuse(hit_share=0.6, hit_share_counted=0.6, hit_share_ideal=0.61)
    comparison = Comparison(
        run_id="r",
        question="q",
        rows=(row("a"), row("a+prefix", (cached, late), told)),
        contrasts=contrasts({"a": (10.0, 10.1, 9.9), "a+prefix": (30.0, 30.5, 29.8)}),
    )
    (line,) = pairs.rows(comparison)
    assert line[:2] == ("a+prefix / a", "s@c4")
    assert line[2].startswith("output tok/s 3.01x (") and line[2].endswith("better")
    assert line[3] == "reused 60.0% of prompt tokens (counters 60.0%, ideal 61.0%)"
    assert line[4].startswith("PASS behind a cache hit (240 tokens of 5 requests, 1.02 x rounding)")
    (short,) = pairs.lines(comparison)
    assert short.startswith("pair a+prefix / a at s@c4: reused") and "turn 4" not in short
    assert "## Pairs" in report.markdown(comparison, None)
