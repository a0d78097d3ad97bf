"""Recipes: one question each, from a TOML file or from the words of the command line."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import registry
from harness.errors import InputError
from harness.label import scale
from harness.schema import Accelerator, Load, Options, Recipe, Sampling, Scalar, WorkloadSpec

ORIGIN_SHAPES = ("1000/2000", "5000/1000", "10000/500", "30000/100", "sharegpt-lengths")
"""Shapes of the origin's comparison (ISL/OSL). Its last is ShareGPT itself where w.path= names the file."""
CPU_SHAPES = ("100/100", "1000/50", "sharegpt-sample")
"""Mostly decode, mostly prefill, dialogue: what three engines restarted three times on two cores end in five
minutes, none too short to be judged."""
SHAPE = re.compile(r"(\d+)[/x-](\d+)")

RECIPE_KEYS: dict[str, type] = {
    "model": str,
    "reference": str,
    "baseline": str,
    "launcher": str,
    "url": str,
    "python": str,
    "image": str,
    "question": str,
    "repeats": int,
    "warmup": int,
    "seed": int,
    "verify": int,
    "timeout": float,
}
RENAMED = {"verify": "verify_requests", "timeout": "request_timeout_s"}
LOAD_KEYS = (
    "rate",
    "concurrency",
    "arrival",
    "burstiness",
    "ramp_to",
    "stages",
    "time_scale",
    "duration",
    "search",
)
_OWN_KEYS = ("recipe", "run_id", "num_prompts", "args", "nodes", "sampling", "ignore_eos")
GREEDY = "greedy"
_FEW = 12
"""Requests of a trial on CPU: three turns of four slots."""
_TURNS = 8
"""Turns of a closed loop's slots on accelerators: of two turns, most is ramp."""
_DOTTED_KEYS = ("env.NAME", "settings.NAME", "slo.ttft_s", "w.PARAM")
_RESTARTS = 3
"""Of each variant where several are compared: the fewest that say how far they are from themselves."""
_SAME = "question=Is {0} faster than itself? No: a verdict would be a false one."
_ENOUGH_RATE = 50
"""Requests/s that a closed loop of a given duration is prepared for."""
OPTION_KEYS = dict(zip(Options.__struct_fields__, Options.__struct_encode_fields__, strict=True))
"""Key of an option -> what files call it, which is an older key of some."""


class Words:
    """Command-line words split into plain ones and key=value pairs. Raises InputError for a key twice."""

    def __init__(self, words: Sequence[str]) -> None:
        self.plain = [w for w in words if not _is_pair(w)]
        self.pairs: dict[str, str] = {}
        for key, _, value in (w.partition("=") for w in words if _is_pair(w)):
            if key in self.pairs:
                raise InputError(f"{key}= is given twice; keep one.")
            self.pairs[key] = value

    def take(self, key: str, default: str = "") -> str:
        """Value of a key, removed from the pairs."""
        return self.pairs.pop(key, default)

    def nothing_left(self, verb: str, known: str) -> None:
        """Raises InputError for a key nobody took."""
        if self.pairs:
            raise InputError(f"{verb} has no setting {next(iter(self.pairs))!r}: it knows {known}.")


def _is_pair(word: str) -> bool:
    return bool(re.match(r"[A-Za-z_][\w.]*=", word))


def load_recipe(path: Path) -> Recipe:
    """A recipe file. Raises InputError with the path to the field."""
    fields: dict[str, Any] = registry.read_toml(path)
    options = fields.get("options")
    if isinstance(options, dict):
        fields = {**fields, "options": _filed(options)}
        if "repeats" not in fields and options.get("budget_s"):
            fields["repeats"] = 0
    return registry.convert(fields, Recipe, str(path))


def _filed(options: dict[str, Any]) -> dict[str, Any]:
    """Options under the names that files have for them. Raises InputError for one given in both spellings."""
    for key, filed in OPTION_KEYS.items():
        if key != filed and key in options:
            if filed in options:
                raise InputError(f"{key}= and {filed}= are two names of one setting; keep one.")
            options[filed] = options.pop(key)
    return options


def against_itself(given: Sequence[str]) -> list[str]:
    """The words of a bench of one variant under two blind names, three restarts unless they say otherwise.

    Raises InputError for several variants or none.
    """
    names, *rest = [word for word in given if "=" not in word] or [""]
    if not names or "," in names or names == "all":
        raise InputError("aa measures one variant against itself; name one: `just aa VARIANT`.")
    registry.variant(names)
    pairs = [word for word in given if "=" in word]
    said = any(word.startswith(("repeats=", "budget_s=")) for word in pairs)
    asked = [] if any(word.startswith("question=") for word in pairs) else [_SAME.format(names)]
    return [",".join(scale.twins(names)), *rest, *([] if said else ["repeats=3"]), *asked, *pairs]


