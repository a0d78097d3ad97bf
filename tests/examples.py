"""A comparison with every kind of row, hostile text included: input of the report and log tests."""

from __future__ import annotations

from harness.schema import (
    Agreement,
    Comparison,
    Contrast,
    Difference,
    Distribution,
    Environment,
    Interval,
    Metrics,
    Ran,
    Recipe,
    Row,
)

HOSTILE = "<script>alert('x')</script> | `code` **bold** [bold]rich[/bold]\n## heading\x1b[31m\u202e"


def distribution(p50: float) -> Distribution:
    return Distribution(count=50, mean=p50, p50=p50, p90=p50 * 1.2, p95=p50 * 1.5, p99=p50 * 2, max=p50 * 3)


def metrics(rate: float, failed: int = 0) -> Metrics:
    return Metrics(
        completed=50 - failed,
        failed=failed,
        window_s=10.0,
        total_input_tokens=5000,
        total_output_tokens=int(rate * 10),
        request_throughput=5.0,
        output_throughput=rate,
        total_token_throughput=rate + 500,
        ttft_s=distribution(0.1234),
        tpot_s=distribution(0.0123),
        e2el_s=distribution(2.0),
    )


def row(variant: str, rate: float, verdict: str = "PASS", **fields: object) -> Row:
    agreement = Agreement(
        verdict=verdict,  # type: ignore[arg-type]
        reference="transformers",
        reason="token match 41 % against a floor of 97 %" if verdict == "FAIL" else "",
        token_match=0.41 if verdict == "FAIL" else 0.985,
        mean_abs_dlogprob=0.0123,
        mean_margin=0.004,
    )
    defaults: dict[str, object] = {
        "scenario": "1000-2000@c8",
        "status": "done",
        "num_gpus": 8,
        "metrics": metrics(rate),
        "output_throughput": Interval(mean=rate, low=rate * 0.95, high=rate * 1.05, num=3),
        "agreement": agreement,
        "attested": True,
    }
    return Row(variant=variant, **{**defaults, **fields})  # type: ignore[arg-type]


COMPARISON = Comparison(
    run_id="20261121-004000-example",
    question=f"Does A beat B? {HOSTILE}",
    rows=(
        row("engine-b", 1000.0),
        row("engine-a", 1180.0),
        row("engine-wrong", 5000.0, "FAIL"),
        row("engine-mislabelled", 3000.0, invalid="expert_parallel_size: label says 8, engine runs 1"),
        Row(variant="engine-c", scenario="1000-2000@c8", status="failed", reason=f"out of memory {HOSTILE}"),
        row(
            "engine-a",
            200.0,
            scenario="30000-100@c8",
            num_gpus=0,
            labels=("dummy-weights",),
            notes=("client used 91 % of its core",),
            metrics=metrics(200.0, failed=3),
            output_throughput=Interval(mean=200.0, low=200.0, high=200.0, num=1),
            agreement=None,
            attested=False,
        ),
    ),
    contrasts=(
        Contrast(
            scenario="1000-2000@c8",
            baseline="engine-b",
            variant="engine-a",
            ratio=Interval(mean=1.18, low=1.12, high=1.25, num=3),
            words="engine-a is 1.18x engine-b (1.12-1.25)",
        ),
    ),
    differences=(
        Difference(
            field="kv_cache_dtype",
            values={"engine-a": "fp8", "engine-b": None},
            reason="only engine-a has it",
        ),
    ),
    ran=(
        Ran(
            variant="engine-a",
            engine="vllm",
            engine_version="0.32.0",
            image="example/image:1",
            image_digest="sha256:" + "cd" * 32,
            weights="tiny-moe, revision 976055f8, model.safetensors sha256 abababababababab",
            commands=(f"docker run example/image:1 serve \\\n  --note '{HOSTILE}'\n```\n## 2030 x",),
            num_launches=3,
        ),
    ),
    notes=("host drift 0.4 %",),
)

ENVIRONMENT = Environment(
    started_at="2026-11-21T00:40:00Z",
    harness_commit="0123abcd",
    harness_dirty=True,
    hostname_hash="deadbeef",
    os="Debian 12",
    kernel="6.1",
    python="3.11.7",
    cpu_model="A CPU",
    num_cpus=2,
    memory_gb=24.0,
    weights={"tiny-moe/model.safetensors": "ab" * 32},
    image_digests={"example/image:1": "sha256:" + "cd" * 32},
)

RECIPE = Recipe(
    question=COMPARISON.question,
    variants=("engine-a", "engine-b"),
    model="tiny-moe",
    repeats=3,
    env={"HF_TOKEN": "hf_verysecret", "PLAIN": "1"},
    args=("--api-key", "sk-verysecret", "--max-num-seqs", "8"),
)
