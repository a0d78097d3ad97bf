"""A base image on which the GPU Dockerfiles build whole: real Debian, stand-ins for what no test can have.

Real: every apt-get, git, pip and shell step of docker/*.Dockerfile, in order. Stand-ins: torch (a folder),
and the repositories of MORI, vLLM, DeepEP and TensorRT-LLM: a setup.py each, which refuses a build whose
variables are not those that the real project needs. Not covered, since they need the network and hours:
compilers for GPUs, Rust for vLLM, submodules, git-lfs content, TensorRT's own installers.
"""

from __future__ import annotations

import subprocess
import textwrap
import zipfile
from pathlib import Path
from typing import Any

STANDINS = "serving-harness/standins:1"
REF = "standin"

_DOCKERFILE = """
ARG BASE
FROM ${BASE}
LABEL serving-harness.stage=standins
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
    python3-pip python3-setuptools python3-wheel \\
 && rm -rf /var/lib/apt/lists/*
COPY srv/ /srv/
COPY torch/ /usr/lib/python3/dist-packages/torch/
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels
"""

_SETUP = """
import os
import torch  # the image's own: only a build without isolation finds it
from setuptools import setup

wanted = {wanted!r}
found = {{name: os.environ.get(name) for name in wanted}}
assert found == wanted, f"built with {{found}}, needs {{wanted}}"
setup(name={name!r}, version="1.0", py_modules=[{module!r}])
"""

_BUILD_WHEEL = """
import pathlib, shutil, subprocess, sys

assert sys.argv[1:] == ["--clean", "--cuda_architectures", "90-real"], sys.argv
assert pathlib.Path("/etc/standin-base").exists(), "install_base.sh of docker/common was not run"
subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "-w", "build", "."], check=True)
"""

_TRTLLM_SETUP = """
from setuptools import setup

setup(name="tensorrt_llm", version="1.0", packages=["tensorrt_llm"], scripts=["trtllm-serve"])
"""


def setup_py(name: str, module: str, **wanted: str) -> dict[str, str]:
    """Files of a Python project whose build demands torch and these variables."""
    return {
        "setup.py": _SETUP.format(name=name, module=module, wanted=wanted),
        f"{module}.py": "STANDIN = True\n",
    }


REPOSITORIES: dict[str, dict[str, str]] = {
    "mori": setup_py(
        "amd_mori", "mori", MORI_GPU_ARCHS="gfx942;gfx950", ENABLE_PROFILER="ON", USE_BNXT="OFF"
    ),
    "vllm": {
        **setup_py("vllm", "vllm", VLLM_TARGET_DEVICE="rocm", PYTORCH_ROCM_ARCH="gfx942;gfx950"),
        "requirements/rocm.txt": "# nothing\n",
    },
    "deepep": setup_py(
        "deep_ep", "deep_ep", TORCH_CUDA_ARCH_LIST="9.0", MAX_JOBS="16", NVSHMEM_IB_ENABLE_IBGDA="0"
    ),
    "trtllm": {
        "setup.py": _TRTLLM_SETUP,
        "tensorrt_llm/__init__.py": "",
        "trtllm-serve": "#!/bin/sh\necho standin\n",
        "scripts/build_wheel.py": _BUILD_WHEEL,
        "docker/common/install_base.sh": "touch /etc/standin-base\n",
    },
}


def build_standins(client: Any, base: str, folder: Path) -> str:
    """Build the image on `base` with `folder` as its context; returns its name."""
    for name, files in REPOSITORIES.items():
        _repository(folder / "srv" / f"{name}.git", folder / name, files)
    (folder / "srv" / "wheels").mkdir()
    _wheel(folder / "srv" / "wheels", "nvidia_nvshmem_cu13")
    _write(folder / "torch", {"__init__.py": "", "lib/libtorch.so": ""})
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    image, _ = client.images.build(path=str(folder), tag=STANDINS, buildargs={"BASE": base}, rm=True)
    return str(image.tags[0])


def _repository(bare: Path, work: Path, files: dict[str, str]) -> None:
    _write(work, files)
    author = ["-c", "user.name=standin", "-c", "user.email=standin@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "stand-in"], ["tag", REF]):
        subprocess.run(["git", *words], cwd=work, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip())


def _wheel(folder: Path, name: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
