"""Labels against what runs: tables, and a real vLLM started as something else."""

from pathlib import Path

import msgspec
import pytest

from engines import vllm
from harness import models, registry, server
from harness.errors import InputError
from harness.host import engine_env
from harness.label.attestation import attest
from harness.planned import render
from harness.schema import Deployment, Effective, Evidence, Variant

MORI = Effective(
    engine_version="0.32.0",
    tensor_parallel_size=1,
    data_parallel_size=8,
    expert_parallel_size=8,
    all2all="mori",
    moe_kernel="aiter",
    kv_cache_dtype="fp8_e4m3",
    load_format="auto",
    prefix_cache=False,
    cuda_graphs=False,
    stream_interval=1,
    speculative="none",
    proof={"all2all": "Using MoriAll2AllManager all2all manager."},
)


def test_label_that_holds() -> None:
    attested = attest(MORI, registry.variant("vllm-mori"))
    assert attested.valid
    proofs = {claim.field: claim.proof for claim in attested.claims}
    assert proofs["all2all"] == "Using MoriAll2AllManager all2all manager."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"all2all": "none"}, "all2all: label says 'mori', engine runs 'none'"),
        ({"moe_kernel": "triton"}, "moe_kernel: label says 'aiter', engine runs 'triton'"),
        ({"moe_kernel": None}, "moe_kernel: label says 'aiter', engine does not show it"),
        ({"load_format": "dummy"}, "load_format: label says 'auto', engine runs 'dummy'"),
        ({"prefix_cache": True}, "prefix_cache: label says False, engine runs True"),
        ({"engine_version": "0.31.1"}, "engine_version: label says '0.32.0', engine runs '0.31.1'"),
        ({"engine_version": None}, "engine_version: label says '0.32.0', engine does not show it"),
    ],
)
def test_label_that_does_not_hold_is_named(change: dict[str, object], words: str) -> None:
    attested = attest(msgspec.structs.replace(MORI, **change), registry.variant("vllm-mori"))
    assert not attested.valid
    assert attested.reason == words


def test_false_is_not_zero() -> None:
    variant = Variant(
        name="v", engine="e", source="", accelerator="cpu", version="branch", expect={"prefix_cache": False}
    )
    numbers = msgspec.structs.replace(Effective(), prefix_cache=0)
    assert not attest(numbers, variant).valid


def test_local_build_suffix_is_the_same_version() -> None:
    shown = msgspec.structs.replace(MORI, engine_version="0.32.0+rocm710")
    assert attest(shown, registry.variant("vllm-mori")).valid


def test_branch_build_claims_no_version() -> None:
    fields = {claim.field for claim in attest(MORI, registry.variant("vllm-mori-fork")).claims}
    assert "engine_version" not in fields


def test_expectation_no_engine_can_show_is_refused() -> None:
    variant = Variant(
        name="v", engine="vllm", source="", accelerator="cpu", version="1", expect={"all_to_all": "mori"}
    )
    with pytest.raises(InputError, match="all_to_all"):
        attest(MORI, variant)


def test_every_variant_expects_fields_that_exist() -> None:
    for variant in registry.variants().values():
        assert attest(Effective(), variant).valid == (
            not variant.expect and not variant.version[:1].isdigit()
        )


@pytest.mark.engine
def test_real_vllm_started_as_something_else_is_caught(tmp_path: Path) -> None:
    """The label says bfloat16 without prefix cache; what starts is float32 with one."""
    variant = registry.variant("vllm-cpu")
    model = models.resolve("tiny-moe")
    deployment = Deployment(
        model=model,
        launcher="process",
        model_path=model.path,
        served_model_name=model.alias,
        port=server.free_port(),
        python=str(engine_env.ensure(variant.environment, registry.ROOT, lambda _: None)),
        extra_args=("--dtype", "float32", "--enable-prefix-caching"),
    )
    with server.serving(render(variant, deployment), tmp_path / "server.log", "test") as running:
        evidence: Evidence = running.evidence()
    attested = attest(vllm.effective(evidence), variant)
    assert not attested.valid
    failed = {claim.field: claim.actual for claim in attested.claims if not claim.held}
    assert failed == {"dtype": "float32", "prefix_cache": True}
