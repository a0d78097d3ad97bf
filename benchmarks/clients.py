"""What clients cost and what they get wrong, all against one server of known timing.

usage: python -m benchmarks.clients [--rounds N] [--loads a,b] [--clients a,b] [--python NAME=FOLDER]
       python -m benchmarks.clients --only-round K >> kept.jsonl          one round, its samples only
       python -m benchmarks.clients --merge kept.jsonl                    the table of all rounds kept

Every round runs every client at every load, one after the other, so that ratios within a round are fair on
a machine whose speed drifts. The server (C, epoll) is not the bottleneck and says how late it was itself.
CPU is that of the process and all its children. A foreign client's start-up (imports, warm-up) is taken out
by a small run of its own: (cost of the run - cost of the small run) / (tokens of the one - of the other).
Needs gcc. Environments of foreign clients: .engines/<name> unless --python says where their programs lie.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from harness import store
from harness.client.window import percentile
from harness.errors import HarnessError
from harness.extras import foreign_client
from harness.reporting import importers
from harness.schema import Distribution, Noun

HERE = Path(__file__).parent
ROOT = HERE.parent
NATIVE = ("limit", "floor", "aiohttp", "ours")


class Setting(Noun):
    """One load."""

    name: str
    key: str
    first_us: int
    gap_us: int
    concurrency: int
    num_requests: int
    num_tokens: int
    rate: float = 0.0


_PACED = {"first_us": 50_000, "gap_us": 10_000, "num_tokens": 100}
_NO_DELAY = {"first_us": 0, "gap_us": 0, "num_tokens": 128}
SETTINGS = (
    Setting(name="no delay, c64", key="burst64", concurrency=64, num_requests=1000, **_NO_DELAY),
    Setting(name="no delay, c256", key="burst256", concurrency=256, num_requests=1000, **_NO_DELAY),
    Setting(name="paced, c256", key="paced256", concurrency=256, num_requests=768, **_PACED),
    Setting(name="open loop, 20/s", key="open20", concurrency=64, num_requests=200, rate=20, **_PACED),
)
SMALL = 16
"""Requests of the run that shows a foreign client's start-up cost."""


class Sample(Noun):
    """One client at one load in one round. Milliseconds, CPU seconds per 1,000 tokens."""

    client: str
    setting: str
    round: int
    cpu_per_1000: float | None = None
    """While the server was measured."""
    whole_cpu_per_1000: float | None = None
    """With what was done afterwards: parsing, recording. None where there is no such part."""
    ttft_error_ms: tuple[float, float] | None = None
    """p50, p99."""
    itl_error_ms: tuple[float, float] | None = None
    jitter_ms: tuple[float, float] | None = None
    """Arrivals at the server against a constant rate: |error| p50, p99."""
    drift_ms: float | None = None
    """Error of the last arrival."""
    start_s: float | None = None
    """Process start -> first request at the server."""
    server_late_us: tuple[int, int, int] = (0, 0, 0)
    failed: str = ""


