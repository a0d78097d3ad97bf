"""`just trace FILE`: reads a VLLM_MORI_TRACE log (steps 1 to 11, rank 0), names the first wrong step.

The rules are those of the MORI EP + AITER debug notes, with two misreadings put right: the 65536 rows after
receive are the receive buffer (ranks x tokens), not tokens x top-k, and a rank's AITER output is naturally
smaller than its input, since most of a token's experts live elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.ep.reference_tables import expected_ranks
from harness.errors import InputError
from harness.escape import plain
from harness.schema import Noun

STEPS = 11
_STEP = re.compile(r"\bSTEP\s*(\d+)\s*[:.\-]?\s*(.*)", re.IGNORECASE)
_SHAPE = re.compile(r"shape\s*[=:]\s*(?:torch\.Size\()?[\[(]([\d, ]*)[\])]", re.IGNORECASE)
_VALUE = re.compile(r"\b([A-Za-z_]\w*)\s*[=:]\s*(-?(?:nan|inf|\d+(?:\.\d*)?(?:e[+-]?\d+)?))\b", re.IGNORECASE)
_FAULT = re.compile(
    r"memory access fault|illegal memory access|HIP error|core dumped|Traceback", re.IGNORECASE
)


@dataclass(frozen=True)
class Step:
    """One traced tensor."""

    number: int
    name: str
    shape: tuple[int, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    """min, max, mean, std, nan, ids_min ... as printed."""

    @property
    def rows(self) -> int:
        """First dimension; 0 = not printed."""
        return self.shape[0] if self.shape else 0

    @property
    def std(self) -> float | None:
        """Standard deviation, None = not printed."""
        return self.values.get("std")


@dataclass(frozen=True)
class Setting:
    """What the server was started with; the notes' own by default."""

    ranks: int = 8
    num_experts: int = 256
    top_k: int = 8

    @property
    def touch(self) -> float:
        """Chance that a token has an expert on a given rank, under uniform routing."""
        return expected_ranks(self.num_experts, self.top_k, self.ranks) / self.ranks


class TraceFinding(Noun):
    """One value in a VLLM_MORI_TRACE log that breaks a rule."""

    step: int
    name: str
    words: str


Steps = Mapping[int, Step]
Rule = Callable[[Steps, Setting], tuple[int, str] | bool]
"""A broken rule's step and words; True = it holds, False = the trace does not show what it needs."""
BROKEN, UNSEEN = 1, 4
"""Exit statuses: a rule is broken; no rule could be checked."""


def run(file: str, ranks: int = 8, experts: int = 256, top_k: int = 8) -> tuple[str, int]:
    """(text to print, exit status) for a trace file. Raises InputError."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no file {path}: give the log of a server started with VLLM_MORI_TRACE=1.")
    if ranks < 1 or experts % ranks or top_k > experts:
        raise InputError(
            f"{experts} experts, {ranks} ranks, top-{top_k} do not fit together: see experts=, ranks=."
        )
    lines = path.read_text(errors="replace").splitlines()
    passes = parse(lines)
    if not passes:
        raise InputError(
            f"{path} has no line with STEP 1 to 11: was the server started with VLLM_MORI_TRACE=1?"
        )
    setting = Setting(ranks, experts, top_k)
    crash = next((line for line in lines if _FAULT.search(line)), "")
    found = [(number, steps, diagnose(steps, setting)) for number, steps in enumerate(passes)]
    number, steps, findings = next((each for each in found if each[2]), found[0])
    text = as_text(steps, findings, setting, (number, len(passes), crash))
    return text, BROKEN if findings or crash else 0 if seen(steps, setting) else UNSEEN


def parse(lines: Sequence[str]) -> tuple[dict[int, Step], ...]:
    """Forward passes of a trace; statistics may stand on the step's line or on those below it."""
    passes: list[dict[int, Step]] = []
    last = 0
    for line in lines:
        match = _STEP.search(line)
        if match and 1 <= int(match[1]) <= STEPS:
            number = int(match[1])
            if not passes or number <= last:
                passes.append({})
            passes[-1][number] = _merge(Step(number, _name(match[2])), match[2])
            last = number
        elif passes and last in passes[-1] and (_SHAPE.search(line) or _VALUE.search(line)):
            passes[-1][last] = _merge(passes[-1][last], line)
    return tuple(passes)


def diagnose(steps: Steps, setting: Setting) -> tuple[TraceFinding, ...]:
    """Every broken rule, earliest step first; empty = nothing the notes' rules can see."""
    broken = [result for _, rule in RULES if isinstance(result := rule(steps, setting), tuple)]
    if seen(steps, setting):  # of names alone nothing says that a later step should follow
        broken += [_cut(steps)] if max(steps) < STEPS else []
    broken += [
        _not_finite(step) for step in steps.values() if step.values.get("nan") or step.values.get("inf")
    ]
    return tuple(
        TraceFinding(step=number, name=steps[number].name if number in steps else "", words=words)
        for number, words in sorted(broken)
    )


def seen(steps: Steps, setting: Setting) -> tuple[str, ...]:
    """Names of the rules that the trace shows enough for."""
    return tuple(name for name, rule in RULES if rule(steps, setting) is not False)


