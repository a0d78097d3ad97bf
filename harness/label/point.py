"""Points of a declared space: `llamacpp~slots=8~kv=f16` is `llamacpp` with two settings changed. Pure.

A space is a file beside an engine's variants, engines/<engine>.space.toml: one table per setting, which says
the values that may be tried and how each is told to the engine. A point's name holds its settings, so every
trial of a search can be planned, resumed, replayed and compared by name alone. `BASE~default` leaves every
setting of the space to the engine itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from harness.errors import InputError
from harness.schema import Accelerator, Noun, Parallel, Scalar, Variant

MARK = "~"
DEFAULT = "default"
UNSET = "unset"
"""The value of a setting that nobody gives: the engine's own default holds."""
_NAMEABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
_SIZES = {"tp": "tensor", "pp": "pipeline", "dp": "data", "ep": "expert", "adp": "attention_data"}

Point = dict[str, str]
"""Setting -> value, as names spell it."""


class Setting(Noun):
    """One table of a space. Values are tried in their order; numbers in rising order are taken as ordered."""

    values: tuple[Scalar, ...]
    default: Scalar = UNSET
    """What it is where nobody says; "unset" unless this project's own file stands before the engine."""
    about: str = ""
    flag: str = ""
    """Engine argument. true: the flag alone; false: `off`, or nothing; "unset": neither."""
    off: str = ""
    """Argument that says the opposite of a flag."""
    env: str = ""
    """Variable that it is told with instead."""
    option: str = ""
    """Key of the variant's options that it is instead."""
    args: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Value -> all arguments that say it, where one flag does not."""
    layout: bool = False
    """Values are sizes of the label, N = the variant's GPUs: tpN, dpN-epN."""
    shows: str = ""
    """Field of Effective in which a running engine shows it: then part of what the label claims."""
    frees: tuple[str, ...] = ()
    """Fields that the label claims no longer once this is set: they follow from several settings."""
    shown: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Value -> what the field says, where that is another word."""
    accelerators: tuple[Accelerator, ...] = ()
    """Where it means anything; () = everywhere."""

    @property
    def words(self) -> tuple[str, ...]:
        """Its values as names spell them."""
        return tuple(spelled(value) for value in self.values)

    @property
    def ordered(self) -> bool:
        """Whether its values (but "unset") are rising numbers."""
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len([v for v in self.values if v != UNSET]) and numbers == sorted(numbers)

    @property
    def flags(self) -> tuple[str, ...]:
        """Every argument that speaks of it."""
        told = (self.flag, self.off, *(words[0] for words in self.args.values() if words))
        return tuple(dict.fromkeys(filter(None, told)))


Space = dict[str, Setting]


def spelled(value: Scalar) -> str:
    """A value as a point's name has it."""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def is_point(name: str) -> bool:
    """Whether a variant's name is one of a point."""
    return MARK in name


def name(base: str, point: Mapping[str, str]) -> str:
    """The name of a point; the base's own where nothing is changed."""
    return MARK.join((base, *(f"{key}={value}" for key, value in point.items())))


def default(base: str) -> str:
    """The name of the variant as its engine comes."""
    return f"{base}{MARK}{DEFAULT}"


def parse(text: str) -> tuple[str, Point | None]:
    """(base, settings) of a point's name; None for settings = the engine's own defaults.

    Raises InputError for a setting without a value.
    """
    base, *words = text.split(MARK)
    if words == [DEFAULT]:
        return base, None
    for word in words:
        if "=" not in word:
            raise InputError(f"{text}: {word!r} has no value; write {MARK}{word}=VALUE or {MARK}{DEFAULT}.")
    return base, {key: value for key, _, value in (word.partition("=") for word in words)}


def read(tables: Mapping[str, object], where: str) -> Space:
    """The space of a file. Raises InputError for a table that is none, or says nothing."""
    space: Space = {}
    for key, table in tables.items():
        try:
            space[key] = setting = msgspec.convert(table, Setting)
        except msgspec.ValidationError as error:
            raise InputError(f"{where} [{key}]: {error}; correct that field.") from error
        bad = [w for w in (key, *setting.words) if not w or set(w) - _NAMEABLE]
        if bad:
            raise InputError(
                f"{where} [{key}]: {bad[0]!r} cannot stand in a name; use letters, digits, '.+-_'."
            )
        ways = [
            bool(way) for way in (setting.flag, setting.env, setting.option, setting.args, setting.layout)
        ]
        if sum(ways) != 1:
            raise InputError(f"{where} [{key}]: say it in one way: flag, env, option, args or layout.")
    return space


def of(space: Space, variant: Variant) -> Space:
    """The settings that mean something to this variant: those for its accelerator."""
    return {
        key: setting
        for key, setting in space.items()
        if not setting.accelerators or variant.accelerator in setting.accelerators
    }


def current(variant: Variant, space: Space) -> Point:
    """What the variant says of every setting now; a value of its own, outside the space, too."""
    return {key: _current(variant, setting) for key, setting in of(space, variant).items()}


def _current(variant: Variant, setting: Setting) -> str:
    if setting.env:
        return variant.env.get(setting.env, UNSET)
    if setting.option:
        return spelled(variant.options.get(setting.option, UNSET))
    if setting.layout:
        sizes = {short: getattr(variant.parallel, size) for short, size in _SIZES.items()}
        num = variant.parallel.num_gpus
        words = [f"{k}{'N' if v == num else v}" for k, v in sizes.items() if v > 1]
        return "-".join(words) or "tpN"
    for word, args in setting.args.items():
        if args and _at(variant.args, args) is not None:
            return word
    switch = any(isinstance(value, bool) for value in setting.values)
    for at, argument in enumerate(variant.args):
        if argument == setting.flag:
            return "true" if switch else variant.args[at + 1]
        if setting.flag and argument.startswith(f"{setting.flag}="):
            return argument.partition("=")[2]
        if argument == setting.off and setting.off:
            return "false"
    return UNSET if setting.off or not switch else "false"


