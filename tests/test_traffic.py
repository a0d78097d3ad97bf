"""Every workload and every load, from a recipe to rows, at a server whose timing is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest

from harness import store, workload
from harness.client import known_server
from harness.client.known_server import Script
from harness.registry import ROOT
from harness.schema import Load, Request, RequestRecord, Workload
from harness.tokens import Vocabulary
from tests.test_run import Desk, desk
from workloads import multi_turn, shared_prefix, trace

__all__ = ["desk"]

RECIPE = """
question = "Does every kind of traffic arrive?"
variants = ["attach"]
url = "{url}"
model = "tiny-moe"
reference = "none"
warmup = 0

[[workloads]]
name = "sharegpt-sample"
num_prompts = 8
params = {{ output_len = 6 }}
loads = ["40rps"]
[[workloads]]
name = "custom_jsonl"
num_prompts = 3
params = {{ path = "{folder}/own.jsonl" }}
loads = ["c4", "40rps-constant"]
[[workloads]]
name = "shared_prefix"
num_prompts = 8
params = {{ prefix_len = 32, suffix_len = 8, output_len = 5, num_prefixes = 2, hit_share = 0.5 }}
loads = ["c4", "40rps-gamma", "20rps-ramp", "stages"]
[[workloads]]
name = "multi_turn"
num_prompts = 6
params = {{ turns = 3, first_len = 20, turn_len = 7, output_len = 5 }}
loads = ["c4"]
[[workloads]]
title = "mooncake"
name = "trace"
num_prompts = 4
params = {{ path = "{folder}/mooncake.jsonl" }}
loads = ["trace"]
[[workloads]]
title = "azure"
name = "trace"
num_prompts = 4
params = {{ path = "{folder}/azure.csv" }}
loads = ["trace"]
[[workloads]]
title = "burstgpt"
name = "trace"
num_prompts = 4
params = {{ path = "{folder}/burstgpt.csv" }}
loads = ["trace"]
[[workloads]]
name = "random_tokens"
num_prompts = 500
params = {{ input_len = 16, output_len = 5 }}
loads = ["c3"]

[[loads]]
max_concurrency = 4
[[loads]]
request_rate = 40.0
arrival = "poisson"
[[loads]]
request_rate = 40.0
arrival = "constant"
[[loads]]
request_rate = 40.0
arrival = "gamma"
burstiness = 0.5
[[loads]]
request_rate = 20.0
arrival = "ramp"
ramp_to = 60.0
[[loads]]
arrival = "stages"
stages = [[0.1, 20.0], [0.2, 60.0]]
[[loads]]
arrival = "trace"
time_scale = 10.0
[[loads]]
max_concurrency = 3
duration_s = 0.5
"""
FILES = {
    "own.jsonl": "\n".join(
        json.dumps(line)
        for line in (
            {"prompt": "What is a bench?", "max_tokens": 4},
            {"messages": [{"role": "user", "content": "What is a bench?"}], "max_tokens": 4},
            {"prompt_token_ids": [5, 6, 7], "max_tokens": 4, "id": "mine"},
        )
    ),
    "mooncake.jsonl": "\n".join(
        json.dumps({"timestamp": at, "input_length": 600, "output_length": 4, "hash_ids": [1, number]})
        for number, at in enumerate((0, 1000, 2000, 5000))
    ),
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + "".join(f"2024-05-10 00:00:0{s}.1234567+00:00,{20 + s},4\n" for s in (0, 1, 2, 5)),
    "burstgpt.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(f"{s},ChatGPT,{20 + s},4,{24 + s},Conversation log\n" for s in (0, 1, 2, 5)),
}
TRACE_S = [0.0, 0.1, 0.2, 0.5]
"""Due times of all three, replayed ten times as fast."""


class Ran:
    """The finished run."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def records(self, scenario: str) -> list[RequestRecord]:
        folder = self.desk.runs[0] / "attach" / "r1" / scenario
        found = list(store.records(folder))
        return sorted(found, key=lambda r: r.sent_at_s)

    def workload(self, scenario: str) -> Workload:
        return store.read(self.desk.runs[0] / "attach" / "r1" / scenario / "workload.json", Workload)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("traffic")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    desk = Desk(folder)
    with known_server.running(Script(first_token_s=0.01, token_s=0.001)) as url:
        (folder / "recipe.toml").write_text(RECIPE.format(url=url, folder=folder))
        run = desk.results / "traffic"
        run.mkdir(parents=True)
        (run / "selfcheck.json").write_text("[]")  # the client's own error is not the question: 8 x 2.5 s
        done = desk.run("bench", f"recipe={folder / 'recipe.toml'}", f"run_id={run.name}")
    assert done.returncode == 0, done.stderr
    yield Ran(desk)


def test_no_request_of_any_kind_failed_and_every_row_is_valid(ran: Ran) -> None:
    rows = ran.desk.comparison().rows
    assert len(rows) == 12
    for row in rows:
        reasons = [why for why in row.invalid.split("; ") if why and not why.startswith("client-bound")]
        assert (row.status, reasons) == ("done", []), row.scenario  # a busy host makes the client late
        assert row.metrics is not None and row.metrics.failed == 0, row.scenario


