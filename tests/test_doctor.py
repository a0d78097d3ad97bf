"""What `just doctor` says of machines it is told about, and of this one."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness import models
from harness.host import clean, doctor, environment, hub, inspection
from harness.host.hub import Access
from harness.host.inspection import GpuUse, Inspection, inspect
from harness.launchers.process import MARK
from harness.schema import Gpu, Machine

GPUS = tuple(Gpu(index=i, name="H200", memory_gb=139, driver="575.1") for i in range(2))
NODE = Inspection(
    machine=Machine(accelerator="cuda", gpus=GPUS, free_disk_gb=50, environments=("vllm-cpu",)),
    gpu_use=(
        GpuUse(index=0, used_gb=101.5, processes=("4711 VLLM::EngineCore",)),
        GpuUse(index=1, used_gb=0.5),
    ),
    docker_problem="Docker cannot be used at unix:///run/docker.sock: you may not use it",
    shm_gb=0.06,
    memlock_mb=0.0655,
    stack_mb=8.39,
    open_files=1024,
    weights_disk_gb=120,
    busy_ports={8000: "4711 vllm"},
    hub=Access(state="no answer within 5 s"),
    leftovers=("container serving-harness-x-vllm-ep-8000",),
)
IMAGE = "vllm/vllm-openai:v0.32.0"


def _named(found: Inspection) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks(found)}


def test_a_node_with_everything_wrong() -> None:
    found = _named(NODE)
    assert found["GPU 0"].detail == "H200, 139 GiB, 48 GB free, driver 575.1"
    assert found["GPU 0 memory"].detail == "101.5 GB in use by 4711 VLLM::EngineCore"
    assert "GPU 1 memory" not in found
    troubled = {name for name, check in found.items() if check.state in ("warn", "missing")}
    assert troubled == {
        *("GPU 0 memory", "leftovers", "NVIDIA toolkit", "Docker Engine", "disk, weights", "/dev/shm"),
        *("locked memory", "stack", "open files", "port 8000", "Hugging Face"),
    }
    told = {name for name, check in found.items() if check.advice}
    assert troubled - told == {"Docker Engine"}, "its own words say what to do"
    assert "you may not use it" in found["Docker Engine"].detail
    assert found["disk, weights"].advice == "688.6 GB are needed for deepseek-r1"
    assert found["ports"].detail == "30000 free"


def test_a_node_with_everything_right() -> None:
    machine = Machine(accelerator="cuda", gpus=GPUS, docker="28.0", free_disk_gb=900)
    found = Inspection(
        machine=machine,
        nvidia_toolkit=True,
        image_digests={IMAGE: f"vllm/vllm-openai@sha256:{'a' * 64}"},
        shm_gb=200,
        open_files=1048576,
        weights_disk_gb=900,
        images_disk_gb=900,
        hub=Access(token="accepted"),
        weights_here={"deepseek-r1": "56d4cbb" + "0" * 33},
    )
    assert {check.state for check in doctor.checks(found)} == {"ok", "info"}
    assert _named(found)["weights here"].detail == "deepseek-r1 (56d4cbb)"


@pytest.mark.parametrize(
    ("kfd", "advice"),
    [("absent", "load the amdgpu driver"), ("present, but closed to this user", "join the group")],
)
def test_amd_node_without_its_device(kfd: str, advice: str) -> None:
    gpus = (Gpu(index=0, name="MI300X", memory_gb=192, driver="amdgpu 6.12"),)
    machine = Machine(accelerator="rocm", gpus=gpus)
    found = _named(msgspec.convert({"machine": machine, "dri": True, "kfd": kfd}, Inspection))
    assert found["AMD devices"].state == "missing"
    assert found["AMD devices"].detail == f"/dev/kfd {kfd}, /dev/dri present"
    assert found["AMD devices"].advice.startswith(advice)
    right = _named(Inspection(machine=machine, dri=True, kfd="present"))
    assert right["AMD devices"].state == "ok"


def test_a_laptop_is_not_told_off_for_its_limits() -> None:
    found = Inspection(
        machine=Machine(docker="28.0", free_disk_gb=50),
        images_disk_gb=20,
        shm_gb=0.06,
        open_files=1024,
        stack_mb=8,
        hub=Access(state="switched off by HF_HUB_OFFLINE=1"),
    )
    assert _named(found)["accelerators"].detail == "none: CPU variants only"
    assert {check.state for check in doctor.checks(found)} == {"ok", "info"}


def test_images_are_listed_with_their_digest_and_missing_ones_with_their_source() -> None:
    machine = Machine(accelerator="cuda", gpus=GPUS, docker="28.0")
    found = Inspection(
        machine=machine, image_digests={IMAGE: f"repo@sha256:{'ab' * 32}", "other:1": "sha256:d"}
    )
    lines = [check.detail for check in doctor.checks(found) if check.name == "image"]
    assert lines[0] == f"{IMAGE} repo@sha256:abababababab"
    assert "vllm-cpu:0.32.0 is not here: `just image vllm-cpu`" in lines
    assert any("`docker pull lmsysorg/sglang" in line for line in lines)
    assert not any("rocm" in line for line in lines), "of no use on this machine"


def test_every_variant_gets_a_verdict_and_those_that_can_run_come_first() -> None:
    lines = doctor.verdicts(NODE)
    verdicts = {v.name: v.detail for v in lines}
    assert verdicts["vllm-mori"] == "needs rocm GPUs, this machine has 2 of cuda"
    assert verdicts["vllm-ep"] == "needs 8 GPUs, this machine has 2"
    assert verdicts["attach"].startswith("takes a server that runs already")
    assert verdicts["vllm-cpu"].startswith("can run here")
    states = [line.state for line in lines]
    assert states == sorted(states, key=lambda state: state != "ok")


def test_gpus_that_no_driver_has_claimed_are_named(tmp_path: Path) -> None:
    gpu, instinct, audio, virtual = "0x030200", "0x120000", "0x020700", "0x030000"
    bus = [
        ("0x10de", gpu, 0),
        ("0x10de", gpu, 0),
        ("0x1002", instinct, 1),
        ("0x10de", audio, 0),
        ("0x1234", virtual, 0),
    ]
    for number, (vendor, kind, driven) in enumerate(bus):
        device = tmp_path / str(number)
        device.mkdir()
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
        if driven:
            (device / "driver").mkdir()
    assert inspection.undriven(tmp_path) == {"NVIDIA": 2}
    found = _named(Inspection(machine=Machine(), undriven={"NVIDIA": 2}))
    assert found["NVIDIA driver"].state == "missing" and "2 NVIDIA GPUs" in found["NVIDIA driver"].detail


def test_amd_driver_and_a_gpu_that_cannot_compute(tmp_path: Path) -> None:
    assert environment.amd_driver(tmp_path / "none") == ""
    assert environment.amd_driver(tmp_path).startswith("amdgpu of Linux")
    (tmp_path / "version").write_text("6.12.12\n")
    assert environment.amd_driver(tmp_path) == "amdgpu 6.12.12"
    if not Path("/dev/kfd").exists():
        assert (
            environment.accelerator((Gpu(index=0, name="iGPU", memory_gb=2, driver="amdgpu 6.12.12"),))
            == "cpu"
        )
        assert environment.accelerator(GPUS) == "cuda"


# --- the Hub, by a small server of its own -----------------------------------------------------------------


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Knows one token; keeps Llama for itself, has lost QwQ."""
        trusted = self.headers.get("Authorization") == "Bearer hf_right"
        status = 200
        if self.path == "/api/whoami-v2" or "meta-llama" in self.path:
            status = 200 if trusted else 401
        elif "QwQ" in self.path:
            status = 404
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