def applied(variant: Variant, space: Space, point: Point | None) -> Variant:
    """The variant at a point; None = with every setting left to the engine.

    Raises InputError for a setting that the space does not have, or a value that it does not list.
    """
    known = of(space, variant)
    chosen = point
    if chosen is None:
        chosen = {key: spelled(setting.default) for key, setting in known.items() if not setting.layout}
    for key, word in chosen.items():
        if key not in known:
            raise InputError(
                f"The space of {variant.engine} has no {key!r} for {variant.name}; "
                f"it has {', '.join(known) or 'nothing'}."
            )
        if point is not None and word not in known[key].words:
            raise InputError(
                f"{key} is tried at {', '.join(known[key].words)} by {variant.engine}, not {word}."
            )
    found = variant
    for key, word in chosen.items():
        found = _set(found, known[key], word)
    return msgspec.structs.replace(
        found,
        name=default(variant.name) if point is None else name(variant.name, chosen),
        source=f"{variant.source}; " + ("as the engine comes" if point is None else f"with {text(chosen)}"),
        slot="default" if point is None else "",
        in_bench_all=False,
    )


def text(point: Mapping[str, str]) -> str:
    """A point in words: "slots 8, kv f16"."""
    return ", ".join(f"{key} {value}" for key, value in point.items()) or "nothing changed"


def _set(variant: Variant, setting: Setting, word: str) -> Variant:
    variant = _claimed(variant, setting, word)
    if setting.layout:
        return _laid_out(variant, word)
    if setting.env:
        rest = {k: v for k, v in variant.env.items() if k != setting.env}
        return msgspec.structs.replace(variant, env=rest if word == UNSET else {**rest, setting.env: word})
    if setting.option:
        rest = {k: v for k, v in variant.options.items() if k != setting.option}
        value = dict(zip(setting.words, setting.values, strict=True)).get(word)
        options = rest if word == UNSET else {**rest, setting.option: value}
        return msgspec.structs.replace(variant, options=options)
    return msgspec.structs.replace(
        variant, args=(*_without(variant.args, setting), *_arguments(setting, word))
    )


def _arguments(setting: Setting, word: str) -> tuple[str, ...]:
    if word == UNSET:
        return ()
    if setting.args:
        return setting.args[word]
    switch = any(isinstance(value, bool) for value in setting.values)
    if not switch:
        return (setting.flag, word)
    return (setting.flag,) if word == "true" else tuple(filter(None, (setting.off,)))


def _without(args: Sequence[str], setting: Setting) -> tuple[str, ...]:
    """The arguments without whatever speaks of the setting, its value included."""
    for words in setting.args.values():
        at = _at(args, words)
        if words and at is not None:
            args = (*args[:at], *args[at + len(words) :])
    kept: list[str] = []
    skip = False
    for at, argument in enumerate(args):
        if skip:
            skip = False
            continue
        head = argument.partition("=")[0]
        if head not in setting.flags:
            kept.append(argument)
            continue
        following = args[at + 1] if at + 1 < len(args) else "--"
        skip = "=" not in argument and not following.startswith("--")
    return tuple(kept)


def _at(args: Sequence[str], words: Sequence[str]) -> int | None:
    """Where these words stand one after the other."""
    starts = range(len(args) - len(words) + 1)
    return next((i for i in starts if tuple(args[i : i + len(words)]) == tuple(words)), None)


def _claimed(variant: Variant, setting: Setting, word: str) -> Variant:
    """With what the label claims of it: the value, or nothing where the engine chooses."""
    expect = {k: v for k, v in variant.expect.items() if k not in (setting.shows, *setting.frees)}
    if not setting.shows:
        return msgspec.structs.replace(variant, expect=expect)
    values = dict(zip(setting.words, setting.values, strict=True))
    if word != UNSET:
        expect[setting.shows] = setting.shown.get(word, values[word])
    reasons = {**variant.reasons, setting.shows: "a setting of the space that is searched"}
    return msgspec.structs.replace(variant, expect=expect, reasons=reasons)


def _laid_out(variant: Variant, word: str) -> Variant:
    """With other parallel sizes on as many GPUs. Raises InputError for a word that is no layout."""
    num, sizes = variant.parallel.num_gpus, {}
    for part in word.split("-"):
        short = part.rstrip("N0123456789")
        if short not in _SIZES or short == part:
            raise InputError(f"{word!r} is no layout; write sizes like tpN or dpN-epN.")
        sizes[_SIZES[short]] = num if part.endswith("N") else int(part[len(short) :])
    parallel = Parallel(**sizes)
    if parallel.num_gpus != num:
        raise InputError(f"{word} takes {parallel.num_gpus} GPUs, {variant.name} has {num}.")
    claims: dict[Literal["tensor", "data", "pipeline", "expert"], str] = {
        "tensor": "tensor_parallel_size",
        "data": "data_parallel_size",
        "pipeline": "pipeline_parallel_size",
        "expert": "expert_parallel_size",
    }
    changed = {field: getattr(parallel, size) for size, field in claims.items() if field in variant.expect}
    return msgspec.structs.replace(variant, parallel=parallel, expect={**variant.expect, **changed})
