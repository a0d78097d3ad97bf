"""Published recipes, on files of their repositories' layouts.

vllm-project/recipes at 8959cf6: models/, strategies/, taxonomy.yaml, src/lib/command-synthesis.js;
sgl-project/sgl-cookbook at 7b5bd9c: data/schema/types.ts.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import registry
from harness.errors import InputError
from harness.schema import Parallel
from harness.tune.vendor import checkout, verb
from harness.tune.vendor.published import Wanted, last_wins

TAXONOMY = """
hardware_profiles:
  card8: {brand: NVIDIA, generation: newest, gpu_count: 8, vram_gb: 1128}
  card1: {brand: NVIDIA, generation: newest, gpu_count: 1, vram_gb: 141}
  red8: {brand: AMD, generation: red, gpu_count: 8, vram_gb: 1536}
  socket: {brand: Intel, generation: cpu, gpu_count: 4, vram_gb: 1024}
"""
STRATEGIES = {
    "single_node_tp": "name: single_node_tp\ndeploy_type: single_node\nvllm_args: []\n"
    "parallel_flag: --tensor-parallel-size\n",
    "single_node_dep": "name: single_node_dep\ndeploy_type: single_node\n"
    "vllm_args: [--enable-expert-parallel]\nparallel_flag: --data-parallel-size\nenv: {WIDE: 1}\n",
    "pd_cluster": "name: pd_cluster\ndeploy_type: pd_cluster\nprefill: {}\ndecode: {}\n",
}
LAYERED = """
meta: {hardware: {card8: verified}}
model:
  model_id: Owner/Layered
  min_vllm_version: "0.12.0"
  base_args: [--trust-remote-code, --max-num-seqs, 64]
  base_env: {A: base, B: base}
variants:
  default: {vram_minimum_gb: 600}
  small:
    model_id: Owner/Layered-FP8
    vram_minimum_gb: 90
    extra_args: [--kv-cache-dtype, fp8]
    extra_env: {A: small}
    hardware_overrides: {newest: {extra_args: [--fast-kernel]}, card8: {extra_env: {EXACT: 8}}}
  four: {tp: {red8: 4, default: 2}}
compatible_strategies: [single_node_tp, single_node_dep, pd_cluster]
hardware_overrides:
  nvidia: {extra_args: [--max-num-seqs, "128"], extra_env: {B: nvidia}}
  red: {extra_env: {AITER: 1}}
strategy_overrides:
  single_node_dep:
    extra_args: [--max-model-len, 8192]
    hardware_overrides: {newest: {extra_args: [--replaced]}, card8: {extra_args: [--exact]}}
