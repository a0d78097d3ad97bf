"""results/<run_id>/: the only module that writes there. Nothing measured is lost by a crash.

recipe.toml environment.json comparison.json report.md
<variant>/r<restart>/launch.json server.log attestation.json
<variant>/r<restart>/<workload>@<load>/trial.json workload.json requests.jsonl scores.jsonl

Lines are appended in the plain; pack() turns those of a finished run into <name>.jsonl.xz; readers take both.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import tomlkit

from harness import packing
from harness.errors import InputError, StoreError
from harness.registry import ROOT, convert, read_toml
from harness.schema import SCHEMA_VERSION, Noun, Recipe, RequestRecord, Sample, Trial
from harness.secrets import redacted_recipe

N = TypeVar("N", bound=Noun)
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
PACKED = ".xz"
PACKED_FILES = (
    "*/r*/*/scores*.jsonl",
    "*/r*/*/requests*.jsonl",
    "*/r*/*/probes/*/requests.jsonl",
    "workloads/*.jsonl",
)
"""In this order: packing scores looks at the records and prompts they repeat."""
_FIXED = (
    *("model", "args", "env", "settings", "image", "seed", "launcher", "url", "python", "warmup"),
    "request_timeout_s",
)
"""Settings that all trials of a run share: a resumed run may not change them."""
STAYS_PLAIN_BYTES = 32 << 20
"""Files from here on stay plain: byte ranges of them are decoded on all cores."""


def results_root() -> Path:
    """Where runs are kept: $HARNESS_RESULTS, else results/ of this repository."""
    return Path(os.environ.get("HARNESS_RESULTS") or ROOT / "results")


def new_run_id(slug: str) -> str:
    """YYYYMMDD-HHMMSS-slug, UTC; sorts by time."""
    clean = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:40].strip("-")
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + (f"-{clean}" if clean else "")


def run_folder(run_id: str) -> Path:
    """results/<run_id>. Raises StoreError for a name that would leave the folder."""
    if not RUN_ID.fullmatch(run_id):
        raise StoreError(f"{run_id!r} is not a run id; use letters, digits, '.', '_' and '-'.")
    return results_root() / run_id


def find_run(name: str) -> Path:
    """An existing run by id or path; "" or "last" is the newest. Raises InputError when there is none."""
    if name in ("", "last"):
        runs = [p for p in results_root().glob("*") if (p / "recipe.toml").exists()]
        if not runs:
            raise InputError(f"{results_root()} holds no run yet; make one with `just bench all`.")
        return max(runs, key=lambda run: (_started(run), run.name))
    for folder in (Path(name), results_root() / name):
        if (folder / "recipe.toml").exists():
            return folder
    raise InputError(f"There is no run {name!r} in {results_root()}; `just log` lists the runs.")


def _started(run: Path) -> str:
    """When a run began, as its environment says: ids given by hand do not sort by time."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, KeyError, TypeError):
        return str(msgspec.json.decode((run / "environment.json").read_bytes())["started_at"])
    return ""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"The disk of {path} is full; free some space and rerun with the same run id."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
            raise StoreError(
                f"{path} cannot be written ({error.strerror}); make it writable or set HARNESS_RESULTS."
            ) from error
        raise StoreError(f"{path} cannot be written: {error}; check the disk and rerun.") from error


def write_text(path: Path, text: str) -> None:
    """Whole file or nothing: written beside and renamed."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write(path: Path, noun: Noun | list[Any]) -> None:
    """A noun as indented JSON."""
    write_text(path, msgspec.json.format(msgspec.json.encode(noun), indent=1).decode() + "\n")


def read(path: Path, kind: type[N]) -> N:
    """A noun from JSON. Raises StoreError when it is missing, cut off or of another schema version."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); the run is incomplete.") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} is not what this version reads: {_version_or(data, error)}.") from error


def _version_or(data: bytes, error: Exception) -> str:
    with contextlib.suppress(msgspec.MsgspecError, AttributeError):
        version = msgspec.json.decode(data).get("schema_version")
        if version not in (None, SCHEMA_VERSION):
            return (
                f"it has schema version {version}, this harness reads {SCHEMA_VERSION}; use a matching commit"
            )
    return f"{error}; restore it or remove that folder"


def write_recipe(run: Path, recipe: Recipe) -> None:
    """recipe.toml, readable by `bench recipe=`; secrets stay references to the caller's environment."""
    write_text(run / "recipe.toml", tomlkit.dumps(_storable(recipe)))


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run. Raises InputError naming the field that this version does not understand."""
    path = run / "recipe.toml"
    return convert(read_toml(path), Recipe, str(path))


def refuse_another(run: Path, recipe: Recipe) -> None:
    """Raises InputError when `run` already holds trials measured under settings that `recipe` changes, or a
    damaged recipe.toml.

    More variants, workloads, loads or restarts are welcome: they add trials and change none.
    """
    path = run / "recipe.toml"
    if not path.exists() or not any(run.glob("*/r*/*/trial.json")):
        return
    new, old = _storable(recipe), read_toml(path)
    # A run of before a setting existed was measured without it.
    changed = [name for name in _FIXED if (old.get(name) or None) != (new.get(name) or None)]
    if changed:
        raise InputError(
            f"Run {run.name} already holds trials measured with another {' and another '.join(changed)}; "
            "give another run_id=, or remove that folder."
        )


def _storable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without secrets and without None, which TOML has not."""
    fields: dict[str, Any] = _without_none(msgspec.to_builtins(redacted_recipe(recipe)))
    return fields


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value


