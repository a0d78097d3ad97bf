"""Points of a declared space: names that are variants."""

import msgspec
import pytest

from harness import registry
from harness.errors import InputError
from harness.label import point
from harness.schema import Parallel

SPACES = ("llamacpp", "sglang", "trtllm", "vllm")


def test_a_point_s_name_is_a_variant_whose_command_and_label_have_its_settings() -> None:
    found = registry.variant("llamacpp~slots=8~flash=true")
    assert found.name == "llamacpp~slots=8~flash=true"
    assert found.args[-3:] == ("--slots", "8", "--flash-attention")
    assert "4" not in found.args
    assert found.expect["max_num_seqs"] == 8
    assert not found.in_bench_all


def test_default_leaves_every_setting_to_the_engine_and_claims_none_of_them() -> None:
    found = registry.variant("vllm-cpu~default")
    assert found.slot == "default"
    assert not {"--max-num-seqs", "--max-num-batched-tokens"} & set(found.args)
    assert "--enforce-eager" in found.args
    assert "max_num_seqs" not in found.expect


def test_a_layout_keeps_the_number_of_gpus_and_says_so_where_it_cannot() -> None:
    base = registry.variant("vllm-cuda-tp-x4")
    found = registry.variant("vllm-cuda-tp-x4~layout=dpN-epN")
    assert found.parallel == Parallel(tensor=1, data=4, expert=4)
    assert found.expect["data_parallel_size"] == base.parallel.num_gpus
    with pytest.raises(InputError, match="tp2 takes 2 GPUs, vllm-cuda-tp-x4 has 4"):
        space = {"layout": point.Setting(values=("tp2",), layout=True)}
        point.applied(base, space, {"layout": "tp2"})


@pytest.mark.parametrize(
    "name, said",
    [
        ("llamacpp~slts=3", "has no 'slts' for llamacpp; it has slots, weights, kv, flash"),
        ("llamacpp~slots=3", "slots is tried at 1, 2, 4, 8 by llamacpp, not 3"),
        ("llamacpp~slots", "'slots' has no value"),
        ("vllm-cpu~graphs=512", "has no 'graphs' for vllm-cpu"),
        ("llmacpp~slots=8", "Did you mean llamacpp"),
    ],
)
def test_what_is_no_point_is_refused_with_what_there_is(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        registry.variant(name)
    assert registry.known_variant(name) is None


@pytest.mark.parametrize("engine", SPACES)
def test_every_value_of_every_space_can_be_told_to_its_engine_and_read_back(engine: str) -> None:
    space = registry.space(engine)
    for variant in (v for v in registry.variants().values() if v.engine == engine):
        for key, setting in point.of(space, variant).items():
            for word in setting.words:
                if setting.layout and variant.parallel.num_gpus == 1:
                    continue
                found = point.applied(variant, space, {key: word})
                read = point.current(found, space)[key]
                assert read == word or {read, word} == {"false", "unset"}, (variant.name, key, word)


def test_removing_an_argument_takes_its_value_and_its_opposite_with_it() -> None:
    setting = point.Setting(values=("unset", True, False), flag="--on", off="--no-on")
    base = msgspec.structs.replace(registry.variant("llamacpp"), args=("--no-on", "--other", "1"), expect={})
    on = point.applied(base, {"on": setting}, {"on": "true"})
    assert on.args == ("--other", "1", "--on")
    assert point.applied(on, {"on": setting}, {"on": "unset"}).args == ("--other", "1")


@pytest.mark.parametrize(
    "table, said",
    [
        ({"values": ["a b"], "flag": "--x"}, "cannot stand in a name"),
        ({"values": [1]}, "say it in one way"),
        ({"values": [1], "flag": "--x", "env": "X"}, "say it in one way"),
        ({"vales": [1], "flag": "--x"}, "correct that field"),
    ],
)
def test_a_malformed_space_is_refused_with_the_field(table: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        point.read({"x": table}, "x.space.toml")


def test_numbers_that_rise_are_ordered_and_words_are_not() -> None:
    assert point.Setting(values=("unset", 1, 8), flag="--x").ordered
    assert not point.Setting(values=("a", "b"), flag="--x").ordered
    assert not point.Setting(values=(False, True), flag="--x").ordered
