"""Options of production as switches of any variant: `vllm-mori+prefix+mtp`. Pure.

engines/<name>.switches.toml declares them beside the engine's variants: what each sets, what must be true
once it runs, what it needs and where it cannot run. A name may be followed by a value: `+draft=ALIAS`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from harness.errors import InputError
from harness.label.dialect import is_branch, since
from harness.schema import Model, Noun, Scalar, Variant

SIGN = "+"
_VALUE = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A value stands in folder names, so it is an alias, never a path."""


class Switch(Noun):
    """One table of engines/<name>.switches.toml."""

    name: str
    says: str
    """What it switches on, in words."""
    lossless: bool = True
    """Output has the same distribution with it; False: it rounds, and its difference is no fault."""
    affects: tuple[Literal["cached", "drafted"], ...] = ()
    """Tokens that it has a hand in, which are judged as their own population."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    expect: dict[str, Scalar] = msgspec.field(default_factory=dict)
    needs: Literal["", "draft", "eagle3", "mtp"] = ""
    """Weights of another model (its alias is the value, or the model says it), or layers of its own."""
    since: str = ""
    """First version that takes what it sets; "" = every version that variants here are written for."""
    never: dict[str, str] = msgspec.field(default_factory=dict)
    """Accelerator -> why it does not run there."""


def split(name: str) -> tuple[str, tuple[str, ...]]:
    """("vllm-mori", ("prefix", "draft=x")) of vllm-mori+prefix+draft=x."""
    base, *switches = name.split(SIGN)
    return base, tuple(switches)


def base(name: str) -> str:
    """The variant without its switches."""
    return split(name)[0]


def partner(name: str, others: Iterable[str]) -> str:
    """Of the others, the one that has most of this name's switches and no more; "" when there is none."""
    variant, own = split(name)
    fitting = [o for o in others if o != name and base(o) == variant and set(split(o)[1]) < set(own)]
    return max(fitting, key=lambda other: len(split(other)[1]), default="")


def switched(variant: Variant, words: tuple[str, ...], known: Mapping[str, Switch]) -> Variant:
    """The variant with these switches on. Raises InputError for one that it has not, or cannot have too."""
    found, setters = variant, dict[str, str]()
    for word in words:
        name, _, value = word.partition("=")
        switch = _declared(variant, name, known)
        if clash := sorted(setters.keys() & switch.expect.keys()):
            raise InputError(
                f"{SIGN}{setters[clash[0]]} and {SIGN}{name} both set {clash[0]}: one would undo the other; "
                "keep one."
            )
        setters |= dict.fromkeys(switch.expect, name)
        found = _with(found, switch, value)
    return msgspec.structs.replace(found, name=SIGN.join((variant.name, *words)), switches=words)


def _declared(variant: Variant, name: str, known: Mapping[str, Switch]) -> Switch:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {SIGN}{near[0]}?" if near else ""
    there = ", ".join(SIGN + one for one in sorted(known)) or "none"
    raise InputError(f"{variant.engine} has no switch {SIGN}{name}.{hint} There are: {there}.")


def _with(variant: Variant, switch: Switch, value: str) -> Variant:
    if value and (switch.needs not in ("draft", "eagle3") or not _VALUE.fullmatch(value)):
        raise InputError(
            f"{variant.name}{SIGN}{switch.name}={value}: only a switch that needs another model takes a "
            "value, and that is an alias of models/models.toml; leave it out, or add the alias."
        )
    same = {field: v for field, v in switch.expect.items() if variant.expect.get(field) == v}
    if same and same == switch.expect:
        field, v = next(iter(same.items()))
        raise InputError(
            f"{variant.name} already runs with {field} = {v!r}: {SIGN}{switch.name} would compare it with "
            "itself; leave the switch out, or name a variant without it."
        )
    named: dict[str, Any] = {switch.needs: value} if value else {}
    return msgspec.structs.replace(
        variant,
        name=f"{variant.name}{SIGN}{switch.name}",
        source=f"{variant.source}; with {switch.says}",
        options=_merged(variant.options, {**switch.options, **named}),
        args=(*variant.args, *switch.args),
        env={**variant.env, **switch.env},
        expect={**variant.expect, **switch.expect},
        reasons={**variant.reasons, **dict.fromkeys(switch.expect, f"the switch {SIGN}{switch.name}")},
    )


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(under[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return {**under, **over, **nested}


def beside(variant: Variant, model: Model, known: Mapping[str, Switch]) -> str:
    """Alias of the other model whose weights a switch needs: its value, else the model's own; "" for none."""
    for word in variant.switches:
        name, _, value = word.partition("=")
        switch = known.get(name)
        if switch and switch.needs in ("draft", "eagle3"):
            return value or (model.draft if switch.needs == "draft" else model.eagle3)
    return ""


def cannot(variant: Variant, model: Model, known: Mapping[str, Switch]) -> str:
    """Why a switch of the variant cannot be on here; "" when all can."""
    for word in variant.switches:
        name, _, value = word.partition("=")
        switch = known.get(name)
        if switch and (why := _hindered(switch, value, variant, model)):
            return f"{SIGN}{name}: {why}"
    return ""


def _hindered(switch: Switch, value: str, variant: Variant, model: Model) -> str:
    if why := switch.never.get(variant.accelerator):
        return why
    if switch.since and (is_branch(variant.version) or not since(variant.version, switch.since)):
        return f"{variant.engine} has it since {switch.since}, this is {variant.version}"
    own = {"draft": model.draft, "eagle3": model.eagle3}.get(switch.needs, "-")
    if not (value or own):
        return (
            f"it needs a model that drafts for {model.alias}, and models.toml names none; write "
            f"{switch.needs} = ALIAS there, or {SIGN}{switch.name}=ALIAS"
        )
    if switch.needs == "mtp" and not model.num_mtp_layers:
        return f"{model.alias} has no layers for multi-token prediction (num_nextn_predict_layers)"
    return ""
