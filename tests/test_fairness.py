"""The ledger of differences between compared engines."""

from harness.label.fairness import differences
from harness.schema import Effective

VLLM = Effective(
    engine_version="0.32.0", dtype="bfloat16", cuda_graphs=False, all2all="mori", max_num_seqs=256
)
SGLANG = Effective(
    engine_version="0.5.23", dtype="bfloat16", cuda_graphs=True, all2all="none", max_num_seqs=None
)


def test_only_differing_fields_are_listed_in_field_order() -> None:
    found = differences({"a": VLLM, "b": SGLANG}, {})
    assert [d.field for d in found] == ["all2all", "max_num_seqs", "cuda_graphs"]
    assert found[1].values == {"a": 256, "b": None}


def test_reasons_are_stated_compared_or_missing() -> None:
    reasons = {"a": {"cuda_graphs": "the documents run it eagerly"}, "b": {}}
    found = {d.field: d.reason for d in differences({"a": VLLM, "b": SGLANG}, reasons)}
    assert found["cuda_graphs"] == "a: the documents run it eagerly"
    assert found["all2all"] == "the variants compare it"
    assert found["max_num_seqs"] == "unexplained"


def test_equal_engines_leave_an_empty_ledger() -> None:
    assert differences({"a": VLLM, "b": VLLM}, {}) == ()
    assert differences({}, {}) == ()


def test_same_reason_is_said_once() -> None:
    slow = Effective(cuda_graphs=False)
    reasons = {name: {"cuda_graphs": "eager"} for name in ("a", "b")}
    (found,) = differences({"a": slow, "b": slow, "c": Effective(cuda_graphs=True)}, reasons)
    assert found.reason == "a, b: eager"
