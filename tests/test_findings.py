"""Values with proof, and Prometheus text."""

import msgspec
import pytest

from harness.label.findings import Findings, canonical_dtype, counters, dig, samples, search


def test_first_source_wins_and_none_is_no_value() -> None:
    found = Findings()
    found.take("device", None, "nowhere")
    found.take("device", "cuda", "log line")
    found.take("device", "cpu", "later")
    shown = found.effective()
    assert (shown.device, shown.proof) == ("cuda", {"device": "log line"})


def test_wrong_type_is_refused() -> None:
    found = Findings()
    found.take("tensor_parallel_size", "eight", "log line")
    with pytest.raises(msgspec.ValidationError):
        found.effective()


def test_dig_and_search() -> None:
    assert dig({"a": {"b": 3}}, "a.b") == 3
    assert dig({"a": 1}, "a.b") is None
    match = search(r"x=(\d)", ["no", "x=4 x=5", "x=6"])
    assert match and match[1] == "4"


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("torch.bfloat16", "bfloat16"),
        ("bf16", "bfloat16"),
        ("fp8", "fp8_e4m3"),
        ("fp8_e5m2", "fp8_e5m2"),
        ("torch.float8_e4m3fn", "fp8_e4m3"),
        ("float8_e4m3fnuz", "fp8_e4m3"),
        ("torch.float8_e5m2", "fp8_e5m2"),
        (None, None),
    ],
)
def test_dtype_names(spelt: str | None, name: str | None) -> None:
    assert canonical_dtype(spelt) == name


TEXT = """# TYPE a_tokens counter
a_tokens_total{engine="0"} 3
a_tokens_total{engine="1"} 4
# TYPE usage gauge
usage{engine="0"} 0.25
usage{engine="1"} 0.75
"""


def test_counters_sum_and_usage_is_the_largest() -> None:
    names = {"tokens": ("absent", "a_tokens_total"), "kv_usage": ("usage",), "missing": ("nothing",)}
    assert counters(TEXT, names) == {"tokens": 7.0, "kv_usage": 0.75}


def test_samples_keep_labels() -> None:
    assert samples(TEXT, "usage") == [({"engine": "0"}, 0.25), ({"engine": "1"}, 0.75)]


@pytest.mark.parametrize("text", ["", "<html>", "{not prometheus"])
def test_other_text_has_no_samples(text: str) -> None:
    assert counters(text, {"tokens": ("a",)}) == {}
    assert samples(text, "a") == []
