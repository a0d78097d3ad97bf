"""The sampler against a real small server, and energy from what an H200 really showed under load."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from harness import store
from harness.host import gpus, telemetry
from harness.numbers.energy import cost_per_million_tokens, energy, host_bound
from harness.registry import ROOT
from harness.schema import GpuSample, Load, Sample

H200 = list(store.read_lines(Path(__file__).parent / "golden" / "telemetry-h200.jsonl", Sample))
"""1 Hz while a GPU idled for 3 s, multiplied 8192 x 8192 bf16 matrices for 12 s, idled for 3 s."""


class _Metrics(http.server.BaseHTTPRequestHandler):
    scrapes = 0
    drained = 0
    key = ""

    def do_GET(self) -> None:
        """A metrics page whose counter grows with each scrape; anything else is a queue it empties."""
        if self.path != "/prometheus/metrics":
            _Metrics.drained += 1
        _Metrics.scrapes += 1
        _Metrics.key = self.headers.get("Authorization", "")
        page = (
            "# TYPE vllm:generation_tokens_total counter\n"
            f'vllm:generation_tokens_total{{engine="0"}} {10 * _Metrics.scrapes}\n'
            "# TYPE vllm:num_requests_running gauge\n"
            'vllm:num_requests_running{engine="0"} 3\n'
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def metrics_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/prometheus/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


def test_samples_arrive_once_a_second_and_cover_the_body(tmp_path: Path, metrics_url: str) -> None:
    with telemetry.sampling(tmp_path / "telemetry.jsonl", "vllm", metrics_url):
        time.sleep(2.3)
    samples = store.telemetry(tmp_path)
    assert [round(s.at_s) for s in samples[:3]] == [0, 1, 2]
    assert samples[0].at_s < 0.2 and samples[-1].at_s > 2.2
    assert all(s.engine["running"] == 3 for s in samples)
    tokens = [s.engine["generation_tokens"] for s in samples]
    assert tokens == sorted(tokens) and tokens[-1] > tokens[0]
    assert _Metrics.drained == 0, "only the launch's own metrics page may be read"


def test_counters_are_asked_with_the_api_key(metrics_url: str) -> None:
    os.environ["TELEMETRY_TEST_KEY"] = "sesame"
    telemetry.counters("vllm", metrics_url, 5.0, "TELEMETRY_TEST_KEY")
    assert _Metrics.key == "Bearer sesame"


def test_an_engine_without_metrics_costs_nothing(tmp_path: Path) -> None:
    begun = time.monotonic()
    with telemetry.sampling(tmp_path / "telemetry.jsonl", "vllm", "http://127.0.0.1:9/metrics"):
        pass
    assert time.monotonic() - begun < 20
    assert all(s.engine == {} for s in store.telemetry(tmp_path))
    assert store.telemetry(tmp_path / "nowhere") == []


def test_energy_of_a_real_h200_agrees_with_its_counter() -> None:
    whole = energy(H200, (0.5, 17.5), 1, num_tokens=1000)
    assert whole is not None and whole.invalid == ""
    assert whole.energy_j == pytest.approx(8700.8, rel=1e-3)
    assert whole.counter_j == pytest.approx(whole.energy_j, rel=0.01)
    assert whole.joules_per_output_token == pytest.approx(8.7, rel=0.01)
    assert whole.throttled == ("power",)
    busy, idle = energy(H200, (5.0, 14.0), 1), energy(H200, (0.5, 2.0), 1)
    assert busy is not None and idle is not None
    assert busy.mean_power_w > 600 and idle.mean_power_w < 150


def drawn(*powers: float | None, every_s: float = 1.0, **fields: float) -> list[Sample]:
    return [
        Sample(at_s=i * every_s, gpus=(GpuSample(index=0, power_w=p, **fields),))  # type: ignore[arg-type]
        for i, p in enumerate(powers)
    ]


def test_trapezoid() -> None:
    found = energy(drawn(100, 200, 300), (0.0, 2.0), 1)
    assert found is not None and found.energy_j == pytest.approx(400.0)
    inner = energy(drawn(100, 200, 300), (0.5, 1.5), 1)
    assert inner is not None and inner.energy_j == pytest.approx(200.0)


def test_what_is_not_proven_is_not_published() -> None:
    spread = energy(drawn(100, 100, 100), (0.0, 2.0), 16)
    assert spread is not None and spread.invalid.startswith("1 of 16 accelerators are on this machine")
    gap = energy(drawn(100, 100, every_s=4.0), (0.0, 4.0), 1)
    assert gap is not None and "4.0 s without a power sample" in gap.invalid
    short = energy(drawn(100, 100), (0.0, 9.0), 1)
    assert short is not None and "8.0 s of the window" in short.invalid
    wrong = [
        Sample(at_s=float(i), gpus=(GpuSample(index=0, power_w=100.0, energy_j=110.0 * i),)) for i in range(5)
    ]
    counted = energy(wrong, (0.0, 4.0), 1)
    assert counted is not None and "over 5 % apart" in counted.invalid
    assert energy(drawn(None, None), (0.0, 1.0), 1) is None
    assert energy(H200, (0.5, 17.5), 0) is None


@pytest.mark.parametrize(
    ("share", "load", "told"),
    [
        (0.48, Load(max_concurrency=256), True),
        (0.98, Load(max_concurrency=256), False),
        (0.48, Load(request_rate=10.0), False),
        (0.48, Load(request_rate=10.0, max_concurrency=256), False),
        (None, Load(max_concurrency=256), False),
    ],
)
def test_accelerators_that_idle_under_a_closed_loop_are_told(
    share: float | None, load: Load, told: bool
) -> None:
    fields = {} if share is None else {"utilization": share}
    said = host_bound(energy(drawn(100, 200, 300, **fields), (0.0, 2.0), 1), load)
    assert bool(said) == told
    assert not told or ("48%" in said and "256 requests" in said)


def test_one_sample_says_nothing_of_how_busy_an_accelerator_was() -> None:
    for window in ((0.2, 0.8), (0.5, 1.5), (0.5, 2.2)):
        measured = energy(drawn(100, 100, 100, 100, utilization=0.0), window, 1)
        assert measured is not None and measured.utilization is None
        assert host_bound(measured, Load(max_concurrency=4)) == ""


def test_only_the_busiest_accelerators_count() -> None:
    samples = [
        Sample(at_s=float(i), gpus=tuple(GpuSample(index=g, power_w=p) for g, p in enumerate((70, 500, 90))))
        for i in range(4)
    ]
    found = energy(samples, (0.0, 3.0), 1)
    assert found is not None and found.mean_power_w == pytest.approx(500.0)


def test_cost() -> None:
    assert cost_per_million_tokens(2.0, 8, 4000.0) == pytest.approx(16 / 3600 / 4000 * 1e6)
    assert cost_per_million_tokens(2.0, 8, 0.0) is None


def test_drivers_words() -> None:
    assert gpus.nvidia_throttle(0x1 | 0x4) == ("power",)
    assert gpus.nvidia_throttle(0x40) == ("thermal",)
    assert (
        gpus.amd_power({"socket_power": 0, "current_socket_power": 640, "average_socket_power": "N/A"}) == 640
    )
    assert gpus.amd_power({"socket_power": "N/A"}) is None
    assert gpus.amd_throttle({"active_ppt_pwr": True, "active_hbm_thrm": "N/A"}) == ("power",)


def test_an_amd_device_as_amdsmi_tells_it() -> None:
    """Keys, units and absent values of amdsmi 7.0.2; its calls take the handle and these enumerations."""
    smi = SimpleNamespace(
        AmdSmiClkType=SimpleNamespace(GFX="gfx"),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT="hotspot"),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT="current"),
        amdsmi_get_power_info=lambda handle: {
            "socket_power": 0xFFFFFFFF,
            "current_socket_power": 643,
            "average_socket_power": "N/A",
            "power_limit": 750000000,
        },
        amdsmi_get_energy_count=lambda handle: {
            "energy_accumulator": 2_000_000,
            "counter_resolution": 15.3,
            "timestamp": 1,
        },
        amdsmi_get_violation_status=lambda handle: {"active_ppt_pwr": True, "active_socket_thrm": "N/A"},
        amdsmi_get_clock_info=lambda handle, kind: {"clk": {"gfx": 2100}[kind], "clk_deep_sleep": "N/A"},
        amdsmi_get_gpu_vram_usage=lambda handle: {"vram_total": 196592, "vram_used": 150000},
        amdsmi_get_temp_metric=lambda handle, kind, metric: {("hotspot", "current"): 71}[kind, metric],
        amdsmi_get_gpu_activity=lambda handle: {
            "gfx_activity": 100,
            "umc_activity": 40,
            "mm_activity": "N/A",
        },
    )
    assert gpus.amd_sample(smi, 3, "handle") == GpuSample(
        index=3,
        power_w=643.0,
        energy_j=pytest.approx(30.6),
        sm_clock_mhz=2100.0,
        memory_used_gb=150.0,
        temperature_c=71.0,
        utilization=1.0,
        throttle=("power",),
    )
    assert gpus.amd_energy({"power": 10, "counter_resolution": 15.3}) == pytest.approx(153)


def test_accelerators_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    device, absent = tmp_path / "kfd", str(tmp_path / "absent")
    device.touch()
    nvidia, amd = ("NVIDIA", absent, "nvidia-ml-py"), ("AMD", str(device), "amdsmi")
    found = gpus.readable((nvidia, amd))
    assert isinstance(found, gpus.Unreadable)
    assert found.why.startswith(f"AMD accelerators are here ({device}) but amdsmi cannot read them (")
    assert found.why.endswith("join the groups video and render")
    assert gpus.readable((nvidia, ("AMD", absent, "amdsmi"))) == gpus.Unreadable("")


WITHOUT_NVML = """
import sys
sys.modules["pynvml"] = None
from harness.errors import MachineError
from harness.host import gpus
try:
    with gpus.nvml(sys.argv[1]) as nvml:
        print(nvml)
