"""Every workload: exact lengths, one seed one result, no special token, bad input in a sentence."""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from harness import registry, workload
from harness.errors import InputError, ModelError
from harness.schema import Load, Request, Trial, WorkloadSpec
from harness.tokens import Vocabulary
from workloads import multi_turn, shared_prefix, text_tokens


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """Bytes as tokens, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{n}|>", special=True) for n in ("begin", "end", "pad")])
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save(str(folder / "tokenizer.json"))
    return Vocabulary(folder)


def spec(name: str, num: int = 10, seed: int = 0, **params: str | int | float) -> WorkloadSpec:
    return WorkloadSpec(name=name, num_prompts=num, seed=seed, params=params)


def built(made: WorkloadSpec, vocabulary: Vocabulary, load: Load | None = None) -> tuple[Request, ...]:
    return workload.build(made, load or Load(max_concurrency=2), vocabulary)[0]


def ids(request: Request) -> tuple[int, ...]:
    assert request.prompt_token_ids is not None
    return request.prompt_token_ids


def test_vocabulary(vocabulary: Vocabulary, tmp_path: Path) -> None:
    assert vocabulary.size == 259 and len(vocabulary.special_ids) == 3 and len(vocabulary.plain_ids) == 256
    assert vocabulary.decode(vocabulary.encode("héllo")) == "héllo" and vocabulary.count("abc") == 3
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        _ = Vocabulary(tmp_path).size


SEEDED = [
    spec("random_tokens", input_len=33, output_len=7),
    spec("text_tokens", input_len=33, output_len=7),
    spec("shared_prefix", prefix_len=20, suffix_len=13, output_len=7),
]


@pytest.mark.parametrize("made", SEEDED, ids=lambda s: s.name)
def test_exact_lengths_no_special_ids_and_one_result_per_seed(
    made: WorkloadSpec, vocabulary: Vocabulary
) -> None:
    requests = built(made, vocabulary)
    assert len(requests) == 10 and len({r.request_id for r in requests}) == 10
    assert all(len(ids(r)) == 33 and r.max_tokens == 7 for r in requests)
    assert not vocabulary.special_ids & {i for r in requests for i in ids(r)}
    assert registry.workload(made.name).longest(made) == (33, 7)
    assert requests == built(made, vocabulary)
    other = WorkloadSpec(name=made.name, num_prompts=10, seed=1, params=made.params)
    assert workload.sha256(requests) != workload.sha256(built(other, vocabulary))


def test_random_tokens_begin_the_same_when_more_are_asked_for(vocabulary: Vocabulary) -> None:
    few = built(spec("random_tokens", 3, input_len=8, output_len=1), vocabulary)
    many = built(spec("random_tokens", 9, input_len=8, output_len=1), vocabulary)
    assert few == many[:3]


def test_text_is_text_and_prompts_do_not_repeat(vocabulary: Vocabulary) -> None:
    requests = built(spec("text_tokens", 50, input_len=64), vocabulary)
    assert len({ids(r) for r in requests}) == 50
    text = "".join(vocabulary.decode(ids(r)) for r in requests)
    assert sum(c.isascii() and (c.isalpha() or c.isspace()) for c in text) > 0.6 * len(text)
    with pytest.raises(InputError, match="random_tokens"):
        text_tokens.requests(spec("text_tokens", 1, input_len=100_000_000), vocabulary)


def test_build_marks_the_verified_sample_and_hashes_all(vocabulary: Vocabulary) -> None:
    made, load = spec("random_tokens", 20, input_len=4, output_len=5), Load(request_rate=10)
    requests, proof = workload.build(made, load, vocabulary, num_verify=6)
    assert sum(r.logprobs for r in requests) == 6 and requests[-1].due_at_s > 0
    again, same = workload.build(made, load, vocabulary, num_verify=6)
    assert again == requests and proof == same
    assert (proof.num_requests, proof.input_len_total, proof.output_len_total) == (20, 80, 100)
    _, slower = workload.build(made, Load(request_rate=5), vocabulary)
    assert slower.sha256 != proof.sha256


def test_the_sample_of_our_own_has_limits(vocabulary: Vocabulary) -> None:
    requests = built(spec("sharegpt-sample", 30, max_input_len=120, max_output_len=200), vocabulary)
    assert len(requests) == 30
    assert all(4 <= len(ids(r)) <= 120 and 4 <= r.max_tokens <= 200 for r in requests)
    assert {r.max_tokens for r in built(spec("sharegpt-sample", 5, output_len=9), vocabulary)} == {9}


def test_what_runs_called_sharegpt_without_a_file_is_the_sample(vocabulary: Vocabulary) -> None:
    old, new = spec("sharegpt", 20), spec("sharegpt-sample", 20)
    assert old.label == new.label == spec("sharegpt_sample").label == "sharegpt-sample"
    assert workload.sha256(built(old, vocabulary)) == workload.sha256(built(new, vocabulary))
    trial = Trial(variant="v", workload=old, load=Load(max_concurrency=4))
    assert (trial.scenario, trial.folder) == ("sharegpt-sample@c4", "sharegpt@c4")


def talk(*words: str) -> dict[str, object]:
    return {"id": words[0], "conversations": [{"from": "x", "value": word} for word in words]}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, {("hello", 6)}),
        ({"filter": "sglang", "max_total_len": 100}, {("hello", 6), ("hi", 3)}),
        ({"filter": "sglang", "max_total_len": 4000}, {("hello", 6), ("hi", 3), ("x" * 1500, 10)}),
        ({"max_input_len": 1600}, {("hello", 6), ("x" * 1500, 10)}),
        ({"output_len": 2}, {("hello", 2)}),
    ],
)
def test_sharegpt_is_filtered_as_the_peers_filter_it(
    params: dict[str, str | int], kept: set[tuple[str, int]], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """vLLM: 4 tokens each, 1024 in, 2048 in all (is_valid_sequence); SGLang: 2 each, a total."""
    path = tmp_path / "mine.json"
    entries = [talk("hello", "world!", "more"), talk("alone"), talk("hi", "you"), talk("x" * 1500, "y" * 10)]
    path.write_text(json.dumps(entries))
    requests = built(spec("sharegpt", 12, path=str(path), **params), vocabulary)
    assert {(vocabulary.decode(ids(r)), r.max_tokens) for r in requests} == kept


def test_sharegpt_comes_in_the_order_of_vllms_seed(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """random.seed(seed), then random.shuffle over the conversations of two turns and more."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([talk("alone"), *(talk(f"prompt {i}", "answer") for i in range(9))]))
    random.seed(3)
    theirs = [f"prompt {i}" for i in range(9)]
    random.shuffle(theirs)
    requests = built(spec("sharegpt", 9, seed=3, path=str(path)), vocabulary)
    assert [vocabulary.decode(ids(r)) for r in requests] == theirs