@pytest.mark.parametrize("name", ["mooncake", "azure", "burstgpt"])
def test_traces_keep_their_times_scaled(ran: Ran, name: str) -> None:
    records = ran.records(f"{name}@trace-x10")
    assert [r.due_at_s for r in records] == pytest.approx(TRACE_S)
    assert all(0 <= r.sent_at_s - r.due_at_s < 0.5 for r in records)


@pytest.mark.parametrize(
    "load",
    [
        Load(request_rate=40.0, arrival="gamma", burstiness=0.5),
        Load(request_rate=20.0, arrival="ramp", ramp_to=60.0),
        Load(arrival="stages", stages=((0.1, 20.0), (0.2, 60.0))),
    ],
    ids=lambda load: load.arrival,
)
def test_shaped_loads_are_sent_when_due(ran: Ran, load: Load) -> None:
    records = ran.records(f"shared_prefix@{load.label}")
    assert ran.workload(f"shared_prefix@{load.label}").load == load
    assert len({r.due_at_s for r in records}) == 8 and records[-1].due_at_s > 0.05
    assert all(0 <= r.sent_at_s - r.due_at_s < 0.5 for r in records)


def test_each_turn_carries_the_engines_own_answers(ran: Ran) -> None:
    records = {r.request_id: r for r in ran.records("multi_turn@c4")}
    for talk in range(2):
        turns = [records[f"talk-{talk}-{turn}"] for turn in range(3)]
        assert [r.input_len for r in turns] == [20, 20 + 5 + 7, 20 + 2 * (5 + 7)]
        assert [r.prompt_len for r in turns] == [r.input_len for r in turns]
        assert all(a.done_at_s <= b.sent_at_s for a, b in pairwise(turns))


def test_a_file_of_ones_own_goes_to_the_right_endpoints(ran: Ran) -> None:
    records = {r.request_id: r for r in ran.records("custom_jsonl@c4")}
    assert {r.output_len for r in records.values()} == {4}
    assert records["mine"].prompt_len == records["mine"].input_len == 3
    assert records["line-2"].input_len == 1, "messages went to the chat endpoint, which counts one prompt"


def test_an_ideal_caches_share_is_known(ran: Ran) -> None:
    """prefix_len 32 of 40 tokens, 4 of 8 requests share 2 prefixes: 2 of 8 repeat one."""
    assert shared_prefix.expected_hit_share(ran.workload("shared_prefix@c4").spec) == 2 * 32 / (8 * 40)
    turns = ran.workload("multi_turn@c4").spec
    assert multi_turn.expected_hit_share(turns) == pytest.approx((25 + 37) / (20 + 32 + 44))
    assert trace.expected_hit_share(ran.workload("mooncake@trace-x10").spec) == 3 * 512 / (4 * 600)
    assert trace.expected_hit_share(ran.workload("azure@trace-x10").spec) == 0
    (row,) = (r for r in ran.desk.comparison().rows if r.scenario == "shared_prefix@c4")
    assert "prefix cache: 0.0% of prompt tokens reused, an ideal cache would reuse 20.0%" in row.notes


def test_a_duration_ends_the_sending(ran: Ran) -> None:
    records = ran.records("16-5@c3-0.5s")
    assert 10 < len(records) < 500 and not any(r.error for r in records)
    assert max(r.sent_at_s for r in records) < 0.6


def test_text_and_whole_answers_with_the_prompts_length_held_against_usage(desk: Desk) -> None:
    """The server takes any text for one token, so that the harness must notice."""
    words = ("32/5", "num_prompts=6", "concurrency=2", "reference=none", "warmup=0")
    with known_server.running(Script(first_token_s=0.01, token_s=0.001)) as url:
        options = ("prompts=text", "stream=false", "api_key_env=HF_TOKEN", "model=tiny-moe")
        done = desk.run("load", f"url={url}", *words, *options)
    assert done.returncode == 0, done.stderr
    row = desk.row("attach", "text-32-5@c2")
    assert row.invalid == "6 prompts were read as another length (first: 32 tokens sent, 1 read)"
    for record in store.records(desk.runs[0] / "attach" / "r1" / "text-32-5@c2"):
        assert (record.prompt_len, record.output_len, len(record.content_at_s)) == (32, 5, 1)


def test_ids_become_text_or_a_message_and_nothing_else_changes() -> None:
    vocabulary = Vocabulary(ROOT / "models" / "tiny-moe")
    ids = vocabulary.encode("def bench(words):")
    request = Request(request_id="r", prompt_token_ids=ids, max_tokens=4, session="s")
    (text,) = workload.worded((request,), "text", vocabulary)
    assert (text.prompt, text.prompt_len, text.session) == ("def bench(words):", len(ids), "s")
    (chat,) = workload.worded((request,), "chat", vocabulary)
    assert chat.messages == ({"role": "user", "content": "def bench(words):"},) and chat.prompt_len == 0
    assert workload.worded((request,), "ids", vocabulary) == (request,)