def from_words(words: Words, variants: tuple[str, ...], accelerator: Accelerator) -> Recipe:
    """The recipe that `bench <variants> [workloads] [key=value ...]` amounts to.

    Raises InputError for unknown names, keys and values that do not parse.
    """
    pairs = dict(words.pairs)
    small = accelerator == "cpu"
    made = loads(pairs, small)
    given = _number("num_prompts", pairs.pop("num_prompts"), int) if "num_prompts" in pairs else None
    asked = _number("percentile", pairs.get("percentile", str(Options().percentile)), float)
    nums = {load.label: given or _num_prompts(load, small, asked) for load in made}
    seed = _number("seed", pairs.get("seed", "0"), int)
    names = words.plain[1] if len(words.plain) > 1 else "all"
    if len(words.plain) > 2:
        raise InputError(
            f"{words.plain[2]!r} is one word too many; the order is <variants> [workloads] [key=value]."
        )
    params = {k[2:]: _scalar(pairs.pop(k)) for k in list(pairs) if k.startswith("w.")}
    specs = _by_load(workload_specs(names, small, max(nums.values()), seed, params), nums)
    fields: dict[str, Any] = {
        "variants": variants,
        "workloads": _chosen(specs, pairs.pop("sampling", GREEDY), pairs.pop("ignore_eos", "true")),
        "loads": made,
        "args": _shell_words("args", pairs.pop("args", "")),
        "env": {k[4:]: pairs.pop(k) for k in list(pairs) if k.startswith("env.")},
        "settings": {k[9:]: _scalar(pairs.pop(k)) for k in list(pairs) if k.startswith("settings.")},
        "slo": {k[4:]: _number(k, pairs.pop(k), float) for k in list(pairs) if k.startswith("slo.")},
        "options": _filed({k: _scalar(pairs.pop(k)) for k in list(pairs) if k in _option_words()}),
    }
    _shell_words("place", str(fields["options"].get("clients", "")))
    if pairs.get("repeats", "auto" if "budget_s" in fields["options"] else "") == "auto":
        pairs.pop("repeats", "")
        fields["repeats"] = 0
    elif "repeats" not in pairs and len(variants) > 1:
        fields["repeats"] = _RESTARTS
    for key, kind in RECIPE_KEYS.items():
        if key in pairs:
            value = pairs.pop(key)
            fields[RENAMED.get(key, key)] = value if kind is str else _number(key, value, kind)
    if pairs:
        known = sorted({*RECIPE_KEYS, *LOAD_KEYS, *_OWN_KEYS, *OPTION_KEYS, *_DOTTED_KEYS})
        raise InputError(f"There is no key {next(iter(pairs))!r}. There are: {', '.join(known)}.")
    fields.setdefault("question", _question(variants))
    return registry.convert(fields, Recipe, "command line")


def _option_words() -> set[str]:
    """Keys of options, old ones included."""
    return {*OPTION_KEYS, *OPTION_KEYS.values()}


def _question(variants: tuple[str, ...]) -> str:
    if len(variants) == 1:
        return f"How fast is {variants[0]} on this machine, and is it right?"
    return f"How do {', '.join(variants)} compare on this machine?"


