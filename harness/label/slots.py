"""Default, vendor, tuned: whose choice each is, the best of each engine, which flags differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness import registry
from harness.label import point
from harness.schema import Launch, Row

SLOTS = ("default", "vendor", "tuned")
_PLACES = ("--port", "--host")


def slot_of(name: str, tuning: str = "") -> str:
    """The slot of a variant; "" for this project's own. In a campaign's proof every other point is tuned."""
    known = registry.known_variant(name)
    if known and known.slot:
        return known.slot
    return "tuned" if tuning == "proof" and (point.is_point(name) or known) else ""


def remarks(rows: Sequence[Row], launches: Mapping[str, Launch], tuning: str = "") -> tuple[str, ...]:
    """A line for each engine's slots at each scenario, one for each scenario's best, and the flags.

    () where fewer than two slots are filled: nothing is claimed of them.
    """
    slots = {row.variant: slot_of(row.variant, tuning) for row in rows}
    if len({slot for slot in slots.values() if slot}) < 2:
        return ()
    lines: list[str] = []
    for scenario in dict.fromkeys(row.scenario for row in rows):
        there = [row for row in rows if row.scenario == scenario and row.variant in launches]
        engines = dict.fromkeys(launches[row.variant].engine for row in there)
        for engine in engines:
            mine = [row for row in there if launches[row.variant].engine == engine]
            said = (f"{slot}: {_filled(mine, slots, slot)}" for slot in SLOTS)
            lines.append(f"slots of {engine} at {scenario}: {'; '.join(said)}")
        best = [_best([r for r in there if launches[r.variant].engine == engine]) for engine in engines]
        ranked = sorted((row for row in best if row), key=_rate, reverse=True)
        if len(ranked) > 1:
            named = (f"{n}. {row.variant} {_rate(row):.4g}" for n, row in enumerate(ranked, 1))
            lines.append(f"best of each engine at {scenario}, output tok/s: {', '.join(named)}")
    return (*lines, *_flags(slots, launches))


def _filled(rows: Sequence[Row], slots: Mapping[str, str], slot: str) -> str:
    mine = [row for row in rows if slots[row.variant] == slot]
    said = [f"{r.variant} {_rate(r):.4g} tok/s" if r.rankable else f"{r.variant} not ranked" for r in mine]
    return ", ".join(said) or "none was given"


def _best(rows: Sequence[Row]) -> Row | None:
    return max((row for row in rows if row.rankable), key=_rate, default=None)


def _rate(row: Row) -> float:
    return row.output_throughput.mean / max(1, row.num_gpus) if row.output_throughput else 0.0


def _flags(slots: Mapping[str, str], launches: Mapping[str, Launch]) -> tuple[str, ...]:
    """What each filled slot is started with otherwise than its engine's default."""
    lines = []
    for name, slot in slots.items():
        if slot not in SLOTS[1:] or name not in launches:
            continue
        mine = launches[name]
        usual = next((n for n, s in slots.items() if s == "default" and n in launches
                      and launches[n].engine == mine.engine), "")  # fmt: skip
        if usual:
            lines.append(f"{name} differs from {usual} in {differences(mine, launches[usual]) or 'nothing'}")
    return tuple(lines)


def differences(one: Launch, other: Launch) -> str:
    """Flags and variables that two launches do not share, in words."""
    found = []
    for mine, usual in ((_settings(one.argv), _settings(other.argv)), (dict(one.env), dict(other.env))):
        for key in dict.fromkeys([*mine, *usual]):
            if mine.get(key) != usual.get(key):
                found.append(f"{_words(key, mine)} (default: {_words(key, usual)})")
    return ", ".join(found)


def _words(key: str, said: Mapping[str, str]) -> str:
    return f"{key} {said[key]}".rstrip() if key in said else f"no {key}"


def _settings(argv: Sequence[str]) -> dict[str, str]:
    """Flag -> its values; where it listens is no setting."""
    found: dict[str, str] = {}
    flag = ""
    for word in argv:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            found[flag] = value
        elif flag:
            found[flag] = f"{found[flag]} {word}".strip()
    return {flag: value for flag, value in found.items() if flag not in _PLACES}