def test_sharegpt_lengths_has_the_published_distribution(vocabulary: Vocabulary) -> None:
    """Mean, median and p90 of the 5,316 conversations that workloads/sharegpt_lengths.py names."""
    requests = built(spec("sharegpt-lengths", 5000), vocabulary)
    inputs, outputs = [len(ids(r)) for r in requests], [r.max_tokens for r in requests]
    for lengths, mean, median, high in ((inputs, 136.2, 58, 381), (outputs, 472.1, 473, 868)):
        assert statistics.mean(lengths) == pytest.approx(mean, rel=0.04)
        assert statistics.median(lengths) == pytest.approx(median, rel=0.06)
        assert statistics.quantiles(lengths, n=10)[-1] == pytest.approx(high, rel=0.06)
    assert abs(statistics.correlation(inputs, outputs)) < 0.04
    short = built(spec("sharegpt-lengths", 300, max_input_len=50, max_output_len=60), vocabulary)
    assert max(len(ids(r)) for r in short) <= 50 and max(r.max_tokens for r in short) <= 60
    assert len({ids(r) for r in requests[:50]}) == 50


def test_custom_jsonl(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": "hi there", "max_tokens": 3},
        {"messages": [{"role": "user", "content": "x"}], "id": "chat"},
        {"prompt_token_ids": [1, 2, 3]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    made = spec("custom_jsonl", 10, path=str(path), output_len=9)
    first, chat, third = built(made, vocabulary)
    assert vocabulary.decode(ids(first)) == "hi there" and first.max_tokens == 3
    assert chat.request_id == "chat" and chat.messages and chat.max_tokens == 9
    assert ids(third) == (1, 2, 3) and registry.workload("custom_jsonl").longest(made) == (3, 9)


def test_shared_prefix_has_the_hit_share_it_says(vocabulary: Vocabulary) -> None:
    made = spec("shared_prefix", 40, prefix_len=30, suffix_len=10, num_prefixes=3, hit_share=0.5)
    seen: set[tuple[int, ...]] = set()
    hits = 0
    for request in built(made, vocabulary):
        prefix = ids(request)[:30]
        hits += 30 if prefix in seen else 0
        seen.add(prefix)
    assert hits / (40 * 40) == shared_prefix.expected_hit_share(made) == 17 * 30 / 1600


def test_multi_turn_orders_turns_and_names_sessions(vocabulary: Vocabulary) -> None:
    made = spec("multi_turn", 6, turns=3, first_len=20, turn_len=5, output_len=4)
    requests = built(made, vocabulary)
    assert [len(ids(r)) for r in requests] == [20, 20, 5, 5, 5, 5]
    assert [r.session for r in requests] == ["talk-0", "talk-1"] * 3
    assert multi_turn.longest(made) == (20 + 2 * 9, 4)


MOONCAKE = [
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]},
    {"timestamp": 3000, "input_length": 700, "output_length": 6, "hash_ids": [1, 3]},
]
TRACES = {
    "mooncake": "\n".join(map(json.dumps, MOONCAKE)),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,600,5\n2023-11-16 18:15:49.6805900,700,6\n",
    "azure 2024": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,600,5\n2024-05-10 00:00:03.009930+00:00,700,6\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,600,5,605,Conversation log\n6,ChatGPT,100,0,100,API log\n8,GPT-4,700,6,706,API log\n",
}