def _shell_words(key: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(
            f"{key}={text} is no command line: {error}. Close it, with the whole in quotes."
        ) from error


def _num_prompts(load: Load, small: bool, percentile: float) -> int:
    """Requests per trial where num_prompts= does not say.

    Enough for a duration; for a search, to tell 1 % from 2 %; on CPU, for a plateau; on accelerators eight
    turns of a closed loop's slots, and as many in an open loop as the percentile needs that is asked for.
    """
    slots = load.max_concurrency or 1
    if load.duration_s:
        return math.ceil(load.duration_s * (load.request_rate or _ENOUGH_RATE))
    if load.search:
        return 100
    if small:
        return max(_FEW, 3 * slots)
    if load.arrival == "closed" and not load.request_rate:
        return max(50, _TURNS * slots)
    from harness.numbers import tails  # scipy: a third of a second that closed loops need not pay

    return tails.required(percentile / 100.0)


def _by_load(specs: tuple[WorkloadSpec, ...], nums: dict[str, int]) -> tuple[WorkloadSpec, ...]:
    """Each workload with the number of requests that each load needs: one for all where they agree."""
    if len(set(nums.values())) == 1:
        return specs
    return tuple(
        msgspec.structs.replace(spec, num_prompts=num, loads=(label,))
        for spec in specs
        for label, num in nums.items()
    )


def _chosen(specs: tuple[WorkloadSpec, ...], asked: str, ignore_eos: str) -> tuple[WorkloadSpec, ...]:
    """Each workload in each way of choosing tokens that sampling= names: greedy+temperature=0.7,top_p=0.9."""
    if ignore_eos not in ("true", "false"):
        raise InputError(f"ignore_eos={ignore_eos} is neither true nor false; false lets outputs end.")
    ways = [None if way == GREEDY else sampling(way) for way in asked.split("+")]
    return tuple(
        msgspec.structs.replace(spec, sampling=way, ignore_eos=ignore_eos == "true")
        for spec in specs
        for way in ways
    )


def sampling(text: str) -> Sampling:
    """temperature=0.7,top_p=0.9,... Raises InputError."""
    fields: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if name not in Sampling.__struct_fields__ or not equals or name in fields:
            known = ", ".join(Sampling.__struct_fields__)
            raise InputError(
                f"sampling= does not understand {pair!r}: give {GREEDY}, or each of these at most once, like "
                f"sampling=temperature=0.7,top_p=0.9: {known}; + joins several ways."
            )
        fields[name] = _number(f"sampling={name}", value, int if name in ("top_k", "seed") else float)
    return registry.convert(fields, Sampling, "sampling=")


def workload_specs(
    names: str, small: bool, num_prompts: int, seed: int, params: dict[str, Scalar]
) -> tuple[WorkloadSpec, ...]:
    """The workloads of a comma-separated list; "all" = the origin's shapes, a tenth of them on CPU."""
    listed = names.split(",")
    if names == "all":
        shapes = CPU_SHAPES if small else ORIGIN_SHAPES
        listed = [*shapes[:-1], "sharegpt" if params.get("path") else shapes[-1]]
    specs = []
    for name in listed:
        shape = SHAPE.fullmatch(name)
        if shape:
            sizes: dict[str, Scalar] = {"input_len": int(shape[1]), "output_len": int(shape[2])}
            # A small trained model only has peaked logits, and realistic routing, on text like its own.
            kind = "text_tokens" if small else "random_tokens"
            specs.append(WorkloadSpec(name=kind, num_prompts=num_prompts, seed=seed, params=sizes | params))
            continue
        spec = WorkloadSpec(name=name, num_prompts=num_prompts, seed=seed, params=params)
        registry.workload(name).longest(spec)
        specs.append(spec)
    _refuse_made_equal(specs, params)
    return tuple(specs)


def _refuse_made_equal(specs: Sequence[WorkloadSpec], params: dict[str, Scalar]) -> None:
    """w.input_len= and w.output_len= over several shapes leave one, which would be measured several times."""
    equal = [spec for number, spec in enumerate(specs) if spec in specs[:number]]
    if equal and params:
        given = " and ".join(f"w.{name}=" for name in params)
        one = equal[0].params
        raise InputError(
            f"{given} hold for every workload and make {specs.count(equal[0])} of them the same "
            f"({equal[0].label}); name the one that is meant instead: {one['input_len']}/{one['output_len']}."
        )


def loads(pairs: dict[str, str], small: bool) -> tuple[Load, ...]:
    """Loads from rate=, concurrency= (both take comma lists) and friends, which are removed from `pairs`."""
    rates: list[float | None] = [_rate(r) for r in pairs.pop("rate", "").split(",") if r]
    levels: list[int | None] = [
        _number("concurrency", c, int) for c in pairs.pop("concurrency", "").split(",") if c
    ]
    shape = _shape(pairs)
    always = {"duration_s": _number("duration", pairs.pop("duration"), float)} if "duration" in pairs else {}
    if not rates and not levels and not shape:
        levels, rates = ([4], []) if small else ([], [10.0])
    if not rates and not shape:
        return tuple(Load(max_concurrency=level, **always) for level in levels)
    made = [
        {"request_rate": rate, "max_concurrency": level, "arrival": "poisson", **shape, **always}
        for rate in rates or [None]
        for level in levels or [None]
    ]
    return tuple(registry.convert(m, Load, "command line") for m in made)


def _shape(pairs: dict[str, str]) -> dict[str, Any]:
    """What makes a load an open one besides its rate; a parameter alone names the arrival it belongs to."""
    shape: dict[str, Any] = {}
    for key, arrival in (("burstiness", "gamma"), ("ramp_to", "ramp"), ("time_scale", "trace")):
        if key in pairs:
            shape |= {key: _number(key, pairs.pop(key), float), "arrival": arrival}
    if "stages" in pairs:
        shape |= {"stages": _stages(pairs.pop("stages")), "arrival": "stages"}
    return shape | {key: pairs.pop(key) for key in ("arrival", "search") if key in pairs}


def _stages(text: str) -> list[list[float]]:
    """DURATION_S:RATE pairs, comma-separated."""
    pairs = [stage.split(":") for stage in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f"stages={text} is not understood; give SECONDS:REQUESTS_PER_SECOND,... like 5:2,5:8."
        )
    return [[_number("stages", value, float) for value in pair] for pair in pairs]


def _rate(text: str) -> float:
    rate: float = _number("rate", text, float)
    if rate <= 0:
        raise InputError(f"rate={text} is not a rate; give requests per second above 0.")
    return rate


def _number(key: str, text: str, kind: Any) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        raise InputError(
            f"{key}={text} is not {'a whole' if kind is int else 'a'} number; correct it."
        ) from error
    if key in ("repeats", "num_prompts", "concurrency") and value < 1:
        raise InputError(f"{key}={text} is below 1; give 1 or more.")
    return value


def _scalar(text: str) -> Scalar:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text
