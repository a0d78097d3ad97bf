"""Collapse and gibberish in generated output, without any reference: what each output shows, and where.

A symptom alone is no verdict: small models and random prompts make healthy greedy output repeat itself too.
It counts against a variant when its outputs show it significantly more often than healthy output of the same
requests does (`excess`), and is an alarm with the offending text otherwise.
"""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from harness.escape import plain
from harness.schema import Noun, RequestRecord

WINDOW = 64
"""Tokens looked at together; a shorter output is one window."""
NGRAM = 3
REPEATED_SHARE = 0.6
"""A window whose 3-grams are repeats to this share has collapsed; prose stays under 0.2."""
UNREADABLE_SHARE = 0.03
INCOMPRESSIBLE = 0.8
"""zlib size / UTF-8 size above which 600 bytes and more are no language; prose lies near 0.5."""
DRIFT_SHARE = 0.5
"""Growth of a character class from the first to the last quarter that no ordinary text shows."""
SIGNIFICANCE = 1e-3
TELLING = 2.0
"""Times as often as in healthy output that a symptom must show to be an alarm."""
EXCERPT_LEN = 80

S = TypeVar("S", bound=Sequence[object])

NAN = "NaN logprobs"

CLASSES = ("letter", "digit", "space", "punctuation", "other")


class Symptom(Noun):
    """What one output shows."""

    kind: str
    request_id: str
    position: int
    """Output position it begins at: a token, or a character where the engine gave no ids."""
    excerpt: str
    """The offending text as the model wrote it: escape it wherever it is shown."""


def symptoms(record: RequestRecord) -> tuple[Symptom, ...]:
    """All symptoms of one successful output; () for a healthy or a failed one."""
    if record.error:
        return ()
    found = [
        (NAN, first_nan(record), None),
        ("repetition", *_repetition(record)),
        ("unreadable characters", *_unreadable(record.text)),
        ("incompressible text", *_incompressible(record.text)),
        ("character drift", *_drift(record.text)),
        ("no text", 0 if record.output_len and not record.text.strip() else None, None),
    ]
    return tuple(
        Symptom(
            kind=kind,
            request_id=record.request_id,
            position=position,
            excerpt=record.text[start if start is not None else 0 :][:EXCERPT_LEN],
        )
        for kind, position, start in found
        if position is not None
    )


def alarms(
    records: Sequence[RequestRecord],
    expected_len: dict[str, int] | None = None,
    healthy: Sequence[RequestRecord] = (),
) -> tuple[str, ...]:
    """One sentence per kind of symptom: how many outputs, from where on, and an excerpt.

    `expected_len`: request id -> tokens that had to come (ignore_eos), to find premature ends. A symptom that
    `healthy` output of the same requests shows at least half as often says nothing of an engine: left out.
    """
    done = [r for r in records if not r.error]
    by_kind: dict[str, list[Symptom]] = {}
    for symptom in (s for r in done for s in symptoms(r)):
        by_kind.setdefault(symptom.kind, []).append(symptom)
    theirs, num_theirs = _counts(healthy), sum(not r.error for r in healthy)
    sentences = [
        _sentence(kind, found, len(done))
        for kind, found in sorted(by_kind.items())
        if kind == NAN or TELLING * theirs[kind] * len(done) < len(found) * num_theirs or not num_theirs
    ]
    short = [r for r in done if r.output_len < (expected_len or {}).get(r.request_id, 0)]
    if short:
        reasons = Counter(r.finish_reason or "none" for r in short)
        mix = ", ".join(f"{reason} {num}" for reason, num in reasons.most_common())
        sentences.append(f"premature end in {len(short)} of {len(done)} outputs (finish reasons: {mix})")
    return tuple(sentences)


def excess(records: Sequence[RequestRecord], healthy: Sequence[RequestRecord]) -> tuple[str, ...]:
    """Symptoms that the outputs show more often than `healthy` ones, by a one-sided Fisher exact test.

    `healthy`: output of the same requests by the reference, or by the same variant at a load it passed.
    """
    ours, theirs = _counts(records), _counts(healthy)
    num_ours, num_theirs = (sum(not r.error for r in rs) for rs in (records, healthy))
    sentences = []
    for kind, count in sorted(ours.items()):
        table = [[count, num_ours - count], [theirs[kind], num_theirs - theirs[kind]]]
        if num_theirs and _p_value(table) < SIGNIFICANCE:
            sentences.append(
                f"{kind} in {count} of {num_ours} outputs, in {theirs[kind]} of {num_theirs} healthy ones"
            )
    return tuple(sentences)


def _p_value(table: list[list[int]]) -> float:
    from scipy.stats import fisher_exact  # half a second to import, and only symptoms need it

    return float(fisher_exact(table, alternative="greater").pvalue)


class Quarter(Noun):
    """Means over all outputs' n-th quarter: shows a collapse by position."""

    first_share: float
    """Where the quarter begins, as a share of the output."""
    repeated_share: float
    compression: float
    """zlib size / UTF-8 size."""
    classes: dict[str, float]