ABSENT = [models.models()[name] for name in ("deepseek-r1", "llama-8b", "qwq-32b", "tiny-moe")]


def test_the_hub_is_asked_for_the_token_and_every_missing_model(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hub.look(ABSENT)
    assert (found.state, found.token, set(found.refused)) == ("", "absent", {"llama-8b", "qwq-32b"})
    assert "accepted its licence" in found.refused["llama-8b"]
    assert "pinned revision" in found.refused["qwq-32b"]
    (tmp_path / "token").write_text("hf_wrong\n")
    assert hub.look(ABSENT).token == "refused"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert hub.look(ABSENT).token == "accepted" and set(hub.look(ABSENT).refused) == {"qwq-32b"}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "not reachable" in hub.look(ABSENT).state
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.look(ABSENT) == Access(state="switched off by HF_HUB_OFFLINE=1", token="present")


def test_what_the_hub_refuses_is_said_with_what_to_do() -> None:
    machine = Machine(accelerator="rocm", gpus=GPUS)
    refused = {"deepseek-r1": "answered 500", "llama-8b": "needs a token whose owner accepted its licence"}
    found = Inspection(machine=machine, hub=Access(token="refused", refused=refused))
    lines = [check for check in doctor.checks(found) if check.name in ("Hugging Face", "weights")]
    assert [line.state for line in lines] == ["warn", "warn", "info"]
    assert lines[0].detail == "reachable, token refused" and "HF_TOKEN" in lines[0].advice


# --- this machine -------------------------------------------------------------------------------------------


def test_what_a_crashed_harness_left_is_named() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark = f"run/vllm-ep/{gone.pid}/x"
    code = "import sys, time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE
    ) as left:
        assert left.stdout is not None and left.stdout.readline()
        try:
            assert f"process {left.pid} of vllm-ep" in clean.leftovers()
        finally:
            left.kill()


def test_this_machine_is_printed() -> None:
    console = Console(record=True, width=160)
    doctor.run(console)
    text = console.export_text()
    assert "This machine" in text and "Variants" in text and "vllm-mori" in text
    for line in ("Docker Engine", "disk, weights", "/dev/shm", "locked memory", "open files", "Hugging Face"):
        assert line in text
    found = inspect()
    assert found.memory_gb > 0 and found.weights_here["tiny-moe"] == ""