except MachineError as error:
    print(error.message)
"""


@pytest.mark.parametrize(("device", "told"), [("nvidiactl", "run `just setup`"), ("none", "None")])
def test_nvidias_library_may_be_missing_only_where_its_driver_is_not(
    device: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "nvidiactl").touch()
    command = [sys.executable, "-c", WITHOUT_NVML, str(tmp_path / device)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told in done.stdout, done.stderr


def test_a_machine_without_accelerators_has_no_reader() -> None:
    found = gpus.reader()
    if found is None:
        assert telemetry.sample("vllm", "http://127.0.0.1:9", None, 1.0).gpus == ()
    else:
        assert all(g.index >= 0 for g in found())
    assert msgspec.json.decode(msgspec.json.encode(H200[0]), type=Sample) == H200[0]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CUDA_VISIBLE_DEVICES", "2,3", [2, 3]),
        ("CUDA_VISIBLE_DEVICES", "GPU-bb", [1]),
        ("CUDA_VISIBLE_DEVICES", "", []),
        ("HIP_VISIBLE_DEVICES", "0", [0]),
        ("ROCR_VISIBLE_DEVICES", " 1 , 0 ", [0, 1]),
        ("UNRELATED", "1", [0, 1, 2, 3]),
    ],
)
def test_only_the_accelerators_this_process_may_use_are_counted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: list[int]
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert gpus.visible(["GPU-aa1", "GPU-bb2", "GPU-cc3", ""]) == expected