def as_text(
    steps: Steps, findings: Sequence[TraceFinding], setting: Setting, about: tuple[int, int, str]
) -> str:
    """The steps with their shapes and statistics, then what is wrong."""
    number, num_passes, crash = about
    lines = [f"pass {number + 1} of {num_passes}, {setting.ranks} ranks", _HEADER]
    lines += [_row(steps[n]) if n in steps else f"{n:>4}  (not in the trace)" for n in range(1, STEPS + 1)]
    if crash:
        lines.append(f"the log also says: {plain(crash)}")
    checked = seen(steps, setting)
    unseen = [name for name, _ in RULES if name not in checked]
    if not checked:
        lines.append(
            "nothing could be checked: the trace shows no shapes and no statistics; log shape=, min=, max=, "
            "mean=, std= of each step"
        )
    elif not findings:
        lines.append(
            f"of the rules that could be checked ({', '.join(checked)}) none is broken; wrong experts of the "
            "right size (w1[1] for all) cannot be seen in a trace"
        )
    if checked and unseen:
        lines.append(f"not checked, the trace lacks their numbers: {', '.join(unseen)}")
    for index, found in enumerate(findings):
        lead = "first wrong step" if index == 0 else "then"
        lines.append(f"{lead}: STEP {found.step} {plain(found.name)}: {found.words}")
    return "\n".join(lines)


_HEADER = f"step  {'name':<28}{'shape':<20}{'min':>10}{'max':>10}{'mean':>11}{'std':>10}"


def _row(step: Step) -> str:
    def cell(name: str) -> str:
        value = step.values.get(name)
        return "-" if value is None else f"{value:.4g}"

    shape = "x".join(map(str, step.shape)) or "-"
    numbers = f"{cell('min'):>10}{cell('max'):>10}{cell('mean'):>11}{cell('std'):>10}"
    return f"{step.number:>4}  {plain(step.name, 26):<28}{shape:<20}{numbers}"


def _name(text: str) -> str:
    return re.split(r"\s+\w+\s*[=:]|\s*[:(]\s*(?:shape|torch)", text, maxsplit=1)[0].strip(" :-")


def _merge(step: Step, text: str) -> Step:
    shape = _SHAPE.search(text)
    values = {name.lower(): float(value) for name, value in _VALUE.findall(text) if name.lower() != "shape"}
    dims = tuple(int(d) for d in shape[1].split(",") if d.strip()) if shape else step.shape
    return Step(step.number, step.name, dims, {**step.values, **values})


def _not_finite(step: Step) -> tuple[int, str]:
    return step.number, "holds NaN or Inf values: the step before it is still finite, look here"


def _ratio(steps: Steps, number: int, before: int) -> float | None:
    if number not in steps or before not in steps:
        return None
    this, last = steps[number].std, steps[before].std
    return None if this is None or not last else this / last


def _input(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    std = steps[1].std if 1 in steps else None
    if std is None:
        return False
    if 0.005 <= std <= 5:
        return True
    return (
        1,
        f"std {std:.3g} of the dispatch input is far from the usual 0.1: the error lies before the MoE layer",
    )


def _received(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    sent, got = (steps[n].rows if n in steps else 0 for n in (1, 2))
    if sent and got > setting.ranks * sent:
        return 2, f"{got} rows exceed the receive limit {setting.ranks} x {sent}: is the group larger?"
    ratio = _ratio(steps, 2, 1)
    if ratio is not None and not 0.15 <= ratio <= 3:
        return 2, f"std changed {ratio:.3g}-fold in transit: dispatch delivered other bytes than were sent"
    return ratio is not None or bool(sent and got)


def _deduplicated(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    tokens, unique = (steps[n].rows if n in steps else 0 for n in (1, 3))
    if not tokens or not unique:
        return False
    if unique > tokens:
        return 3, (
            f"{unique} tokens remain of {tokens} that exist: replicas under tensor parallelism have "
            "different source positions, deduplication by position removes none"
        )
    least = setting.touch * tokens
    if unique < 0.6 * least:
        return 3, (
            f"only {unique} tokens remain where about {least:.0f} have an expert on this rank: different "
            "tokens with equal expert ids were merged (or routing is very skewed)"
        )
    return True


def _to_experts(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    least = steps[4].values.get("ids_min") if 4 in steps else None
    if least is None:
        return False
    if least >= 0:
        return True
    return (
        4,
        "expert ids hold -1: AITER uses them as addresses and faults; it wants a 0/1 mask and global ids",
    )


def _experts(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    ratio = _ratio(steps, 5, 4) if 4 in steps else _ratio(steps, 5, 3)
    if ratio is None:
        return False
    if 0.02 <= ratio <= 50:
        return True
    why = "every expert was masked out" if ratio == 0 else "AITER read wrong experts or weights"
    return 5, f"std of the AITER output is {ratio:.3g} times that of its input: {why}"


def _after(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    ratios = {number: _ratio(steps, number, number - 1) for number in range(6, 11)}
    for number, ratio in ratios.items():
        if ratio is not None and not 0.2 <= ratio <= 5:
            return (
                number,
                f"std changed {ratio:.3g}-fold against step {number - 1}: rows were lost or added twice",
            )
    return any(ratio is not None for ratio in ratios.values())


def _final(steps: Steps, setting: Setting) -> tuple[int, str] | bool:
    ratio = _ratio(steps, 11, 10)
    if ratio is None:
        return False
    if 0.5 <= ratio <= 2:
        return True
    if abs(ratio - setting.ranks) < 0.1 * setting.ranks:
        return (
            11,
            f"the output is {setting.ranks} times too large: an all-reduce added the results of all replicas",
        )
    return 11, f"std changed {ratio:.3g}-fold in the last step"


def _cut(steps: Steps) -> tuple[int, str]:
    return max(steps), "is the last one in the trace: the process died or hung in what follows"


RULES: tuple[tuple[str, Rule], ...] = (
    ("input", _input),
    ("transit", _received),
    ("deduplication", _deduplicated),
    ("expert ids", _to_experts),
    ("experts' output", _experts),
    ("weights to combine", _after),
    ("final output", _final),
)
