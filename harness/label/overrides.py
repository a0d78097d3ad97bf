"""A checkpoint's own configuration, changed on the command line: the same weights, another model.

Which flags do that is an engine's knowledge: OVERRIDES in engines/<name>.py, flag -> whether it changes what
the model computes (as against what is sampled when a request does not say).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import ModelError
from harness.label.known import flags
from harness.schema import Launch, Variant

LABEL = "config-override"
_SIZES = ("max_position_embeddings", "model_max_length", "max_model_len", "architectures")
"""Keys that say how much is served, or by which class, and change no product or sum."""


def check(variant: Variant, launch: Launch, *, allow: bool = False) -> tuple[str, ...]:
    """Labels for what the command line changes of the model's configuration.

    Raises ModelError when that changes the model's arithmetic and nobody asked for it in so many words.
    """
    known: dict[str, bool] = registry.fact(launch.engine, "OVERRIDES", {})
    said = [(flag, value, known[name]) for flag, value in flags(launch.argv) if (name := _name(flag, known))]
    arithmetic = [key for flag, value, computes in said if computes for key in _changed(flag, value)]
    if arithmetic and not allow:
        raise ModelError(
            f"{variant.name} would change what the model computes: {', '.join(arithmetic)}; that is another "
            "model than the label says. Take it out, name an edited copy of the checkpoint as model=, or "
            f"set allow_overrides=true to measure it anyway, labelled {LABEL}."
        )
    shown = [key for flag, value, computes in said for key in (_changed(flag, value) if computes else [flag])]
    return tuple(f"{LABEL}: {key}" for key in shown)


def edited(folder: str) -> tuple[str, ...]:
    """A label where a checkpoint's config.json is not the one that its own train.json has the hash of."""
    pinned, config = Path(folder) / "train.json", Path(folder) / "config.json"
    if not (folder and pinned.is_file() and config.is_file()):
        return ()
    expected = json.loads(pinned.read_text(encoding="utf-8")).get("sha256", {}).get("config.json")
    if expected in (None, hashlib.sha256(config.read_bytes()).hexdigest()):
        return ()
    return (f"{LABEL}: config.json is not the one these weights were trained with",)


def _name(flag: str, known: dict[str, bool]) -> str:
    """The engine's flag that this one is: whole, shortened, or with a dotted key behind it; "" = none."""
    head = flag.partition(".")[0]
    return next((name for name in known if name == head or (len(head) > 6 and name.startswith(head))), "")


def _changed(flag: str, value: str) -> list[str]:
    """ "key=value" of everything that a flag changes but sizes."""
    dotted = flag.partition(".")[2]
    if dotted:
        return [] if dotted.replace("-", "_") in _SIZES else [f"{dotted.replace('-', '_')}={value}"]
    try:
        given: Any = json.loads(value)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return [f"{flag} {value}".rstrip()]
    return [f"{key}={json.dumps(one)}" for key, one in given.items() if key not in _SIZES]
