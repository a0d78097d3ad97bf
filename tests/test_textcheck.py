"""Symptoms in text: real prose shows none, each known kind of garbage shows its own."""

from __future__ import annotations

import argparse
import json
import logging
import random
import string
import textwrap
import types
from pathlib import Path

import msgspec
import pytest

from harness.correctness import textcheck
from harness.schema import RequestRecord

MODULES: tuple[types.ModuleType, ...] = (argparse, json, logging, textwrap, string)


def record(text: str, ids: tuple[int, ...] | None = None, **fields: object) -> RequestRecord:
    return RequestRecord(
        request_id="r1", text=text, output_token_ids=ids, output_len=len(ids or text), **fields
    )  # type: ignore[arg-type]


def kinds(text: str) -> list[str]:
    return [s.kind for s in textcheck.symptoms(record(text))]


def noise(length: int) -> str:
    draw = random.Random(0)
    return "".join(draw.choice(string.printable[:94] + "äöüßéç") for _ in range(length))


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_prose_and_code_have_no_symptom(module: types.ModuleType) -> None:
    assert kinds(module.__doc__ or "") == []
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    for start in range(0, min(len(source), 30000), 3000):
        assert kinds(source[start : start + 3000]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{json.__doc__}{'and so on, ' * 60}", "repetition"),
        ((logging.__doc__ or "")[:200] + "\ufffd\x00" * 20, "unreadable characters"),
        (noise(2000), "incompressible text"),
        (
            (argparse.__doc__ or "")[:500] + "".join(str(i * 7919 % 9973) for i in range(700)),
            "character drift",
        ),
        ("   \n ", "no text"),
    ],
)
def test_each_garbage_shows_its_symptom(text: str, kind: str) -> None:
    assert kind in kinds(text)


def test_the_position_of_a_collapse_is_in_tokens_and_its_text_is_shown() -> None:
    ids = (*range(1000, 1320), *[7, 8, 9] * 60)
    text = "".join(f"<{i}>" for i in ids)
    (symptom,) = textcheck.symptoms(record(text, ids))
    assert symptom.kind == "repetition"
    assert 256 <= symptom.position <= 352
    assert "<7><8><9>" in text[text.index(symptom.excerpt) :][:400]


def test_a_repetition_that_ends_is_no_collapse() -> None:
    ids = (*[7, 8, 9] * 60, *range(1000, 1320))
    assert textcheck.symptoms(record("x" * 10, ids)) == ()


def test_alarms_escape_model_output_and_count_outputs() -> None:
    bad = record("<script>\x1b[31m" + "\ufffd\ue000" * 4)
    (alarm,) = textcheck.alarms([bad, record(json.__doc__ or "")])
    assert alarm.startswith("unreadable characters in 1 of 2 outputs (earliest: r1 from position 8")
    assert "\x1b" not in alarm


def test_premature_ends_are_counted_with_their_finish_reasons() -> None:
    stopped = record("a b c", (1, 2, 3), finish_reason="stop")
    (alarm,) = textcheck.alarms([stopped, stopped], {"r1": 64})
    assert alarm == "premature end in 2 of 2 outputs (finish reasons: stop 2)"


def test_an_alarm_tells_what_the_references_own_text_does_not() -> None:
    loop, fine = record("no no " * 99), record(json.__doc__ or "")
    few, some = [loop, *[fine] * 11], [*[loop] * 4, *[fine] * 8]
    assert textcheck.alarms(some, healthy=some) == textcheck.alarms(few, healthy=some) == ()
    assert textcheck.alarms(some, healthy=few)[0].startswith("repetition in 4 of 12 outputs")
    assert len(textcheck.alarms(few, healthy=[fine] * 12)) == 1
    nan = msgspec.structs.replace(fine, output_logprobs=(float("nan"),))
    assert textcheck.alarms([nan], healthy=[nan])[0].startswith("NaN logprobs in 1 of 1")


def test_failed_requests_have_no_symptoms() -> None:
    assert textcheck.symptoms(record("\ufffd" * 99, error="reset")) == ()


def test_excess_is_relative_to_healthy_output() -> None:
    loop, fine = record("no no " * 99), record(json.__doc__ or "")
    assert textcheck.excess([loop] * 16, [fine] * 16) == (
        "repetition in 16 of 16 outputs, in 0 of 16 healthy ones",
    )
    assert textcheck.excess([loop] * 16, [loop] * 15 + [fine]) == ()
    assert textcheck.excess([loop] + [fine] * 15, [fine] * 16) == ()
    assert textcheck.excess([loop] * 16, []) == ()


def test_quarters_show_where_text_turns_into_digits() -> None:
    text = (argparse.__doc__ or "")[:600] + "".join(str(i * 7919 % 9973) for i in range(150))
    quarters = textcheck.by_position([record(text), record("", error="reset")])
    assert [q.first_share for q in quarters] == [0.0, 0.25, 0.5, 0.75]
    assert quarters[0].classes["digit"] < 0.05
    assert quarters[3].classes["digit"] == 1.0
    assert textcheck.by_position([]) == ()


def test_the_excerpt_of_a_drift_shows_what_took_over() -> None:
    text = (argparse.__doc__ or "")[:1000] + "".join(str(i * 7919 % 9973) for i in range(400))
    (found,) = [s for s in textcheck.symptoms(record(text)) if s.kind == "character drift"]
    assert 940 <= found.position <= 1000
    assert sum(c.isdigit() for c in found.excerpt) > 30
