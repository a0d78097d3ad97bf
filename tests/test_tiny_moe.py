"""models/tiny-moe as it is checked in: complete, small, and what its card says."""

import hashlib
import json
import math
import struct
from pathlib import Path

import msgspec
import pytest

MODEL = Path(__file__).parent.parent / "models" / "tiny-moe"
MOST_BYTES = 8_000_000


def read(name: str) -> dict[str, object]:
    return msgspec.json.decode((MODEL / name).read_bytes(), type=dict)


def tensor_shapes() -> dict[str, tuple[str, list[int]]]:
    """(dtype, shape) by name: a safetensors file opens with its header's length and the header as JSON."""
    with (MODEL / "model.safetensors").open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: (t["dtype"], t["shape"]) for name, t in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("name, digest", read("train.json")["sha256"].items())
def test_files_are_those_that_were_measured(name, digest):
    assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest


def test_weights_are_small_untied_and_of_the_configured_shape():
    config, tensors = read("config.json"), tensor_shapes()
    assert (MODEL / "model.safetensors").stat().st_size <= MOST_BYTES
    assert {dtype for dtype, _ in tensors.values()} == {"BF16"}
    table = [config["vocab_size"], config["hidden_size"]]
    assert tensors["lm_head.weight"][1] == tensors["model.embed_tokens.weight"][1] == table
    experts = [name for name in tensors if ".experts." in name and name.endswith("up_proj.weight")]
    assert len(experts) == config["num_hidden_layers"] * config["num_experts"]
    assert sum(math.prod(shape) for _, shape in tensors.values()) == read("train.json")["parameters"]


def test_config_speaks_to_old_and_new_readers():
    config = read("config.json")
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert config["num_experts"] == config["num_local_experts"] == 16
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["norm_topk_prob"] is True
    assert config["tie_word_embeddings"] is False


def test_special_tokens_have_the_ids_that_the_configs_name():
    ids = {token["content"]: token["id"] for token in read("tokenizer.json")["added_tokens"]}
    assert ids["<|endoftext|>"] == read("config.json")["eos_token_id"]
    assert [ids["<|endoftext|>"], ids["<|im_end|>"]] == read("generation_config.json")["eos_token_id"]


def test_heldout_rows_are_token_ids():
    rows = msgspec.json.decode((MODEL / "heldout.json").read_bytes(), type=list[list[int]])
    assert len(rows) >= 32
    assert {len(row) for row in rows} == {256}
    assert all(0 <= token < read("config.json")["vocab_size"] for row in rows for token in row)


def test_greedy_text_is_peaked_and_varied():
    """A flat or repeating model cannot tell a broken engine from a sound one."""
    for rows in ("train", "heldout"):
        for dtype in ("float32", "bfloat16"):
            greedy = read("train.json")[f"greedy_from_{rows}_{dtype}"]
            assert greedy["mean_chosen_probability"] > 0.4
            assert greedy["distinct_tokens"] > 200
            assert greedy["longest_run_of_one_token"] < 16