class Bench:
    """Built programs and the places of foreign clients."""

    def __init__(self, folder: Path, places: dict[str, Path]) -> None:
        self.folder = folder
        self.places = places
        for name in ("known_server", "limit_client"):
            subprocess.run(["gcc", "-O2", "-o", folder / name, HERE / f"{name}.c", "-lm"], check=True)

    def argv(self, client: str, setting: Setting, port: int, num: int) -> tuple[list[str], Path | None]:
        """Command and result file (None: it prints JSON)."""
        words = [str(v) for v in (port, setting.concurrency, num, setting.num_tokens, setting.rate)]
        if client == "limit":
            return [str(self.folder / "limit_client"), *words], None
        if client in NATIVE:
            name = "our" if client == "ours" else client
            return [sys.executable, "-m", f"benchmarks.{name}_client", *words], None
        job = foreign_client.ForeignJob(
            base_url=f"http://127.0.0.1:{port}",
            model="known",
            tokenizer=str(ROOT / "models" / "tiny-moe"),
            input_len=16,
            output_len=setting.num_tokens,
            num_prompts=num,
            concurrency=None if setting.rate else setting.concurrency,
            request_rate=setting.rate or None,
            arrival="constant",
        )
        out = Path(tempfile.mkdtemp(dir=self.folder))
        made, file = foreign_client.command(client, job, out)
        return [str(self.places[client] / made[0]), *made[1:]], file

    def measure(self, client: str, setting: Setting, number: int) -> Sample:
        """One sample; a client that fails is a sample that says so."""
        try:
            if client in NATIVE:
                return self._native(client, setting, number)
            return self._foreign(client, setting, number)
        except (HarnessError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            return Sample(client=client, setting=setting.name, round=number, failed=str(error)[:300])

    def _native(self, client: str, setting: Setting, number: int) -> Sample:
        cost = self._run(client, setting, setting.num_requests)
        printed = json.loads(cost.output)
        return self._sample(client, setting, number, cost).merge(
            cpu_per_1000=printed["cpu_s"] * 1000 / printed["num_tokens"],
            whole_cpu_per_1000=printed.get("whole_cpu_s", printed["cpu_s"]) * 1000 / printed["num_tokens"],
            ttft_error_ms=_pair(printed.get("ttft_error_ms")),
            itl_error_ms=_pair(printed.get("itl_error_ms")),
        )

    def _foreign(self, client: str, setting: Setting, number: int) -> Sample:
        small = self._run(client, setting, SMALL)
        cost = self._run(client, setting, setting.num_requests)
        tokens = (setting.num_requests - SMALL) * setting.num_tokens
        assert cost.file is not None
        ttft, itl = errors(cost.file, setting)
        return self._sample(client, setting, number, cost).merge(
            cpu_per_1000=(cost.cpu_s - small.cpu_s) * 1000 / tokens, ttft_error_ms=ttft, itl_error_ms=itl
        )

    def _sample(self, client: str, setting: Setting, number: int, cost: Cost) -> _Partial:
        jitter, drift = arrival_jitter(cost.server["arrivals"][-setting.num_requests :], setting.rate)
        return _Partial(
            client=client,
            setting=setting.name,
            round=number,
            jitter_ms=jitter,
            drift_ms=drift,
            start_s=cost.server["arrivals"][0] / 1e9 - cost.started_s,
            server_late_us=tuple(cost.server["late_us"]),
        )

    def _run(self, client: str, setting: Setting, num: int) -> Cost:
        with self._server(setting) as (port, account):
            argv, file = self.argv(client, setting, port, num)
            before, started = _children_cpu(), time.monotonic()
            done = subprocess.run(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=300,
                env=foreign_client.environment(client),
            )
            cpu = _children_cpu() - before
        if done.returncode or (file is not None and not file.is_file()):
            raise ValueError(f"{client}: exit code {done.returncode}: {done.stderr.decode()[-200:]}")
        return Cost(cpu, started, account, done.stdout.decode(), file)

    @contextmanager
    def _server(self, setting: Setting) -> Iterator[tuple[int, dict[str, Any]]]:
        """Port of a fresh server; its own account is filled in when the block has ended."""
        account: dict[str, Any] = {}
        process = subprocess.Popen(
            [self.folder / "known_server", str(setting.first_us), str(setting.gap_us)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), account
        finally:
            account |= json.loads(process.communicate(timeout=30)[1])


class Cost(NamedTuple):
    """What one run of a client took."""

    cpu_s: float
    started_s: float
    server: dict[str, Any]
    output: str
    file: Path | None


class _Partial(dict[str, Any]):
    """Fields of a Sample."""

    def merge(self, **fields: Any) -> Sample:
        """The whole sample."""
        return Sample(**{**self, **fields})


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return (values[0], values[1]) if values else None


def arrival_jitter(arrivals: list[int], rate: float) -> tuple[tuple[float, float] | None, float | None]:
    """(|error| p50, p99) in ms against a constant rate anchored at the median error, and the drift in ms."""
    if not rate:
        return None, None
    errors_ms = [(t - arrivals[0]) / 1e6 - i * 1e3 / rate for i, t in enumerate(arrivals)]
    middle = median(errors_ms)
    off = sorted(abs(e - middle) for e in errors_ms)
    tenth = max(1, len(errors_ms) // 10)
    return (percentile(off, 50), percentile(off, 99)), median(errors_ms[-tenth:]) - median(errors_ms[:tenth])


def errors(file: Path, setting: Setting) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """TTFT and gap errors (ms; p50, p99) of a foreign client's result file.

    Exact where the file holds text and times of each request; else its percentiles less the nominal time,
    which there is none of with no delay.
    """
    data = json.loads(file.read_text().splitlines()[-1] if file.suffix == ".jsonl" else file.read_text())
    if "generated_texts" in data:
        return _exact(data)
    if not setting.gap_us:
        return None, None
    metrics = importers.read(file)[0].metrics
    ttft, gaps = metrics.ttft_s, metrics.icl_s
    return _beyond(ttft, setting.first_us), _beyond(gaps, setting.gap_us)


def _beyond(seen: Distribution | None, nominal_us: int) -> tuple[float, float] | None:
    """How far p50 and p99 lie off the nominal time, ms."""
    if seen is None or seen.p50 is None or seen.p99 is None:
        return None
    nominal_ms = nominal_us / 1e3
    return seen.p50 * 1e3 - nominal_ms, abs(seen.p99 * 1e3 - nominal_ms)


def _exact(data: dict[str, Any]) -> tuple[tuple[float, float], tuple[float, float]]:
    ttft: list[float] = []
    gaps: list[float] = []
    for text, first_s, itls in zip(data["generated_texts"], data["ttfts"], data["itls"], strict=True):
        words = text.split()
        received, _, first = words[0].partition(":")
        sends = [int(first), *map(int, words[1:])]
        ttft.append(first_s * 1e3 - (sends[0] - int(received)) / 1e6)
        gaps += [abs(itl * 1e3 - (b - a) / 1e6) for itl, a, b in zip(itls, sends, sends[1:], strict=False)]
    ttft.sort()
    gaps.sort()
    return (percentile(ttft, 50), percentile(ttft, 99)), (percentile(gaps, 50), percentile(gaps, 99))


ROWS: dict[str, Callable[[Sample], float | None]] = {
    "CPU s / 1,000 tokens": lambda s: s.cpu_per_1000,
    "CPU s / 1,000 tokens with parsing afterwards": lambda s: s.whole_cpu_per_1000,
    "TTFT error p50 ms": lambda s: s.ttft_error_ms and s.ttft_error_ms[0],
    "TTFT error p99 ms": lambda s: s.ttft_error_ms and s.ttft_error_ms[1],
    "ITL error p99 ms": lambda s: s.itl_error_ms and s.itl_error_ms[1],
    "arrival jitter p50 ms": lambda s: s.jitter_ms and s.jitter_ms[0],
    "arrival jitter p99 ms": lambda s: s.jitter_ms and s.jitter_ms[1],
    "drift ms": lambda s: s.drift_ms,
    "start to first request s": lambda s: s.start_s,
}


def table(samples: list[Sample]) -> str:
    """Markdown: medians over rounds with (low - high); CPU also as a ratio to the limit of its round."""
    clients = list(dict.fromkeys(s.client for s in samples))
    lines = ["| | " + " | ".join(clients) + " |", "|---|" + "---|" * len(clients)]
    for setting in dict.fromkeys(s.setting for s in samples):
        here = [s for s in samples if s.setting == setting and not s.failed]
        limits = {s.round: s.cpu_per_1000 for s in here if s.client == "limit"}
        times = [
            _cell([_ratio(s.cpu_per_1000, limits.get(s.round)) for s in here if s.client == c])
            for c in clients
        ]
        lines.append(f"| {setting}: CPU, times the limit | " + " | ".join(times) + " |")
        whole = [
            _cell([_ratio(s.whole_cpu_per_1000, limits.get(s.round)) for s in here if s.client == c])
            for c in clients
        ]
        lines.append(f"| {setting}: the same with parsing afterwards | " + " | ".join(whole) + " |")
        for name, value in ROWS.items():
            cells = [_cell([value(s) for s in here if s.client == c]) for c in clients]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {setting}: {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(value: float | None, limit: float | None) -> float | None:
    return value / limit if value is not None and limit else None


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    spread = f" ({_number(min(known))} - {_number(max(known))})" if len(known) > 1 else ""
    return _number(median(known)) + spread


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def main() -> None:
    """Run and print the table; samples go to standard error as they are made."""
    words = _words()
    if words.merge:
        print(table([s for path in words.merge for s in store.read_lines(path, Sample)]))
        return
    places = {name: ROOT / ".engines" / env / "bin" for name, (env, _) in foreign_client.TOOLS.items()}
    places |= {name: Path(folder) for name, _, folder in (p.partition("=") for p in words.python)}
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), places)
        alone = words.only_round is not None
        for number in [words.only_round] if alone else range(words.rounds):
            for client, setting in _pairs(words):
                samples.append(bench.measure(client, setting, number))
                line = msgspec.json.encode(samples[-1]).decode()
                print(line, file=sys.stdout if alone else sys.stderr, flush=True)
    if not alone:
        print(table(samples))


def _pairs(words: argparse.Namespace) -> Iterator[tuple[str, Setting]]:
    """What one round consists of."""
    for setting in SETTINGS:
        if setting.key in words.loads.split(","):
            for client in words.clients.split(","):
                if client != "floor" or not setting.rate:
                    yield client, setting


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-round", type=int, metavar="K")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--loads", default=",".join(s.key for s in SETTINGS))
    parser.add_argument("--clients", default=",".join((*NATIVE, *foreign_client.TOOLS)))
    parser.add_argument("--python", action="append", default=[], metavar="NAME=FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