"""
PLAIN = """
meta: {hardware: {socket: verified}}
model: {model_id: Owner/Plain, base_args: []}
variants: {default: {precision: bf16, vram_minimum_gb: 74}}
compatible_strategies: [single_node_tp]
hardware_overrides: {cpu: {extra_args: [--max-num-batched-tokens, "16384"]}}
strategy_overrides: {single_node_tp: {tp: {socket: 1}}}
"""
OMNI = """
meta: {hardware: {card1: verified}}
model: {model_id: Owner/Painter, base_args: [--port, 1]}
omni: {tasks: [t2i]}
variants: {default: {}}
compatible_strategies: [single_node_tp]
"""
ONLY_WIDE = """
meta: {hardware: {card9: verified, card8: supported}}
model: {model_id: Owner/Wide, base_args: []}
variants: {default: {}}
compatible_strategies: [pd_cluster]
"""
COOKBOOK = """
vendor: owner
families:
- name: Family
  models:
  - name: Talker
    model_path: Owner/Talker
    hardware:
      H200:
        configurations:
        - name: default
          engine: {env_vars: {}, tp: 8, dp: null, ep: null, enable_dp_attention: null, extra_args: [--symm]}
        - name: wide
          engine: {env_vars: {SPEC: 1}, tp: 8, dp: 8, ep: 8, enable_dp_attention: true, extra_args: []}
        - name: replicas
          engine: {env_vars: {}, tp: 2, dp: 4, ep: null, enable_dp_attention: null, extra_args: []}
        - name: apart
          engine: null
          prefill: {tp: 8}
          decode: {tp: 8}
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A checkout of the first layout, committed."""
    files = {
        "taxonomy.yaml": TAXONOMY,
        **{f"strategies/{name}.yaml": text for name, text in STRATEGIES.items()},
        "models/Owner/Layered.yaml": LAYERED,
        "models/Owner/Plain.yaml": PLAIN,
        "models/Owner/Painter.yaml": OMNI,
    }
    return written(tmp_path / "recipes", files)


@pytest.fixture
def cookbook(tmp_path: Path) -> Path:
    """A checkout of the second layout: the same model in two versions."""
    old = COOKBOOK.replace("--symm", "--old")
    place = "data/models/generated"
    return written(
        tmp_path / "cookbook", {f"{place}/v0.5.6/owner.yaml": old, f"{place}/v0.5.10/owner.yaml": COOKBOOK}
    )


def written(folder: Path, files: dict[str, str]) -> Path:
    """The files in a folder under git."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "recipes")):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_layers_come_in_the_publisher_s_order_and_what_is_said_last_wins(recipes: Path) -> None:
    found = checkout.opened(recipes).read(Wanted(model="owner/layered", hardware="card8"))
    assert found.args == ("--trust-remote-code", "--max-num-seqs", "128")
    assert found.env == {"A": "base", "B": "nvidia"}
    assert (found.parallel, found.needs) == (Parallel(tensor=8), "0.12.0")


def test_another_checkpoint_adds_its_own_layers_and_takes_one_gpu_where_it_fits(recipes: Path) -> None:
    wanted = Wanted(model="Owner/Layered-FP8", hardware="card8", precision="small")
    found = checkout.opened(recipes).read(wanted)
    assert found.model == "Owner/Layered-FP8"
    assert found.args == (
        *("--trust-remote-code", "--kv-cache-dtype", "fp8", "--max-num-seqs", "128", "--fast-kernel"),
    )
    assert found.env == {"A": "small", "B": "nvidia", "EXACT": "8"}
    assert found.parallel == Parallel(tensor=1)


def test_a_strategy_s_hardware_replaces_the_recipe_s_and_an_exact_one_is_added(recipes: Path) -> None:
    wanted = Wanted(model="Owner/Layered", hardware="card8", name="single_node_dep")
    found = checkout.opened(recipes).read(wanted)
    assert found.args == ("--trust-remote-code", "--max-num-seqs", "64", "--replaced", "--exact")
    assert (found.parallel, found.max_model_len) == (Parallel(data=8, expert=8), 8192)
    assert found.env == {"A": "base", "B": "base", "WIDE": "1"}


@pytest.mark.parametrize("hardware, tensor", [("red8", 4), ("card8", 2), ("card1", 1)])
def test_a_declared_size_is_looked_up_by_accelerator_and_never_beyond_the_node(
    recipes: Path, hardware: str, tensor: int
) -> None:
    wanted = Wanted(model="Owner/Layered", hardware=hardware, precision="four")
    assert checkout.opened(recipes).read(wanted).parallel == Parallel(tensor=tensor)