def by_position(records: Sequence[RequestRecord]) -> tuple[Quarter, ...]:
    """Four quarters of the successful outputs; () when there are none."""
    done = [r for r in records if not r.error and len(_tokens(r)) >= 4 * NGRAM]
    if not done:
        return ()
    result = []
    for n in range(4):
        pieces = [_slice(_tokens(r), n) for r in done]
        texts = [_slice(r.text, n) for r in done]
        joined = Counter("".join(map(_class_string, texts)))
        total = max(sum(joined.values()), 1)
        result.append(
            Quarter(
                first_share=n / 4,
                repeated_share=sum(map(_repeated_share, pieces)) / len(pieces),
                compression=sum(map(_compression, texts)) / len(texts),
                classes={c: joined[c[0]] / total for c in CLASSES},
            )
        )
    return tuple(result)


# --- one symptom each ----------------------------------------------------------------------------


def first_nan(record: RequestRecord) -> int | None:
    """Position of the first log-probability that is no number; None where all are."""
    return next((i for i, v in enumerate(record.output_logprobs or ()) if not math.isfinite(v)), None)


def _tokens(record: RequestRecord) -> Sequence[object]:
    """Token ids, or the characters of the text where the engine gave none."""
    return record.output_token_ids or record.text


def _repetition(record: RequestRecord) -> tuple[int | None, int | None]:
    """(position, start in the text) from which every window to the end is repeats."""
    tokens = _tokens(record)
    step = WINDOW // 2
    starts = range(0, max(len(tokens) - WINDOW, 0) + 1, step)
    onset = None
    for start in reversed(starts):
        window = tokens[start : start + WINDOW]
        if len(window) < WINDOW // 2 or _repeated_share(window) < REPEATED_SHARE:
            break
        onset = start
    if onset is None:
        return None, None
    return onset, round(onset / len(tokens) * len(record.text))


def _repeated_share(tokens: Sequence[object]) -> float:
    num = len(tokens) - NGRAM + 1
    grams = set(zip(*(tokens[start : start + num] for start in range(NGRAM)), strict=True)) if num > 0 else ()
    return 1 - len(grams) / num if num > 0 else 0.0


def _unreadable(text: str) -> tuple[int | None, int | None]:
    """First replacement, control, private or unassigned character, when they are more than a few."""
    marks = text.translate(_MARKS)
    if marks.count("x") < max(UNREADABLE_SHARE * len(text), 2):
        return None, None
    first = marks.index("x")
    return first, max(first - 10, 0)


def _mark(char: str) -> str:
    """x where the character is unreadable, else a dot."""
    known = char in "\t\n\r" or unicodedata.category(char) not in ("Cc", "Co", "Cn", "Cs")
    return "." if known and char != "\ufffd" else "x"


def _incompressible(text: str) -> tuple[int | None, int | None]:
    if len(text.encode("utf-8", "replace")) < 600 or _compression(text) < INCOMPRESSIBLE:
        return None, None
    return 0, 0


def _compression(text: str) -> float:
    data = text.encode("utf-8", "replace")
    return len(zlib.compress(data)) / len(data) if data else 0.0


def _drift(text: str) -> tuple[int | None, int | None]:
    """A class of characters that takes the last quarter over, compared with the first: digits, symbols ..."""
    if len(text) < 4 * WINDOW:
        return None, None
    first, last = (Counter(_class_string(_slice(text, n))) for n in (0, 3))
    grown = [c for c in "dpo" if (last[c] / last.total()) - (first[c] / first.total()) > DRIFT_SHARE]
    if not grown:
        return None, None
    classes = _class_string(text)
    begin = next(
        (
            i
            for i in range(0, len(text) - WINDOW, WINDOW // 4)
            if classes[i : i + WINDOW].count(grown[0]) > DRIFT_SHARE * WINDOW
        ),
        3 * len(text) // 4,
    )
    return begin, begin


def _class_string(text: str) -> str:
    """One letter per character: l(etter) d(igit) s(pace) p(unctuation) o(ther)."""
    return text.translate(_CLASS_OF)


def _class(char: str) -> str:
    if char.isascii():
        return "l" if char.isalpha() else "d" if char.isdigit() else "s" if char.isspace() else "p"
    major = unicodedata.category(char)[0]
    return {"L": "l", "M": "l", "N": "d", "Z": "s", "P": "p"}.get(major, "o")


class _Table(dict[int, str]):
    """For str.translate: what a function says of a character, asked once per character."""

    def __init__(self, of: Callable[[str], str]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, code: int) -> str:
        self[code] = self._of(chr(code))
        return self[code]


_MARKS, _CLASS_OF = _Table(_mark), _Table(_class)


def _slice(sequence: S, n: int) -> S:
    """The n-th quarter."""
    size = len(sequence)
    return cast(S, sequence[n * size // 4 : (n + 1) * size // 4])


# --- words ---------------------------------------------------------------------------------------


def _counts(records: Sequence[RequestRecord]) -> Counter[str]:
    """Kind of symptom -> number of outputs that show it."""
    return Counter(s.kind for r in records for s in symptoms(r))


def _sentence(kind: str, found: Sequence[Symptom], num_outputs: int) -> str:
    first = min(found, key=lambda s: s.position)
    return (
        f"{kind} in {len(found)} of {num_outputs} outputs (earliest: {first.request_id} from position "
        f"{first.position}: “{plain(first.excerpt, EXCERPT_LEN)}”)"
    )