def visit_folder(run: Path, variant: str, restart: int) -> Path:
    """Where one server life is kept."""
    return run / variant / f"r{restart}"


def trial_folder(run: Path, trial: Trial) -> Path:
    """Where one trial is kept: under the name that its load had when it was measured."""
    visit = visit_folder(run, trial.variant, trial.restart)
    now, then = visit / trial.folder, visit / trial.folder_of_old
    return then if then.exists() and not now.exists() else now


def sample_path(run: Path, folder: str) -> Path:
    """Where the prompts of a verified sample are kept, the same for all variants. `folder`: a trial's."""
    return run / "workloads" / f"{folder}.jsonl"


class RecordWriter:
    """requests.jsonl or scores.jsonl: one line a noun, in the file as soon as it is handed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
            path.with_name(path.name + PACKED).unlink(missing_ok=True)

    def __call__(self, noun: Noun) -> None:
        """Append one line. Raises StoreError (disk full ...)."""
        line = memoryview(self._encoder.encode(noun) + b"\n")
        with writing(self._path):
            while line:
                line = line[os.write(self._fd, line) :]

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        os.close(self._fd)


def present(path: Path) -> Path | None:
    """The file that holds these lines, plain or packed; None when there is neither."""
    return next((p for p in (path, path.with_name(path.name + PACKED)) if p.exists()), None)


def lines(path: Path) -> Iterator[bytes]:
    """The plain lines of a JSON-lines file, whichever form is there; memory stays at one line.

    Raises StoreError when neither form can be read.
    """
    found = present(path) or path
    try:
        if found.suffix != PACKED:
            with found.open("rb") as file:
                yield from file
            return
        known = _known(path)
        with lzma.open(found) as packed:
            for line in packed:
                yield packing.plain(line, known)
    except (OSError, lzma.LZMAError, EOFError) as error:
        cause = getattr(error, "strerror", None) or error
        raise StoreError(f"{found} cannot be read ({cause}); the run is incomplete.") from error


def read_lines(path: Path, kind: type[N]) -> Iterator[N]:
    """Nouns of a JSON-lines file; a cut-off last line (crash) is dropped, any other bad line is an error.

    Raises StoreError naming the line.
    """
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(lines(path), start=1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            if not line.endswith(b"\n"):
                return
            raise StoreError(f"{path} line {number} is damaged ({error}); remove that line.") from error


def records(folder: Path) -> Iterator[RequestRecord]:
    """The request records of a trial."""
    return read_lines(folder / "requests.jsonl", RequestRecord)


def telemetry(folder: Path) -> list[Sample]:
    """The samples of a trial; [] when none were taken or they cannot be read."""
    with contextlib.suppress(StoreError):
        return list(read_lines(folder / "telemetry.jsonl", Sample))
    return []


def pack(run: Path, below: int = STAYS_PLAIN_BYTES) -> None:
    """Replaces the line files of a run in which nothing is measured any more by packed ones.

    Files of `below` bytes and more stay plain. The plain file goes when the packed one is whole. Raises
    StoreError when there is no space for it.
    """
    for pattern in PACKED_FILES:
        for path in sorted(run.glob(pattern)):
            if path.stat().st_size < below:
                _pack(path)


def _pack(path: Path) -> None:
    target = path.with_name(path.name + PACKED)
    partial = target.with_name(target.name + ".partial")
    known = _known(path)
    with writing(target):
        with lzma.open(partial, "wb") as file:
            file.writelines(packing.packed(line, known) for line in lines(path))
        partial.replace(target)
        path.unlink()


def _known(path: Path) -> packing.Known:
    """What a trial's scores repeat: prompts of the run's sample, log-probabilities of the trial's records."""
    if not path.name.startswith("scores"):
        return {}
    known: dict[str, dict[str, Any]] = {}
    prompts = sample_path(path.parents[3], path.parent.name)
    requests = path.parent / "requests.jsonl"
    if present(prompts):
        for prompt in _fields(lines(prompts)):
            known[prompt["request_id"]] = {"prompt_token_ids": prompt.get("prompt_token_ids")}
    if present(requests):
        for record in _fields(lines(requests)):
            if record.get("output_logprobs"):
                shared = known.setdefault(record["request_id"], {})
                shared["emitted_logprob"] = record["output_logprobs"]
    return known


def _fields(found: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in found:
        with contextlib.suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(line)