@pytest.mark.parametrize(
    "wanted, said",
    [
        (Wanted(model="Owner/Layered", hardware="card9"), "it has card8, card1, red8, socket"),
        (Wanted(model="Owner/Layered", hardware="card8", name="pd_cluster"), "starts several servers"),
        (Wanted(model="Owner/Plain", hardware="card8", name="single_node_dep"), "it offers single_node_tp"),
        (Wanted(model="Owner/Layered", hardware="card8", precision="tiny"), "has default, small, four"),
        (Wanted(model="Owner/Nothing"), "has no recipe for Owner/Nothing"),
    ],
)
def test_what_a_checkout_does_not_offer_is_refused_with_what_it_does(
    recipes: Path, wanted: Wanted, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        checkout.opened(recipes).read(wanted)


def test_a_survey_names_every_file_that_cannot_be_read_and_why(recipes: Path) -> None:
    (recipes / "models/Owner/Broken.yaml").write_text("model: [", encoding="utf-8")
    (recipes / "models/Owner/Wide.yaml").write_text(ONLY_WIDE, encoding="utf-8")
    other = "meta: {hardware: {card1: verified}}\nmodel: {base_args: {a: 1}}\nvariants: 3\n"
    (recipes / "models/Owner/Other.yaml").write_text(other, encoding="utf-8")
    opened = checkout.opened(recipes)
    read, unread = checkout.survey(opened)
    assert sorted(read) == [f"models/Owner/{name}.yaml" for name in ("Layered", "Painter", "Plain")]
    assert "--omni" in read["models/Owner/Painter.yaml"].args
    assert sorted(unread) == [f"models/Owner/{name}.yaml" for name in ("Broken", "Other", "Wide")]
    assert "several servers only" in unread["models/Owner/Wide.yaml"]
    assert "another layout" in unread["models/Owner/Other.yaml"]
    assert opened.commit.endswith("+") and len(opened.commit) == 41


def test_the_cookbook_s_newest_version_is_taken_and_its_sizes_are_the_label_s(cookbook: Path) -> None:
    opened = checkout.opened(cookbook)
    found = opened.read(Wanted(model="owner/talker", hardware="h200"))
    assert (found.args, found.parallel, found.needs) == (("--symm",), Parallel(tensor=8), "v0.5.10")
    wide = opened.read(Wanted(model="Owner/Talker", hardware="H200", name="wide"))
    assert (wide.parallel, wide.env) == (Parallel(tensor=8, expert=8, attention_data=8), {"SPEC": "1"})
    replicas = opened.read(Wanted(model="Owner/Talker", name="replicas"))
    assert replicas.parallel == Parallel(tensor=2, data=4)
    with pytest.raises(InputError, match="prefill and decode apart"):
        opened.read(Wanted(model="Owner/Talker", name="apart"))


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1", encoding="utf-8")
    with pytest.raises(InputError, match="is no checkout of"):
        checkout.opened(tmp_path)


def test_a_kept_recipe_is_a_variant_in_the_vendor_s_slot(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_VARIANTS", str(tmp_path / "vendor"))
    said = list(verb.vendor([str(recipes), "model=Owner/Plain", "hardware=socket", "base=vllm-cpu"]))
    assert said[-1].endswith("vllm-vendor-plain-socket.toml")
    found = registry.variant("vllm-vendor-plain-socket")
    assert found.slot == "vendor" and found.engine == "vllm" and found.model == "tiny-moe"
    assert found.args[-2:] == ("--max-num-batched-tokens", "16384")
    assert "--enforce-eager" in found.args and "--max-num-seqs" not in found.args
    assert found.found["file"] == "models/Owner/Plain.yaml" and len(str(found.found["commit"])) == 40
    assert found.expect == {"tensor_parallel_size": 1}
    with pytest.raises(InputError, match="need a base of vllm"):
        list(verb.vendor([str(recipes), "model=Owner/Plain", "base=llamacpp"]))


def test_a_checkout_is_listed_file_by_file(recipes: Path) -> None:
    said = list(verb.vendor([str(recipes)]))
    assert said[0].endswith("3 of 3 files are read")
    assert "  Owner/Plain: socket, single_node_tp (models/Owner/Plain.yaml)" in said


def test_of_a_flag_said_twice_the_last_counts_with_its_value() -> None:
    assert last_wins(["--a", "1", "--b", "--a", "2"]) == ["--b", "--a", "2"]
