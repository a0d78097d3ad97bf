"""What must not be measured, and what is known to go wrong: checked on the rendered launch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import PurePosixPath

from harness import launchers, registry
from harness.errors import ModelError
from harness.label.known import Case, Warnings, flags
from harness.schema import Launch, Model, Variant

DUMMY_LABEL = "dummy-weights"

_DUMMY_FLAGS = {"--load-format": "dummy"}
"""What every engine with such weights calls them; an engine's own are its FAKE_FLAGS and FAKE_VARIABLES."""
_SHORTEST = len("--lo")
"""argparse takes any beginning of a flag that is no other's."""
_CONFIG_FLAGS = ("--config", "--extra-llm-api-options")
_SETTING = re.compile(r"^\s*[\"']?([\w-]+)[\"']?\s*:\s*[\"']?([\w.-]+)", re.MULTILINE)
_OFF = ("", "0", "-1", "false", "no", "off", "none")


def check(
    variant: Variant, launch: Launch, model: Model, *, allow_dummy: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(warnings, labels) for a rendered launch.

    Raises ModelError when a mixture-of-experts model would run on dummy weights or simulated routing:
    random gates spread tokens as no trained router does, so its speed says nothing.
    """
    fakes = tuple(_fakes(launch, launchers.of(launch).environment(launch)))
    if fakes and model.moe is not None and not allow_dummy:
        raise ModelError(
            f"{variant.name} would run {model.alias} with {', '.join(fakes)}, but it is a mixture of "
            "experts: without its trained router tokens spread over experts as they never do, and the "
            "numbers mean nothing; use the real weights, or set allow_dummy_moe=true to measure anyway, "
            f"labelled {DUMMY_LABEL}."
        )
    return warnings(variant, launch, model), (DUMMY_LABEL,) if fakes else ()


def _fakes(launch: Launch, environment: Mapping[str, str]) -> Iterator[str]:
    """Every spelling of dummy weights or simulated routing in arguments, environment and option files."""
    engines = registry.engines()
    known = _DUMMY_FLAGS | {f: v for e in engines for f, v in registry.fact(e, "FAKE_FLAGS", {}).items()}
    for flag, value in flags(launch.argv):
        if _is_fake(flag, value, known):
            yield f"{flag} {value}"
        if flag in ("--set", "-O") and re.fullmatch(r"load_format\s*[=:]\s*dummy", value):
            yield f"{flag} {value}"
    variables = "|".join(filter(None, (registry.fact(e, "FAKE_VARIABLES", "") for e in engines)))
    for name, value in environment.items():
        if re.fullmatch(variables, name) and value.lower() not in _OFF:
            yield f"{name}={value}"
    for path, content in chain(launch.files.items(), config_files(launch)):
        for key, value in _settings(content or ""):
            if _is_fake(f"--{key.replace('_', '-')}", value, known):
                yield f"{key}: {value} (in {path})"


def _is_fake(flag: str, value: str, known: Mapping[str, str]) -> bool:
    return any(
        value.lower() == fake and full.startswith(flag) and len(flag) >= _SHORTEST
        for full, fake in known.items()
    )


def config_files(launch: Launch) -> Iterator[tuple[str, str | None]]:
    """(path as the command has it, content) of the files it takes options from; None = not readable here."""
    for flag, path in flags(launch.argv):
        if flag in _CONFIG_FLAGS and path not in launch.files:
            yield path, _content(launch, path)


def _content(launch: Launch, path: str) -> str | None:
    """A file as the engine will see it, read through the mount that shows it, else from the repository."""
    for host, target in launch.mounts.items():
        inside = PurePosixPath(target.removesuffix(":rw"))
        if PurePosixPath(path).is_relative_to(inside):
            path = str(PurePosixPath(host, PurePosixPath(path).relative_to(inside)))
            break
    try:
        return (registry.ROOT / path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _settings(content: str) -> Iterator[tuple[str, str]]:
    """(key, value) of an options file: JSON's top level, or any YAML that has them on a line of their own."""
    try:
        options = json.loads(content)
    except ValueError:
        yield from _SETTING.findall(content)
        return
    if isinstance(options, dict):
        yield from ((str(key), str(value)) for key, value in options.items())


def warnings(variant: Variant, launch: Launch, model: Model) -> tuple[str, ...]:
    """Known-broken combinations this launch is one of, each with what to do."""
    case = Case(variant, dict(flags(launch.argv)), launch, model)
    known: Warnings = (*registry.fact(variant.engine, "WARNINGS", ()), *_ANY_ENGINE)
    return tuple(text for broken, text in known if broken(case))


def _other_revision(case: Case) -> bool:
    pinned, loaded = case.model.revision, case.model.loaded_revision
    return bool(pinned and loaded) and loaded != pinned


def _stream_interval(case: Case) -> bool:
    return case.flags.get("--stream-interval", "1") != "1"


def _unread_config(case: Case) -> bool:
    return any(content is None for _, content in config_files(case.launch))


def _mori_across(case: Case) -> bool:
    return bool(case.launch.others) and any("mori" in value for value in case.flags.values())


_ANY_ENGINE: Warnings = (
    (
        _mori_across,
        "MORI between nodes was composed from documents and never run here: name the network (interface=), "
        "let memory be locked without limit, and where data parallelism hangs on RoCE try "
        "env.NCCL_IB_DISABLE=1 (ROCm/MAD#205, #150)",
    ),
    (
        _other_revision,
        "the weights on this machine are of another revision than models.toml pins: the variants of one run "
        "share them, runs of the pinned revision are not comparable; `hf download ID --revision REVISION` "
        "gets those",
    ),
    (
        _stream_interval,
        "--stream-interval other than 1 sends several tokens a chunk: inter-token latencies are of chunks",
    ),
    (
        _unread_config,
        "the options file that its arguments name cannot be read here, so nothing in it is checked before "
        "the start; give the options as args=",
    ),
)


def holds(variant: Variant, model: Model, input_len: int, output_len: int) -> str:
    """Why a request of this shape does not fit the variant; "" when it does. Lengths in tokens."""
    total = input_len + output_len
    if variant.max_model_len and total > variant.max_model_len:
        return f"{total} tokens exceed {variant.name}'s max_model_len {variant.max_model_len}"
    if model.max_model_len and total > model.max_model_len:
        return f"{total} tokens exceed {model.alias}'s {model.max_model_len}"
    fits = registry.fact(variant.engine, "fits", None)
    return str(fits(variant, input_len)) if fits else ""
