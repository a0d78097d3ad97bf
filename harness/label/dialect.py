"""Flag dialects: how one meaning is spelt by each engine version."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from harness.errors import InputError
from harness.schema import Deployment, Model, Rank, Variant

Spellings = tuple[tuple[str, str], ...]
"""(first version that has it, spelling), oldest first; "" as spelling = that version has no such flag."""


class Parser(NamedTuple):
    """How engines/parsers/<engine>_parser.py reaches an engine's own parser."""

    program: str
    """The word of argv after which the engine's own arguments begin."""
    environment: str
    """The light environment that holds its real package."""
    package: str
    """The package whose other versions bring their parser, which runs in that environment too."""
    fork_flags: tuple[str, ...] = ()
    """Flags with values that only a fork's own parser knows."""


_MEETING = 7777
_RELEASE = re.compile(r"\d+(?:\.\d+)*")
_CANDIDATE = re.compile(r"rc(\d+)")
_POST = re.compile(r"\.post(\d+)")
_FINAL = 10**6
_COMMIT = re.compile(r"(?=[0-9]*[a-f])[0-9a-f]{7,40}")
_NEWEST = (10**6,)


def version_key(version: str) -> tuple[tuple[int, ...], int]:
    """Sortable form of 0.32.0, 0.5.15.post1 or 1.3.0rc14; a name without digits in front sorts first.

    A release candidate sorts before its release, a post-release behind it. Builds of a fork are named after
    their branch: they get the oldest spellings, since nothing newer may be assumed of them. A commit of the
    engine's own repository gets the newest.
    """
    if is_commit(version):
        return _NEWEST, 0
    release = _RELEASE.match(version)
    if release is None:
        return (), 0
    candidate, post = _CANDIDATE.search(version), _POST.search(version)
    stage = int(candidate[1]) if candidate else _FINAL + (1 + int(post[1]) if post else 0)
    return tuple(int(part) for part in release.group().split(".")), stage


def is_commit(version: str) -> bool:
    """Whether it is a commit's hash, seven digits or more."""
    return bool(_COMMIT.fullmatch(version))


def is_branch(version: str) -> bool:
    """Whether a build is named after a branch of a fork: which release it stands on is not known."""
    return not version_key(version)[0]


def since(version: str, first: str) -> bool:
    """Whether `version` is `first` or newer."""
    return version_key(version) >= version_key(first)


def spell(version: str, spellings: Spellings) -> str:
    """The newest spelling that `version` has; "" when it has none."""
    known = [spelling for first, spelling in spellings if since(version, first)]
    return known[-1] if known else ""


def longest(variant: Variant, model: Model) -> int:
    """Maximum length to start with, tokens: the variant's, or the model's if that is shorter; 0 = not said.

    Engines refuse a length beyond the model's own.
    """
    if variant.max_model_len and model.max_model_len:
        return min(variant.max_model_len, model.max_model_len)
    return variant.max_model_len


def pinned(deployment: Deployment) -> tuple[str, ...]:
    """`--revision` with the model's, where the engine fetches the weights by their Hugging Face id itself."""
    model = deployment.model
    fetched = not model.path and deployment.model_path == model.hf_id
    return ("--revision", model.revision) if fetched and model.revision else ()


def by_node(variant: Variant, argv: Callable[[int], tuple[str, ...]]) -> dict[str, Any]:
    """The commands of all its nodes, as fields of a Launch."""
    first, *others = map(argv, range(variant.nodes))
    return {"argv": first, "others": tuple(Rank(argv=words) for words in others)}


def meeting_port(port: int) -> int:
    """Where the ranks of several nodes meet, their server's port given.

    Below 32768, where Linux begins to hand out ports, and above those that server.free_port() gives.
    """
    return port + _MEETING


def over_nodes(variant: Variant) -> dict[str, str]:
    """The variant's variables; MORI's heap holds buffers of every rank, and 4G were too few for 32 of them.

    ROCm/MAD#205 and #168 run EP16 with 16G. Both engines choose MORI's kernel for several nodes themselves.
    """
    mori = variant.nodes > 1 and str(variant.options.get("all2all", "")).startswith("mori")
    return {**variant.env, **({"MORI_SHMEM_HEAP_SIZE": "16G"} if mori else {})}


def refuse_unknown_options(variant: Variant, known: tuple[str, ...]) -> None:
    """Raises InputError for an option that the engine's file does not render."""
    if unknown := sorted(set(variant.options) - set(known)):
        raise InputError(
            f"Variant {variant.name} has options {', '.join(unknown)} that engines/{variant.engine}.py does "
            f"not render; known are {', '.join(known)}; write anything else as args."
        )


def offline(deployment: Deployment) -> dict[str, str]:
    """Variables that keep an engine off the Hugging Face Hub where the weights are on this machine."""
    return {"HF_HUB_OFFLINE": "1"} if deployment.model.path else {}


def start_timeout_s(variant: Variant) -> float:
    """Longest start: 700 GB of weights, then up to 20 minutes of JIT compilation, on an accelerator."""
    return 1800.0 if variant.accelerator == "cpu" else 7200.0