@pytest.mark.parametrize("kind", TRACES)
def test_traces(kind: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(TRACES[kind])
    made = spec("trace", 10, path=str(path))
    first, second = built(made, vocabulary, Load(arrival="trace", time_scale=2))
    assert (len(ids(first)), first.max_tokens, len(ids(second)), second.max_tokens) == (600, 5, 700, 6)
    assert first.due_at_s == 0 and second.due_at_s == pytest.approx(1.5)
    assert (ids(first)[:512] == ids(second)[:512]) == (kind == "mooncake")
    assert registry.workload("trace").longest(made) == (700, 6)
    assert len(built(spec("trace", 10, path=str(path), max_input_len=650), vocabulary)) == 1


def test_trace_times_do_not_depend_on_the_hosts_time_zone(
    vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There clocks were set back between the two requests; the trace's was not."""
    path = tmp_path / "trace"
    rows = ("2023-11-05 01:30:00.0000000,600,5", "2023-11-05 06:30:00.0000000,700,6")
    path.write_text("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)))
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        _, second = built(spec("trace", 10, path=str(path)), vocabulary, Load(arrival="trace"))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert second.due_at_s == 5 * 3600


BAD_INPUT = [
    (spec("no_such_workload"), "no_such_workload"),
    (spec("../evil"), "There is no workload"),
    (spec("random_tokens", input_len=0), "input_len"),
    (spec("random_tokens", input_len="many"), "input_len"),
    (spec("shared_prefix", hit_share=2), "hit_share"),
    (spec("sharegpt", path="/no/such/file"), "cannot be read"),
    (spec("sharegpt", path="x", filter="no"), "there is no filter 'no'; there are: vllm, sglang"),
    (spec("sharegpt", path="x", filter="sglang"), "give w.max_total_len="),
    (spec("sharegpt-sample", max_input_len=1), "max_input_len"),
    (spec("custom_jsonl"), "path="),
    (spec("custom_jsonl", path="/no/such/file"), "cannot be read"),
    (spec("trace"), "path="),
    (spec("trace", path="/no/such/file"), "cannot be read"),
]


@pytest.mark.parametrize(("made", "words"), BAD_INPUT)
def test_bad_input_is_a_sentence(made: WorkloadSpec, words: str, vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match=words):
        built(made, vocabulary)


BAD_FILES = [
    ("sharegpt", '{"a": 1}', "ShareGPT"),
    ("custom_jsonl", '{"prompt": "a"}\n{"prompt": "b", "max_token": 3}\n', ":2: "),
    ("custom_jsonl", '{"prompt": "a", "messages": [{}]}\n', ":1: give exactly one"),
    ("custom_jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', ":2: id 'x' is there twice"),
    ("custom_jsonl", '{"prompt": "a"}\n{"prompt": "b", "id": "line-1"}\n', ":2: id 'line-1' is there twice"),
    ("trace", "a,b\n1,2\n", "no Mooncake, Azure or BurstGPT"),
    ("trace", "{oops\n", "no Mooncake"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES)
def test_bad_files_are_named(
    name: str, content: str, words: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        built(spec(name, path=str(path)), vocabulary)


def test_trace_times_need_a_trace(vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match="times of its own"):
        built(spec("random_tokens", 5, input_len=3, output_len=2), vocabulary, Load(arrival="trace"))
